from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsec.attacks.evasion.embedding import EmbeddingPGD, embedding_pgd
from fedsec.attacks.evasion.gradient_ascent import Passes
from fedsec.data.examples import DatasetInfo, Examples
from fedsec.errors import ConfigurationError
from fedsec.judges.base import Truth
from fedsec.judges.embedding_evasion import EmbeddingEvasionJudge
from fedsec.models.flat import FlatModel
from fedsec.models.tokens import Embedding, mean_of_words
from fedsec.models.transformers import TransformerEncoder
from fedsec.protocol.events import Topic
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.view import Seen, View

WIDTH = 5
INFO = DatasetInfo(
    name="toy",
    summary="",
    task="classification",
    input_shape=(6,),
    classes=("bad", "good"),
    bounds=None,
    modality="text",
    vocabulary=12,
)


class Bag(nn.Module):
    """The mean of the words' embeddings, read by one linear layer: margins are known exactly."""

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(seed)
            self.embedding = Embedding(12, WIDTH)
            self.head = nn.Linear(WIDTH, 2)

    def forward(self, tokens):
        return self.head(mean_of_words(self.embedding(tokens), tokens))


def sentences(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(1, 12, (count, 6), generator=generator)
    return x * (torch.arange(6) < torch.randint(1, 7, (count, 1), generator=generator))


def radius(net, x):
    """Length of the smallest change that reaches the border, and the class on this side of it."""
    logits = net(x).detach()
    weight = (net.head.weight[1] - net.head.weight[0]).detach()
    words = (x != 0).sum(1)
    return (logits[:, 1] - logits[:, 0]).abs() * words.sqrt() / weight.norm(), logits.argmax(1)


def transformer():
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        return TransformerEncoder(width=8, heads=2, layers=1).build(INFO)


@pytest.mark.parametrize("steps", [1, 10])
def test_the_margin_of_a_linear_model_is_hit(steps):
    net, x = Bag(), sentences(40)
    margin, y = radius(net, x)
    for factor, share in ((1.01, 1.0), (0.99, 0.0)):
        fooled, delta = embedding_pgd(net, x, y, eps=factor * margin, steps=steps)
        assert fooled.float().mean() == share
        assert torch.allclose(delta.flatten(1).norm(dim=1), factor * margin, rtol=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0.0, 5.0), st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_changes_stay_in_the_ball_and_off_the_padding(seed, eps, steps, restarts, drop):
    net, x = transformer(), sentences(7, seed)
    y = torch.randint(2, (7,), generator=torch.Generator().manual_seed(seed))
    draw = torch.Generator().manual_seed(seed)
    fooled, delta = embedding_pgd(net, x, y, eps=eps, steps=steps, restarts=restarts, generator=draw, drop_fooled=drop)
    assert float(delta.flatten(1).norm(dim=1).max()) <= eps * (1 + 1e-5)
    assert bool((delta[x == 0] == 0).all())
    clean = net(x).argmax(1) != y
    assert bool(fooled[clean].all()) or not drop


def test_a_constant_model_is_never_fooled_and_a_misread_text_is_left_alone():
    net, x = Bag(), sentences(10)
    with torch.no_grad():
        net.head.weight.zero_()
        net.head.bias.copy_(torch.tensor([1.0, 0.0]))
    y = torch.tensor([0] * 5 + [1] * 5)
    fooled, delta = embedding_pgd(net, x, y, eps=10.0, steps=3, generator=torch.Generator().manual_seed(0))
    assert fooled.tolist() == [False] * 5 + [True] * 5
    assert bool((delta[5:] == 0).all())


def test_a_path_does_not_depend_on_the_batch():
    net, x = transformer(), sentences(12)
    y = net(x).argmax(1)
    together = embedding_pgd(net, x, y, eps=0.8, steps=6)
    alone = [embedding_pgd(net, x[i : i + 1], y[i : i + 1], eps=0.8, steps=6) for i in range(12)]
    assert torch.equal(together[0], torch.cat([fooled for fooled, _ in alone]))
    assert torch.allclose(together[1], torch.cat([delta for _, delta in alone]), atol=1e-5)


def test_random_starts_are_uniform_in_the_ball_of_the_words():
    net = Bag()
    x = torch.tensor([[3, 4, 0, 0, 0, 0]]).expand(4000, -1)
    y = net(x).argmax(1)
    draw = torch.Generator().manual_seed(0)
    _, delta = embedding_pgd(net, x, y, eps=1e-3, steps=1, step=1e-9, generator=draw, drop_fooled=False)
    lengths = delta.flatten(1).norm(dim=1) / 1e-3
    # Half of the volume of a ball in n dimensions lies within the radius 2^(-1/n).
    assert float((lengths < 0.5 ** (1 / (2 * WIDTH))).float().mean()) == pytest.approx(0.5, abs=0.03)
    assert float(delta.mean(0).abs().max()) < 1e-3 * 0.05


def test_more_steps_and_restarts_fool_no_fewer():
    net, x = transformer(), sentences(60)
    y = net(x).argmax(1)

    def share(**named):
        draw = torch.Generator().manual_seed(0)
        return embedding_pgd(net, x, y, eps=0.5, generator=draw, **named)[0].float().mean().item()

    assert 0 < share(steps=10) < 1
    assert share(steps=10, restarts=3) >= share(steps=10)
    assert share(steps=20) >= share(steps=1)


def test_the_model_is_left_as_it_was_and_passes_are_counted():
    net, x = transformer().train(), sentences(9)
    y = net.eval()(x).argmax(1)
    net.train()
    passes = Passes()
    embedding_pgd(net, x, y, eps=1e-4, steps=3, passes=passes)
    assert net.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert not any(part._forward_hooks for part in net.modules())
    assert (passes.forwards, passes.backwards) == (9 * 6, 9 * 3)


def test_what_cannot_be_asked_is_refused():
    net, x = transformer(), sentences(3)
    y = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ConfigurationError, match=r"embedding\.tokens"):
        embedding_pgd(net, x, y, eps=1.0, at="words")
    with pytest.raises(ValueError, match="one vector per token"):
        embedding_pgd(net, x, y, eps=1.0, at="head")
    with pytest.raises(ValueError, match="generator"):
        embedding_pgd(net, x, y, eps=1.0, restarts=2)


