import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsec.attacks.evasion.embedding import embedding_pgd
from fedsec.data.examples import DatasetInfo, Examples
from fedsec.defenses.adversarial.free_large_batch import EmbeddingPGDTraining, FreeLB
from fedsec.federation.cohort import CohortTrainer
from fedsec.federation.shards import Shard, local_order
from fedsec.federation.training import LocalTraining
from fedsec.models.dropout import CounterDropout
from fedsec.models.flat import FlatModel
from fedsec.models.lanes import gradient_step
from fedsec.models.layers import shifting
from fedsec.models.single import SingleLane
from fedsec.models.stacked import stacked_lanes
from fedsec.models.transformers import TransformerEncoder
from fedsec.protocol.stage import EnforcedBy, Setting

AT = "embedding.tokens"
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


def transformer(*, dropout=0.3, width=8, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        net = TransformerEncoder(width=width, heads=2, layers=1, dropout=dropout).build(INFO)
    return FlatModel.of(net, task="classification", name="transformer-encoder")


def sentences(*lead, seed=1):
    """Tokens ``(*lead, 6)`` of 2 to 6 words, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(1, 12, (*lead, 6), generator=generator)
    count = torch.randint(2, 7, (*lead, 1), generator=generator)
    y = torch.randint(2, lead, generator=generator)
    return x * (torch.arange(6) < count), y


def single(model, seed=0):
    lane = SingleLane(model, device="cpu", dtype=torch.float32)
    lane.load(states(model, 1, seed)[0])
    lane.begin_step(torch.tensor([17]))
    return lane


def stacked(model, count=2, seed=0):
    lanes = stacked_lanes(model, states(model, count, seed))
    lanes.begin_step(torch.arange(count) + 17)
    return lanes


def states(model, count, seed):
    noise = torch.randn(count, model.layout.size, generator=torch.Generator().manual_seed(seed))
    return model.vector() + 0.1 * noise


KINDS = {"single": (single, 1), "stacked": (stacked, 2)}


@pytest.mark.parametrize("kind", KINDS)
def test_one_pass_without_a_change_is_a_plain_step_to_the_bit(kind):
    make, count = KINDS[kind]
    model, (x, y) = transformer(), sentences(count, 5)
    found = FreeLB(steps=1, init=0.0).local(gradient_step)(make(model), x, y)
    for a, b in zip(found, gradient_step(make(model), x, y), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("defense", [FreeLB(steps=3, step=0.0, init=0.0), EmbeddingPGDTraining(step=0.0, init=0.0)])
def test_passes_that_do_not_move_are_a_plain_step(kind, defense):
    make, count = KINDS[kind]
    model, (x, y) = transformer(), sentences(count, 5)
    found = defense.local(gradient_step)(make(model), x, y)
    for a, b in zip(found, gradient_step(make(model), x, y), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_two_passes_at_one_change_are_equal_to_the_bit_under_dropout(kind):
    make, count = KINDS[kind]
    lanes, (x, y) = make(transformer()), sentences(count, 5)
    shift = 0.1 * torch.randn(count, 5, 6, 8, generator=torch.Generator().manual_seed(2))
    one, two = (lanes.losses(x, y, train=True, shift=shift, at=AT) for _ in range(2))
    assert torch.equal(one, two)
    lanes.begin_step(torch.arange(count) + 99)
    assert not torch.equal(lanes.losses(x, y, train=True, shift=shift, at=AT), one)


def slowly(model, state, key, x, y, start, *, eps, step, passes, accumulate):
    """One lane, one sequence after another inside one module: the gradients of algorithm 1, by plain torch."""
    net = model.instance(state).train()
    for part in net.modules():
        if isinstance(part, CounterDropout):
            part.key = key
    delta, total = start.clone(), None
    for number in range(passes):
        leaf = delta.clone().requires_grad_()
        with shifting(net, AT, leaf):
            loss = nn.functional.cross_entropy(net(x), y)
        gradients = torch.autograd.grad(loss, [*net.parameters(), leaf])
        if accumulate or number == passes - 1:
            parts = [gradient / (passes if accumulate else 1) for gradient in gradients[:-1]]
            total = parts if total is None else [a + b for a, b in zip(total, parts, strict=True)]
        for row, gradient in enumerate(gradients[-1]):
            moved = delta[row] + step * gradient / gradient.norm()
            delta[row] = moved * min(1.0, eps / float(moved.norm()))
    return total


@pytest.mark.parametrize("accumulate", [True, False])
def test_it_is_the_loop_of_the_paper(accumulate):
    model, (x, y) = transformer(), sentences(2, 5)
    lanes = stacked(model)
    kind = FreeLB if accumulate else EmbeddingPGDTraining
    defense = kind(eps=0.5, step=0.3, steps=3, init=0.4)
    found = defense.local(gradient_step)(lanes, x, y)
    start = defense.ascent.start(lanes, x)
    for lane in range(2):
        truth = slowly(
            model,
            lanes.state[lane],
            lanes.keys[lane],
            x[lane],
            y[lane],
            start[lane],
            eps=0.5,
            step=0.3,
            passes=3 if accumulate else 4,
            accumulate=accumulate,
        )
        for a, b in zip(found, truth, strict=True):
            assert torch.allclose(a[lane], b, atol=1e-5)
    plain = gradient_step(stacked(model), x, y)
    assert max(float((a - b).abs().max()) for a, b in zip(found, plain, strict=True)) > 1e-3


def test_one_clients_round_is_central_training():
    model, data = transformer(), Examples(*sentences(11, seed=4))
    local = LocalTraining(epochs=2, batch_size=4, learning_rate=0.2)
    defense = FreeLB(eps=0.5, step=0.3, steps=3, init=0.0)
    order = local_order(Shard.of(data), local, seed=3)
    state = model.vector()
    for (first, last), key in zip(order.bounds, order.keys, strict=True):
        x, y = (part[order.rows[first:last]] for part in (data.x, data.y))
        start = torch.zeros(last - first, 6, 8)
        gradients = slowly(model, state, key, x, y, start, eps=0.5, step=0.3, passes=3, accumulate=True)
        state = state - 0.2 * torch.cat([gradient.flatten() for gradient in gradients])
    with CohortTrainer(model, local, hooks=(defense,)) as trainer:
        update = trainer.train(model.vector(), [Shard.of(data)], [3])[0]
    assert torch.allclose(model.vector() + update, state, atol=1e-5)
    assert float(update.norm()) > 0.1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 3.0), st.floats(0.0, 3.0), st.floats(0.0, 3.0))
def test_a_change_stays_in_its_ball_and_off_the_padding(seed, eps, step, init):
    lanes, (x, _) = stacked(transformer(), seed=seed), sentences(2, 5, seed=seed)
    ascent = FreeLB(eps=eps, step=step, init=init).ascent
    start = ascent.start(lanes, x)
    words = (x != 0).unsqueeze(-1)
    bound = init / (words.sum((-2, -1), keepdim=True) * 8).sqrt()
    assert bool((start.abs() <= bound + 1e-6).all())
    gradient = torch.randn(start.shape, generator=torch.Generator().manual_seed(seed)) * words
    for delta in (start, ascent.advance(start, gradient)):
        assert float(delta.flatten(2).norm(dim=-1).max()) <= eps * (1 + 1e-5)
        assert bool((delta == 0)[~words.expand_as(delta)].all())


def test_a_start_is_of_the_papers_size_and_without_eps_nothing_is_projected():
    lanes, (x, _) = stacked(transformer(width=64)), sentences(2, 5)
    start = FreeLB(eps=None, init=2.0, step=5.0).ascent.start(lanes, x)
    assert torch.allclose(start.flatten(2).norm(dim=-1), torch.tensor(2 / math.sqrt(3)), rtol=0.25)
    assert FreeLB(eps=None).ascent.init == 0.0
    assert FreeLB(eps=0.3).ascent.init == 0.3
    moved = FreeLB(eps=None, init=2.0, step=5.0).ascent.advance(start, torch.ones_like(start))
    assert float(moved.flatten(2).norm(dim=-1).min()) > 3


class Counting:
    """How often lanes are asked for outputs."""

    def __init__(self, lanes):
        self.lanes, self.calls = lanes, 0

    def __enter__(self):
        ask = self.lanes.outputs

        def outputs(*given, **named):
            self.calls += 1
            return ask(*given, **named)

        self.lanes.outputs = outputs
        return self

    def __exit__(self, *error):
        del self.lanes.outputs


@pytest.mark.parametrize(("defense", "passes"), [(FreeLB(steps=3), 3), (EmbeddingPGDTraining(steps=3), 4)])
def test_its_passes_are_its_cost(defense, passes):
    lanes, (x, y) = stacked(transformer()), sentences(2, 5)
    with Counting(lanes) as counting:
        defense.local(gradient_step)(lanes, x, y)
    assert counting.calls == passes


def test_it_wraps_other_steps_than_the_plain_one():
    model, (x, y) = transformer(), sentences(2, 5)

    def halved(lanes, x, y):
        return tuple(0.5 * gradient for gradient in gradient_step(lanes, x, y))

    joint = FreeLB(steps=3, step=0.3).local(gradient_step)(stacked(model), x, y)
    wrapped = FreeLB(steps=3, step=0.3).local(halved)(stacked(model), x, y)
    for a, b in zip(joint, wrapped, strict=True):
        assert torch.allclose(0.5 * a, b, atol=1e-6)


@pytest.mark.parametrize(
    ("defense", "engines"),
    [(FreeLB(step=0.3), ("stacked", "workers")), (EmbeddingPGDTraining(step=0.3), ("stacked",))],
)
def test_engines_agree_with_dropout_on(defense, engines):
    model = transformer()
    local = LocalTraining(epochs=2, batch_size=4, learning_rate=0.2)
    shards = [Shard.of(Examples(*sentences(size, seed=size))) for size in (9, 6)]
    start = model.vector()
    assert pickle.loads(pickle.dumps(defense.local(gradient_step))) == defense.local(gradient_step)
    found = {}
    for engine in ("sequential", *engines):
        with CohortTrainer(model, local, hooks=(defense,), engine=engine, workers=2) as trainer:
            found[engine] = trainer.train(start, shards, [3, 4])
    for engine in engines:
        assert torch.allclose(found["sequential"], found[engine], atol=1e-5)
    with CohortTrainer(model, local) as trainer:
        assert not torch.allclose(trainer.train(start, shards, [3, 4]), found["sequential"], atol=1e-3)


def setting(model, bounds=None, stack=("freelb",)):
    return Setting(
        population=2,
        cohort=2,
        rounds=1,
        sampling="all",
        layout=model.layout,
        local_steps=1,
        batch_size=None,
        has_batch_norm=False,
        task="classification",
        bounds=bounds,
        stack=stack,
    )


def test_what_has_no_embeddings_is_refused_and_controlled_clients_do_not_run_it():
    model = transformer()
    for kind in (FreeLB, EmbeddingPGDTraining):
        assert kind().problems(setting(model)) == ()
        assert "pgd-at" in kind().problems(setting(model, (0.0, 1.0)))[0][1]
        assert "embedding.tokens" in kind(layer="words").problems(setting(model))[0][1]
        assert kind().enforcement is EnforcedBy.CLIENT
        assert "keep one" in kind().problems(setting(model, stack=("freelb", "embedding-pgd-at")))[0][1]


def opinions(count, seed):
    """Sentences of which the class is whether words 2 to 6 are more than words 7 to 11."""
    x, _ = sentences(count, seed=seed)
    good = ((x >= 2) & (x < 7)).sum(1) - (x >= 7).sum(1)
    return Examples(x[good != 0], (good > 0).long()[good != 0])


def robust(hooks, shares):
    train, test = opinions(500, 1), opinions(200, 2)
    model = transformer(dropout=0.1, width=16)
    trainer = CohortTrainer(
        model, LocalTraining(epochs=6, batch_size=16, optimizer="adam", learning_rate=3e-3), hooks=hooks
    )
    net = model.instance(model.vector() + trainer.train(model.vector(), [Shard.of(train)], [5])[0])
    own = net.embedding.tokens(test.x).detach().mul((test.x != 0).unsqueeze(-1)).flatten(1).norm(dim=1)
    return [
        1 - embedding_pgd(net, test.x, test.y, eps=share * own, steps=10)[0].float().mean().item() for share in shares
    ]


def test_it_buys_robustness_against_changes_of_its_size_and_not_against_large_ones():
    plain, hardened = robust((), (0.0, 0.2, 2.0)), robust((FreeLB(eps=2.5, step=1.2, steps=3),), (0.0, 0.2, 2.0))
    assert plain[0] > 0.9
    assert hardened[0] > 0.9
    assert hardened[1] > plain[1] + 0.1
    assert hardened[2] < 0.1
