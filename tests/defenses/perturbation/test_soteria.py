"""Soteria: which columns it prunes, by a slow truth, and what it leaves open to anybody who reads another layer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsec.data.examples import Examples
from fedsec.defenses.perturbation.soteria import Soteria, SoteriaStep, before, exposure, last_dense, pruned
from fedsec.errors import ConfigurationError
from fedsec.federation.cohort import CohortTrainer
from fedsec.federation.shards import Shard
from fedsec.federation.training import LocalTraining
from fedsec.models.flat import FlatModel
from fedsec.models.lanes import gradient_step
from fedsec.models.single import SingleLane
from fedsec.models.stacked import VmapLanes, stacked_lanes
from fedsec.protocol.payload import Kind
from fedsec.randomness import generator

DENSE = (nn.Flatten(), nn.Linear(16, 9), nn.Tanh(), nn.Linear(9, 4))
CONVOLUTIONAL = (nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4))


def flat(*parts: nn.Module) -> FlatModel:
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        module = nn.Sequential(*parts)
        for part in module:
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
    return FlatModel.of(module, task="classification", name="net")


def lanes_of(model: FlatModel, kind: str = "vmap", count: int = 2):
    noise = torch.randn(count, model.layout.size, generator=generator("lanes"))
    state = model.vector() + 0.1 * noise
    if kind == "single":
        lanes = SingleLane(model, device="cpu", dtype=torch.float32)
        lanes.load(state[0])
        lanes.begin_step(torch.tensor([17]))
        return lanes
    lanes = VmapLanes(model, state) if kind == "vmap" else stacked_lanes(model, state)
    lanes.begin_step(torch.arange(count) + 17)
    return lanes


def batch(lanes: int, size: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    source = generator("batch", lanes, size)
    return torch.rand(lanes, size, 1, 4, 4, generator=source), torch.randint(4, (lanes, size), generator=source)


@pytest.mark.parametrize("parts", [DENSE, CONVOLUTIONAL], ids=["dense", "convolutional"])
@pytest.mark.parametrize("kind", ["stacked", "vmap", "single"])
def test_exposure_is_the_slow_truth_s(parts: tuple[nn.Module, ...], kind: str) -> None:
    """Example by example, by the full Jacobian of the representation."""
    model = flat(*parts)
    lanes = lanes_of(model, kind)
    x, _ = batch(len(lanes.parameters[0]))
    layer = last_dense(model)
    at = before(model, layer, x)
    assert (layer, at) == ("3", "2")
    found = exposure(lanes, x, at)
    for lane in range(len(x)):
        vector = torch.cat([p[lane].detach().flatten() for p in lanes.parameters])
        body = nn.Sequential(*list(model.instance(vector))[:3])
        slow = torch.zeros(found.shape[1])
        for example in x[lane]:
            features = body(example[None]).flatten().detach()
            jacobian = torch.autograd.functional.jacobian(lambda e, body=body: body(e[None]).flatten(), example)
            length = jacobian.flatten(1).norm(dim=1)
            slow += torch.where(features != 0, features.abs() / length.clamp_min(1e-38), 0.0)
        torch.testing.assert_close(found[lane], slow, rtol=1e-3, atol=1e-5)


def test_only_the_pruned_columns_of_one_weight_change() -> None:
    model = flat(*DENSE)
    lanes = lanes_of(model)
    x, y = batch(2)
    plain = gradient_step(lanes, x, y)
    defended = Soteria(share=0.6).local(gradient_step)(lanes, x, y)
    names = [slot.name for slot in model.layout.parameters]
    for name, before_, after in zip(names, plain, defended, strict=True):
        if name != "3.weight":
            assert torch.equal(before_, after)
    mask = pruned(exposure(lanes, x, "2"), 0.6)
    assert mask.sum(1).tolist() == [6, 6]
    weight = names.index("3.weight")
    expected = plain[weight].masked_fill(mask[:, None].expand_as(plain[weight]), 0.0)
    assert torch.equal(defended[weight], expected)
    assert Soteria(share=0.0).local(gradient_step) is gradient_step


@given(st.integers(1, 12), st.floats(0.0, 1.0))
@settings(deadline=None, max_examples=25)
def test_the_largest_are_pruned(features: int, share: float) -> None:
    scores = torch.rand(2, features, generator=generator("scores", features))
    mask = pruned(scores, share)
    count = int(mask[0].sum())
    assert share * features - 1e-6 <= count <= share * features + 1
    for row, chosen in zip(scores, mask, strict=True):
        if 0 < count < features:
            assert row[chosen].min() >= row[~chosen].max()


def update_of(*hooks: Soteria) -> tuple[torch.Tensor, torch.Tensor, FlatModel]:
    """One example's update by one step, and the example."""
    model = flat(*DENSE)
    pool = Examples(torch.rand(1, 1, 4, 4, generator=generator("one")) + 0.1, torch.tensor([2]))
    local = LocalTraining(batch_size=None, learning_rate=0.5)
    with CohortTrainer(model, local, hooks=hooks) as trainer:
        return trainer.train(model.vector(), [Shard(pool, torch.arange(1))], [7])[0], pool.x[0].flatten(), model


def test_it_hides_its_own_layer_and_no_other() -> None:
    """A row over its bias gives a linear layer's input. The defended layer's is pruned; the first layer's is not."""
    for hooks, hidden in (((), 0), ((Soteria(share=0.5),), 5)):
        update, x, model = update_of(*hooks)
        parts = model.layout.split(update)
        representation = nn.Sequential(*list(model.instance(model.vector()))[:3])(x.view(1, 1, 4, 4)).flatten()
        read = parts["3.weight"][0] / parts["3.bias"][0]
        right = torch.isclose(read, representation, atol=1e-4)
        assert int((~right).sum()) == hidden
        first = parts["1.weight"][0] / parts["1.bias"][0]
        torch.testing.assert_close(first, x, rtol=1e-3, atol=1e-4)
    # the labels stand in the bias as before
    assert int(update_of(Soteria(share=1.0))[0][-4:].argmax()) == 2


def test_what_it_cannot_defend_is_refused() -> None:
    model = flat(nn.Flatten(), nn.Linear(16, 4), nn.ReLU())
    assert before(model, "1", batch(1)[0]) == "0"
    tied = flat(nn.Linear(4, 4), nn.Flatten(1), nn.Linear(16, 4))
    assert last_dense(tied) == "2"

    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(16, 8), nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(x.flatten(1)).square())

    squared = FlatModel.of(Hidden(), task="classification", name="hidden")
    with pytest.raises(ConfigurationError, match="what the layer before it gives"):
        before(squared, "head", batch(1)[0])
    with pytest.raises(ConfigurationError, match="with a fully connected layer"):
        last_dense(flat(nn.Conv2d(1, 3, 3)))
    assert Kind.MASKED in Soteria.accepts
    assert isinstance(Soteria().local(gradient_step), SoteriaStep)