MODEL = FlatModel.of(Bag(), task="classification", name="bag")
NOISE = MODEL.vector().mean() + torch.randn(MODEL.vector().shape, generator=torch.Generator().manual_seed(4))


def run(attack, released=None, info=INFO):
    x = sentences(100, seed=5)
    test = Examples(x, radius(Bag(), x)[1])
    facts = PublicFacts(
        info=info,
        model=MODEL,
        initial=MODEL.vector(),
        stack=(),
        population=1,
        cohort=1,
        rounds=1,
        rule="mean",
        knowledge=attack.threat.knowledge,
        _test_inputs=test,
    )
    values = MODEL.vector() if released is None else released
    seen = Seen(round=0, topic=Topic.RELEASE, sender="server", values=values, weight=1.0, about=())
    return attack.run(View("outsider", (seen,)), facts, generator=torch.Generator().manual_seed(0)), test


def judged(evidence, test):
    truth = Truth(
        info=INFO,
        model=MODEL,
        released=MODEL.vector(),
        initial=MODEL.vector(),
        behind={},
        test=test,
        decoys=test,
        candidates=None,
        members=None,
        property_name="",
        property_share={},
        generator=torch.Generator().manual_seed(0),
    )
    return EmbeddingEvasionJudge().measure(evidence, truth)


def values(judgement):
    return {m.name: float(m.units.float().mean()) for m in judgement.measurements}


def test_the_plugin_finds_what_the_margins_say_and_the_judge_sees_it():
    net = MODEL.instance(MODEL.vector())
    evidence, test = run(EmbeddingPGD(eps=0.5, relative=False))
    expected = float((radius(net, test.x)[0] < 0.5).float().mean())
    judgement = judged(evidence, test)
    found = values(judgement)
    assert 0.1 < expected < 0.9
    assert found["robust_error"] == pytest.approx(expected, abs=0.02)
    assert found["clean_error"] == 0
    assert found["mean_perturbation_l2"] <= 0.5 + 1e-6
    assert judgement.notes == ()
    headline = judgement.measurements[0]
    assert headline.headline
    assert float(headline.floor_units.mean()) < expected / 2


def test_only_so_many_examples_in_the_order_of_the_challenge():
    evidence, test = run(EmbeddingPGD(eps=0.0, examples=30))
    assert len(evidence.deltas) == 30
    assert values(judged(evidence, test))["robust_error"] == 0


def test_a_relative_size_is_not_hidden_by_larger_embeddings():
    evidence, test = run(EmbeddingPGD(eps=0.2))
    assert values(judged(evidence, test))["mean_perturbation_share"] <= 0.2 + 1e-6
    scaled = MODEL.vector().clone()
    for slot in MODEL.layout.parameters:
        factor = {"embedding.tokens.weight": 10.0, "head.weight": 0.1}.get(slot.name, 1.0)
        scaled[slot.start : slot.stop] *= factor
    larger, _ = run(EmbeddingPGD(eps=0.2), released=scaled)
    assert torch.allclose(larger.deltas, 10 * evidence.deltas, rtol=1e-3, atol=1e-5)
    small, large = (radius(MODEL.instance(vector), test.x)[0] for vector in (MODEL.vector(), scaled))
    assert torch.allclose(10 * small, large, rtol=1e-3)


def test_against_a_view_of_noise_it_falls_to_the_floor():
    real, test = run(EmbeddingPGD(eps=0.3))
    blind, _ = run(EmbeddingPGD(eps=0.3), released=NOISE)
    floor = float(judged(real, test).measurements[0].floor_units.mean())
    assert values(judged(real, test))["robust_error"] > floor + 0.15
    assert values(judged(blind, test))["robust_error"] < values(judged(real, test))["robust_error"] - 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"vocabulary": 0, "modality": "image"}, "image"), ({"task": "next-token"}, "next-token")],
)
def test_what_has_no_embeddings_or_classes_is_not_applicable(changes, message):
    with pytest.raises(NotApplicable, match=message):
        run(EmbeddingPGD(), info=replace(INFO, **changes))
    with pytest.raises(NotApplicable, match="words"):
        run(EmbeddingPGD(layer="words"))
    with pytest.raises(NotApplicable, match="head"):
        run(EmbeddingPGD(layer="head"))
