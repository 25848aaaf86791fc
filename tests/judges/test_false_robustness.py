"""Feigned robustness is told from real on networks whose answers are known."""

import dataclasses

import pytest
import torch
from torch import nn

from fedsec.data.examples import DatasetInfo, Examples
from fedsec.judges.base import Outcome
from fedsec.judges.false_robustness import FalseRobustnessJudge, fooled
from fedsec.protocol.outcome import NotApplicable

from .test_masking import Through, draw, toy

INFO = DatasetInfo(
    name="toy", summary="", task="classification", input_shape=(1, 4, 4), classes=("a", "b"), bounds=(0.0, 1.0),
    modality="image",
)  # fmt: skip


def outcome(net, x):
    with torch.no_grad():
        return Outcome(predictions=net(x).argmax(1), accuracy=(0.9,), rounds=(0,), net=net)


def compared(honest, attacked, x, y, **goal):
    judgement = FalseRobustnessJudge().compare(
        outcome(honest, x), outcome(attacked, x), Examples(x, y), INFO, goal or {"eps_thousandths": 100}
    )
    return judgement, {m.name: m for m in judgement.measurements}


def test_on_a_linear_model_both_attacks_are_exact():
    net, x, y = toy()
    weight, bias = net[1].weight, net[1].bias
    with torch.no_grad():
        sign = 1 - 2 * y
        margins = (
            sign * ((x.flatten(1) @ (weight[0] - weight[1])) + bias[0] - bias[1]) / (weight[0] - weight[1]).abs().sum()
        )
    for eps in (0.05, 0.1, 0.15):
        found = fooled(net, x, y, eps, bounds=(0.0, 1.0), random=draw())
        assert torch.equal(found.usual, margins < eps)
        assert torch.equal(found.strong, found.usual)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())


def test_large_logits_look_robust_and_are_called_so():
    net, x, y = toy()
    judgement, found = compared(net, Through(net, lambda net, x: 1000 * net(x)), x, y)
    assert found["false_robustness"].headline
    assert found["false_robustness"].floor_units.sum() == 0
    assert found["false_robustness"].units.mean() > 0.1
    assert found["naive_accuracy"].units.mean() > found["naive_accuracy"].floor_units.mean() + 0.1
    assert torch.equal(found["robust_accuracy"].units, found["robust_accuracy"].floor_units)
    assert found["accuracy_drop"].units.abs().sum() == 0
    assert {"logit-scale", "zero-gradient"} <= {check.name for check in judgement.checks if not check.passed}
    assert "gradients are masked" in judgement.notes[0]
    assert "1e+03 times" in judgement.notes[1]


def test_the_same_model_hides_nothing():
    net, x, y = toy()
    judgement, found = compared(net, net, x, y)
    assert found["false_robustness"].units.sum() == 0
    assert torch.equal(found["naive_accuracy"].units, found["naive_accuracy"].floor_units)
    assert all(check.passed for check in judgement.checks)


def test_what_cannot_be_asked_is_said():
    net, x, y = toy()
    with pytest.raises(ValueError, match="eps_thousandths"):
        compared(net, net, x, y, target=1)
    bare = dataclasses.replace(outcome(net, x), net=None)
    with pytest.raises(ValueError, match="both models"):
        FalseRobustnessJudge().compare(bare, bare, Examples(x, y), INFO, {"eps_thousandths": 1})
    unbounded = dataclasses.replace(INFO, bounds=None)
    with pytest.raises(NotApplicable):
        FalseRobustnessJudge().compare(bare, bare, Examples(x, y), unbounded, {"eps_thousandths": 1})
    assert isinstance(net, nn.Module)
