import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsec.attacks.inversion.linear_model import (
    LinearModelInversion,
    linear_model_input,
    mean_residual,
    softmax_input,
    squared_length,
)
from fedsec.data.embedded import HeightWeight
from fedsec.data.examples import DatasetInfo, Examples
from fedsec.federation.training import LocalTraining
from fedsec.judges.reconstruction import ReconstructionJudge
from fedsec.models.flat import FlatModel
from fedsec.protocol.events import Topic
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.view import Seen, View
from fedsec.randomness import generator

THREAT = LinearModelInversion.threat
TABLE = DatasetInfo(
    name="table",
    summary="Rows of numbers",
    task="regression",
    input_shape=(6,),
    classes=(),
    bounds=(0.0, 1.0),
    modality="tabular",
    public=True,
)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([torch.float32, torch.float64]))
def test_the_closed_form_has_the_example_among_its_roots(seed, dtype):
    draw = generator(seed, "linear")
    x, w = torch.randn(2, 6, generator=draw, dtype=torch.float64).to(dtype)
    y, offset = 0.7, 0.2
    gradient = (x @ w + offset - y) * x
    found = linear_model_input(gradient, w, offset, y)
    residual = float((x.double() @ w.double() + offset - y).abs())
    # near a double root the length is worse conditioned than the gradient
    well = residual > 0.2 and abs(float(2 * x.double() @ w.double() + offset - y)) > 0.2
    if well:
        error = min(float((one - x).norm() / x.norm()) for one in found)
        assert error < (1e-5 if dtype == torch.float32 else 1e-12)


def test_no_gradient_and_no_real_root_give_no_example():
    w = torch.ones(3)
    assert linear_model_input(torch.zeros(3), w, 0.0, 1.0) == ()
    assert linear_model_input(-torch.ones(3), w, 0.0, 1e-3) == ()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(2, 4))
def test_two_models_give_the_length_whatever_the_steps(seed, steps, rounds):
    """Against local training done one step after another."""
    draw = generator(seed, "rounds")
    x, y, rate = torch.rand(5, generator=draw, dtype=torch.float64), 1.3, 0.05
    models = torch.randn(rounds, 5, generator=draw, dtype=torch.float64)
    lengths, slopes, unit = [], [], x / x.norm()
    for w in models:
        now, residuals = w.clone(), []
        for _ in range(steps):
            residuals.append(float(now @ x - y))
            now = now - rate * residuals[-1] * x
        assert mean_residual(residuals[0], float(x @ x), rate=rate, steps=steps) == pytest.approx(
            sum(residuals) / steps
        )
        lengths.append((w - now) @ unit / (rate * steps))
        slopes.append(w @ unit)
    slopes = torch.stack(slopes)
    if float(slopes.std()) > 0.05:
        found = squared_length(torch.stack(lengths), slopes, rate=rate, steps=steps)
        assert found == pytest.approx(float(x @ x), rel=1e-9)


def test_one_model_seen_twice_gives_no_length():
    assert squared_length(torch.tensor([1.0, 1.0]), torch.tensor([0.5, 0.5]), rate=0.1, steps=1) is None


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(3, 10), st.floats(1e-3, 1e3))
def test_softmax_rows_give_the_length_at_any_scale(seed, classes, scale):
    draw = generator(seed, "softmax")
    x = torch.rand(8, generator=draw, dtype=torch.float64)
    w = torch.randn(classes, 8, generator=draw, dtype=torch.float64)
    y = int(torch.randint(classes, (1,), generator=draw))
    delta = (w @ x).softmax(0)
    delta[y] -= 1
    found, label = softmax_input(scale * torch.outer(delta, x), w)
    assert label == y
    assert torch.allclose(found, x, rtol=1e-6)


def test_two_classes_leave_the_length_open():
    delta = torch.tensor([0.4, -0.4])
    assert softmax_input(torch.outer(delta, torch.rand(4, generator=generator(0))), torch.ones(2, 4)) is None


@dataclasses.dataclass(frozen=True)
class Round:
    """A regression of some clients with one example each, over some rounds, at given global models."""

    view: View
    facts: PublicFacts
    shards: dict[str, Examples]


