import dataclasses

import pytest
import torch
from torch import nn

from fedsec.data.embedded import Digits
from fedsec.data.examples import Examples
from fedsec.defenses.adversarial.fast_gradient_training import FGMTraining, FGSMTraining
from fedsec.federation.shards import Shard
from fedsec.federation.training import LocalTraining
from fedsec.models.flat import FlatModel
from fedsec.models.lanes import gradient_step
from fedsec.models.memory import LaneMemory

from .small_lanes import batch, close, dense, lanes_of, trained


def uphill(lanes, y):
    """The direction in which a two-class linear model's loss grows, ``(l, b, dim)``."""
    weight = lanes.parameters[0].detach()
    return torch.where(y == 0, 1.0, -1.0)[..., None] * (weight[:, 1] - weight[:, 0])[:, None]


def test_the_signed_step_on_a_linear_model_is_the_analytic_one():
    lanes, (x, y) = lanes_of(dense(nn.Linear(6, 2))), batch()
    inner = FGSMTraining(eps=0.1).inner
    start = inner.box.uniform(lanes, x)
    assert (start - x).abs().max() <= 0.1
    assert (start - x).abs().max() > 0.05
    wanted = x + (start - x + 0.125 * uphill(lanes, y).sign()).clamp(-0.1, 0.1)
    torch.testing.assert_close(inner(lanes, x, y), wanted)
    without = FGSMTraining(eps=0.1, step=1.0, random_start=False).inner(lanes, x, y)
    torch.testing.assert_close(without, x + 0.1 * uphill(lanes, y).sign())


def test_the_start_is_put_into_the_bounds_before_the_gradient_is_taken():
    lanes, (x, y) = lanes_of(dense(nn.Linear(6, 2))), batch()
    edge = torch.where(x > 0.5, 1.0, 0.0)
    start = FGSMTraining(eps=0.3).inner.box.uniform(lanes, edge)
    assert (start.min(), start.max()) == (0.0, 1.0)
    found = FGSMTraining(eps=0.3).inner(lanes, edge, y)
    assert 0 <= found.min() <= found.max() <= 1


def test_the_euclidean_step_on_a_linear_model_is_the_analytic_one_and_half_the_loss_is_clean():
    lanes, (x, y) = lanes_of(dense(nn.Linear(6, 2))), batch()
    direction = uphill(lanes, y)
    wanted = x + 0.1 * direction / direction.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(FGMTraining(eps=0.1).inner(lanes, x, y), wanted)
    step = FGMTraining(eps=0.1).local(gradient_step)
    halves = gradient_step(lanes, x, y), gradient_step(lanes, wanted, y)
    close(step(lanes, x, y), [(a + b) / 2 for a, b in zip(*halves, strict=True)])


@pytest.mark.parametrize("defense", [FGSMTraining(eps=0.0), FGMTraining(eps=0.0), FGSMTraining(eps=0.0, cure="pgd")])
def test_without_size_it_is_plain_training(defense):
    lanes, (x, y) = lanes_of(dense(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))), batch(classes=3)
    close(defense.local(gradient_step)(lanes, x, y), gradient_step(lanes, x, y))


def test_the_size_grows_over_the_first_rounds():
    lanes, (x, y) = lanes_of(dense(nn.Linear(6, 2))), batch()
    seen = []

    def step(lanes, inputs, y):
        seen.append((inputs - x).abs().max().item())
        return gradient_step(lanes, inputs, y)

    wrapped = FGSMTraining(eps=0.1, ramp=3, random_start=False, step=1.0).local(step)
    for lanes.round in range(6):
        wrapped(lanes, x, y)
    assert seen == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1], abs=1e-6)


class Valley(nn.Module):
    """Two classes of which the first is read at 0.5 and beyond 0.58, and the second in the valley between."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        score = 30 * (x.mean(-1) - 0.55).abs() - self.weight
        return torch.stack((score, -score), -1)


def valley(lanes=2):
    model = FlatModel.of(Valley(), task="classification", name="valley")
    return model, torch.full((lanes, 4, 3), 0.5), torch.zeros(lanes, 4, dtype=torch.int64)


LEAP = FGSMTraining(eps=0.1, random_start=False, step=1.0)
"""From 0.5 it lands beyond the valley."""


def test_a_client_sees_on_its_own_data_that_one_step_no_longer_fools():
    model, x, y = valley(1)
    shard, local = Shard.of(Examples(x[0], y[0])), LocalTraining(batch_size=2, learning_rate=0.0)
    _, reports = trained(model, local, [LEAP], [shard], [1])
    assert reports[0] == {"fgsm-at.fgsm_accuracy": 1.0, "fgsm-at.pgd_accuracy": 0.0, "fgsm-at.overfits": 1.0}
    _, reports = trained(model, local, [dataclasses.replace(LEAP, gap=1.0)], [shard], [1])
    assert reports[0]["fgsm-at.overfits"] == 0.0


def test_the_cure_trains_on_many_steps_once_the_gap_is_seen():
    model, x, y = valley()
    lanes = lanes_of(model, kind="vmap")
    lanes.state.fill_(1.0)
    lanes.steps = (9, 9)
    seen = []

    def step(lanes, inputs, y):
        seen.append((inputs - x[:, : inputs.shape[1]]).abs().max().item())
        return gradient_step(lanes, inputs, y)

    LEAP.local(step)(lanes, x, y)
    cured = dataclasses.replace(LEAP, cure="pgd", gap=0.9).local(step)
    cured(lanes, x, y)
    lanes.state.fill_(-9.0)  # now the valley is gone, and the client still trains on many steps
    cured(lanes, x, y)
    assert seen[0] == pytest.approx(0.1, abs=1e-6)
    assert all(0.02 < size < 0.08 for size in seen[1:])
    assert lanes.recall("fgsm-at", torch.zeros(2, 1)).tolist() == [[1.0], [1.0]]
    lanes.memory = LaneMemory(2)
    cured(lanes, x, y)
    assert lanes.recall("fgsm-at", torch.zeros(2, 1)).tolist() == [[0.0], [0.0]]


def test_healthy_training_reports_no_overfitting():
    data = Digits().load(None)
    model = dense(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10), seed=1)
    local = LocalTraining(epochs=3, batch_size=32, learning_rate=0.3)
    shard = Shard(data.train, torch.arange(600))
    _, reports = trained(model, local, [FGSMTraining(eps=0.1)], [shard, shard], [5, 6], engine="stacked")
    for report in reports:
        assert report["fgsm-at.overfits"] == 0.0
        assert report["fgsm-at.pgd_accuracy"] <= report["fgsm-at.fgsm_accuracy"] + 0.1
