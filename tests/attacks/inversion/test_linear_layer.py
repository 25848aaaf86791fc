import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.attacks.inversion import invert_linear
from fedsec.attacks.inversion.closed_form import rows_alone, scaled_to_bounds, single_input
from fedsec.attacks.inversion.linear_layer import LinearLayerInversion, distinct_inputs, is_mixture
from fedsec.federation.training import LocalTraining
from fedsec.protocol.events import Topic
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.view import View
from fedsec.randomness import generator

THREAT = LinearLayerInversion.threat


def errors(scene, evidence):
    """Largest error of each reconstruction to the nearest true example of its source."""
    return torch.stack(
        [
            (scene.truth.behind[source].x - found).abs().flatten(1).amax(1).min()
            for source, found in zip(evidence.sources, evidence.inputs, strict=True)
        ]
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(2, 12))
def test_rows_in_which_one_example_is_active_give_it_exactly(seed, examples, rows):
    draw = generator(seed, "rows")
    x = torch.rand(examples, 5, generator=draw, dtype=torch.float64)
    owner = torch.randint(examples, (rows,), generator=draw)
    delta = torch.zeros(examples, rows, dtype=torch.float64)
    delta[owner, torch.arange(rows)] = torch.rand(rows, generator=draw, dtype=torch.float64) + 0.1
    found = rows_alone(delta.T @ x, delta.sum(0))
    assert torch.allclose(found, x[owner], rtol=1e-12, atol=1e-12)


def test_rows_without_a_bias_gradient_give_zeros_and_not_infinities():
    assert torch.equal(rows_alone(torch.ones(2, 3), torch.zeros(2)), torch.zeros(2, 3))


def test_least_squares_over_rows_beats_every_single_row_under_noise():
    draw = generator(0, "noise")
    x, delta = torch.rand(50, generator=draw), torch.randn(40, generator=draw)
    weight = torch.outer(delta, x) + 0.05 * torch.randn(40, 50, generator=draw)
    error = (single_input(weight, delta) - x).norm()
    assert error < (rows_alone(weight, delta) - x).norm(dim=1).min()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(2, 12))
def test_inverting_a_layer_gives_the_rows_that_can_be_divided(seed, examples, rows):
    draw = generator(seed, "invert")
    x = torch.rand(examples, 5, generator=draw)
    owner = torch.randint(examples + 1, (rows,), generator=draw)
    delta = torch.zeros(examples + 1, rows)
    delta[owner, torch.arange(rows)] = torch.randn(rows, generator=draw)
    delta = delta[:-1]  # the last owner stands for units that no example activates
    found = invert_linear(delta.T @ x, delta.sum(0))
    assert torch.allclose(found, x[owner[owner < examples]], rtol=1e-5, atol=0)


def test_inverting_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\(3, 4\) and \(2,\)"):
        invert_linear(torch.ones(3, 4), torch.ones(2))
    assert invert_linear(torch.ones(3, 4), torch.zeros(3)).shape == (0, 4)


def test_directions_are_scaled_into_the_bounds():
    x = torch.tensor([[0.2, 1.0, 0.0]])
    low, high = torch.zeros(3), torch.ones(3)
    assert torch.allclose(scaled_to_bounds(-3 * x, low, high), x)
    assert torch.allclose(scaled_to_bounds(x, -torch.ones(3), 2 * high), 2 * x)


def test_inputs_that_more_rows_agree_on_come_first():
    inputs = torch.tensor([[0.9, 0.9], [0.2, 0.4], [0.2, 0.4], [5.0, -3.0]])
    weights = torch.tensor([1.0, 0.1, 0.1, 9.0])
    found = distinct_inputs(inputs, weights, bounds=(torch.zeros(2), torch.ones(2)), agreement=0.01)
    assert torch.allclose(found.inputs, inputs[[1, 0, 3]])
    assert found.agreeing.tolist() == [2, 1, 1]


def test_mixtures_are_told_from_corners_and_come_last():
    corners = torch.tensor([[0.1, 0.9, 0.2], [0.8, 0.3, 0.4]])
    middle = corners.mean(0, keepdim=True)
    assert is_mixture(middle[0], corners, tolerance=1e-3)
    assert not is_mixture(corners[0], torch.cat([corners[1:], middle]), tolerance=1e-3)
    inputs = torch.cat([middle, middle, middle, corners])
    found = distinct_inputs(inputs, torch.ones(5), bounds=(torch.zeros(3), torch.ones(3)), agreement=0.001)
    assert torch.allclose(found.inputs[2], middle[0])


