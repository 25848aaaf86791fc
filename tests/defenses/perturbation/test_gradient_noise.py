"""Noise without an account: it has the deviation that it says, and promises nothing."""

from __future__ import annotations

import math

import pytest
import torch
from compression_scene import context_of, layout_of, rows
from scipy.stats import kstest, laplace, norm

from fedsec.defenses.perturbation.gradient_noise import GradientNoise
from fedsec.protocol.payload import Plain


@pytest.mark.parametrize(
    ("distribution", "law"), [("gaussian", norm(scale=0.3)), ("laplace", laplace(scale=0.3 / math.sqrt(2)))]
)
def test_noise_has_the_law_that_it_names(distribution, law) -> None:
    layout = layout_of((5000,))
    values = rows(2, 5000)
    stage = GradientNoise(noise_std=0.3, distribution=distribution)
    sent = stage.seal(Plain(values, torch.tensor([3.0, 4.0])), context_of(layout, (1, 2)))
    drawn = (sent.values - values).double()
    assert kstest(drawn.flatten().numpy(), law.cdf).pvalue > 1e-3
    assert abs(float(torch.corrcoef(drawn)[0, 1])) < 0.06
    assert torch.equal(sent.weights, torch.tensor([3.0, 4.0]))
    again = stage.seal(Plain(values[1:], torch.ones(1)), context_of(layout, (2,)))
    assert torch.equal(again.values[0], sent.values[1])


def test_it_bounds_nothing_and_averages_out() -> None:
    """An update of any size passes whole, so no epsilon is finite; rounds average the noise away."""
    layout, stage = layout_of((50,)), GradientNoise(noise_std=0.1)
    large = 1e4 * rows(1, 50)
    sent = stage.seal(Plain(large, torch.ones(1)), context_of(layout, (0,)))
    assert sent.values.norm() > 0.999 * large.norm()
    update = rows(1, 50)
    seen = [stage.seal(Plain(update, torch.ones(1)), context_of(layout, (0,), round=r)).values for r in range(400)]
    assert (torch.stack(seen).mean(0) - update).abs().max() < 0.1 * 5 / 20
    claims = stage.claims(None)
    assert "epsilon" not in claims
    assert claims["privacy"].startswith("none")
    assert "dp" not in GradientNoise.name