def regression(*, bias, rounds=1, steps=1, info=TABLE, shards=None, change=lambda update: update, optimizer="sgd"):
    draw = generator(1, "regression")
    width = info.input_shape[0]
    model = FlatModel.of(nn.Sequential(nn.Flatten(), nn.Linear(width, 1, bias=bias)), task="regression", name="linear")
    local = LocalTraining(batch_size=None, epochs=steps, learning_rate=0.05, optimizer=optimizer)
    if shards is None:
        x = torch.rand(8, width, generator=draw)
        shards = [Examples(x[[i]], x[[i]].sum(1) + 0.3) for i in range(8)]
    events, state = [], model.vector()
    for index in range(rounds):
        state = 0.5 * torch.randn(model.layout.size, generator=draw)
        events.append(Seen(round=index, topic=Topic.BROADCAST, sender="server", values=state, weight=1.0, about=()))
        for client, shard in enumerate(shards):
            module = model.instance(state)
            optimiser = torch.optim.SGD(module.parameters(), lr=local.learning_rate)
            for _ in range(steps):
                optimiser.zero_grad()
                model.loss(module(shard.x), shard.y).mean().backward()
                optimiser.step()
            update = torch.cat([p.detach().reshape(-1) for p in module.parameters()]) - state
            events.append(
                Seen(
                    round=index,
                    topic=Topic.UPLOAD,
                    sender=f"client:{client}",
                    values=change(update),
                    weight=len(shard),
                    about=(("examples", len(shard)),),
                )
            )
    facts = PublicFacts(
        info=info,
        model=model,
        initial=events[0].values,
        stack=(),
        population=len(shards),
        cohort=len(shards),
        rounds=rounds,
        rule="mean",
        knowledge=THREAT.knowledge,
        _local=local,
    )
    return Round(View("server", tuple(events)), facts, {f"client:{c}": shard for c, shard in enumerate(shards)})


@pytest.mark.parametrize(("bias", "rounds"), [(True, 1), (False, 2), (False, 3)])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_regression_gives_inputs_and_targets(bias, rounds, steps):
    scene = regression(bias=bias, rounds=rounds, steps=steps)
    evidence = LinearModelInversion().run(scene.view, scene.facts, generator=generator(0))
    assert evidence.sources == tuple((0, f"client:{c}") for c in range(8))
    for (_, sender), found, target in zip(evidence.sources, evidence.inputs, evidence.labels, strict=True):
        true = scene.shards[sender]
        # two steps subtract nearly equal models: fp32 rounds the update against the parameters, not against itself
        tolerance = 2e-4 if rounds > 1 or steps > 1 else 1e-4
        assert float((found - true.x[0]).norm() / true.x[0].norm()) < tolerance
        assert float(target) == pytest.approx(float(true.y[0]), rel=1e-3)


def test_heights_and_weights_of_single_women_are_read():
    data = HeightWeight().load(None).train
    shards = [data.take([i]) for i in range(len(data))]
    scene = regression(bias=True, info=HeightWeight.info, shards=shards)
    evidence = LinearModelInversion().run(scene.view, scene.facts, generator=generator(0))
    assert torch.allclose(evidence.inputs, data.x, atol=1e-4)
    assert torch.allclose(evidence.labels, data.y.flatten().float(), rtol=1e-4)


def test_a_regression_without_bias_needs_two_rounds():
    scene = regression(bias=False, rounds=1)
    with pytest.raises(NotApplicable, match="two rounds"):
        LinearModelInversion().run(scene.view, scene.facts, generator=generator(0))


@pytest.mark.parametrize("bias", [True, False])
def test_a_softmax_regression_gives_images_and_labels(scene, networks, bias):
    s = scene(THREAT, networks["softmax"](bias=bias))
    evidence = LinearModelInversion().run(s.view, s.facts, generator=generator(0))
    true = torch.cat([s.truth.behind[source].x for source in evidence.sources])
    assert float((evidence.inputs - true).abs().max()) < (1e-4 if bias else 2e-3)
    result = s.judge(evidence)
    assert result["identified"] == 1.0
    assert result["label_accuracy"] == 1.0


@pytest.mark.parametrize("bias", [True, False])
def test_noise_brings_it_to_its_floor(scene, networks, noise, bias):
    s = scene(THREAT, networks["softmax"](bias=bias), clients=20, change=noise)
    evidence = LinearModelInversion().run(s.view, s.facts, generator=generator(0))
    assert s.judge(evidence)["identified"] <= 0.25


def test_another_client_s_update_gives_that_client_s_example(scene, networks):
    """The placebo: the view says client 0, the values are client 1's."""
    s = scene(THREAT, networks["softmax"](), clients=20)
    uploads = s.view.of(Topic.UPLOAD)
    swapped = [dataclasses.replace(event, values=uploads[i - 1].values) for i, event in enumerate(uploads)]
    view = View("server", (*s.view.of(Topic.BROADCAST), *swapped))
    evidence = LinearModelInversion().run(view, s.facts, generator=generator(0))
    judgement = ReconstructionJudge().measure(evidence, s.truth)
    identified = next(m for m in judgement.measurements if m.headline)
    assert float(identified.units.mean()) <= 0.25


def test_what_it_cannot_solve_is_not_applicable(scene, networks):
    attack = LinearModelInversion()
    s = scene(THREAT, networks["softmax"](), per_client=3)
    with pytest.raises(NotApplicable, match="several examples"):
        attack.run(s.view, s.facts, generator=generator(0))
    s = scene(THREAT, networks["mlp"]())
    with pytest.raises(NotApplicable, match="not a single linear layer"):
        attack.run(s.view, s.facts, generator=generator(0))
    for optimizer, message in (("adam", "rescales"), ("momentum", "momentum")):
        scene_ = regression(bias=True, steps=2, optimizer=optimizer)
        with pytest.raises(NotApplicable, match=message):
            attack.run(scene_.view, scene_.facts, generator=generator(0))