@pytest.mark.parametrize("net", ["mlp", "sigmoid-mlp", "standardised", "softmax"])
def test_single_examples_are_exact(scene, networks, net):
    s = scene(THREAT, networks[net]())
    evidence = LinearLayerInversion().run(s.view, s.facts, generator=generator(0))
    assert len(evidence.sources) == 8
    assert errors(s, evidence).max() < 1e-4
    result = s.judge(evidence)
    assert result["identified"] == 1.0
    assert result["label_accuracy"] == 1.0
    assert result["psnr"] > 60


def test_several_local_steps_on_one_example_do_not_matter(scene, networks):
    s = scene(THREAT, networks["mlp"](), local=LocalTraining(batch_size=None, epochs=5, learning_rate=0.1))
    assert errors(s, LinearLayerInversion().run(s.view, s.facts, generator=generator(0))).max() < 1e-4


def test_examples_alone_in_a_row_are_exact_in_a_batch(scene, networks):
    s = scene(THREAT, networks["mlp"](), per_client=4)
    evidence = LinearLayerInversion().run(s.view, s.facts, generator=generator(0))
    assert len(evidence.sources) == 32
    error = errors(s, evidence)
    assert (error < 1e-4).double().mean() > 0.6
    assert s.judge(evidence)["identified"] > 0.8


def test_a_layer_without_bias_gives_the_direction(scene, networks):
    s = scene(THREAT, networks["mlp"](bias=False))
    evidence = LinearLayerInversion().run(s.view, s.facts, generator=generator(0))
    true = torch.cat([s.truth.behind[source].x for source in evidence.sources])
    cosine = torch.cosine_similarity(evidence.inputs.flatten(1), true.flatten(1))
    assert cosine.min() > 0.9999
    # most digits reach the largest value, so scaling to the bounds finds their length too
    assert errors(s, evidence).median() < 1e-3


def test_clipping_by_norm_changes_nothing(scene, networks):
    def clip(update):
        return update * (1e-3 / update.norm()).clamp_max(1)

    s = scene(THREAT, networks["mlp"](), change=clip, stack=("clip(norm=0.001)",))
    assert errors(s, LinearLayerInversion().run(s.view, s.facts, generator=generator(0))).max() < 1e-4


def test_local_noise_and_a_view_of_noise_bring_it_to_its_floor(scene, networks, noise):
    draw = generator(3, "dp")
    for change in (lambda u: u + u.norm() * torch.randn(u.shape, generator=draw), noise):
        s = scene(THREAT, networks["mlp"](), clients=20, change=change)
        evidence = LinearLayerInversion().run(s.view, s.facts, generator=generator(0))
        assert s.judge(evidence)["identified"] <= 0.25


def test_another_client_s_update_brings_it_to_its_floor(scene, networks):
    """The placebo: every view says one client and holds the next one's values."""
    s = scene(THREAT, networks["mlp"](), clients=20)
    uploads = s.view.of(Topic.UPLOAD)
    swapped = [dataclasses.replace(event, values=uploads[i - 1].values) for i, event in enumerate(uploads)]
    view = View("server", (*s.view.of(Topic.BROADCAST), *swapped))
    evidence = LinearLayerInversion().run(view, s.facts, generator=generator(0))
    judged = {m.name: m for m in s.judgement(evidence).measurements}
    assert float(judged["identified"].units.mean()) <= 0.25
    assert float(judged["success@1e-2"].units.sum()) == 0.0
    assert float(judged["psnr"].units.mean()) <= float(judged["psnr"].floor_units.mean()) + 0.5


def test_an_aggregate_is_one_update_of_all_its_examples(scene, networks):
    s = scene(THREAT, networks["mlp"](), clients=3, topic=Topic.AGGREGATE)
    evidence = LinearLayerInversion().run(s.view, s.facts, generator=generator(0))
    assert evidence.sources == ((0, "server"),) * 3
    assert (errors(s, evidence) < 1e-4).sum() >= 2


def test_a_convolution_in_front_is_not_applicable(scene, networks):
    s = scene(THREAT, networks["sigmoid-net"]())
    with pytest.raises(NotApplicable, match="first layer is not a linear layer"):
        LinearLayerInversion().run(s.view, s.facts, generator=generator(0))


def test_per_update_fixes_how_many_are_returned(scene, networks):
    s = scene(THREAT, networks["mlp"](), clients=2, per_client=4)
    evidence = LinearLayerInversion(per_update=6).run(s.view, s.facts, generator=generator(0))
    assert evidence.inputs.shape == (12, 1, 8, 8)
    assert evidence.labels is not None
    assert evidence.labels.shape == (12,)
