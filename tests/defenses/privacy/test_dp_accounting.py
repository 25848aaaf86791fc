"""Epsilons beside those of dp-accounting, recorded by `benchmarks/peers/dp_accounting_values.py`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from scipy.optimize import minimize_scalar

from fedsec.defenses.privacy.accounting import epsilon_spent
from fedsec.defenses.privacy.tree import tree_sensitivity
from fedsec.epsilon.gaussian import gaussian_epsilon

ROWS: list[dict[str, Any]] = json.loads(Path(__file__).with_name("dp_accounting_values.json").read_text())
SAMPLED = [row for row in ROWS if row["mechanism"] == "sampled"]
TREES = [row for row in ROWS if row["mechanism"] == "tree"]


def named(row: dict[str, Any]) -> str:
    return f"noise {row['noise']}, {row['steps']} steps"


@pytest.mark.parametrize("row", SAMPLED, ids=named)
def test_sampled_gaussians_within_a_percent(row: dict[str, Any]) -> None:
    """Both accountants; the numerical one is an upper end, so never below the other library's estimate."""
    setting = {"noise_multiplier": row["noise"], "rate": row["rate"], "steps": row["steps"], "delta": row["delta"]}
    renyi = epsilon_spent(**setting, accountant="rdp")
    numerical = epsilon_spent(**setting, accountant="prv")
    assert renyi == pytest.approx(row["rdp"], rel=0.01)
    assert numerical == pytest.approx(row["pld"], rel=0.01)
    assert row["pld"] * (1 - 1e-3) <= numerical < renyi


@pytest.mark.parametrize("row", TREES, ids=named)
def test_trees_have_the_sensitivity_of_their_levels(row: dict[str, Any]) -> None:
    """Its Renyi bound follows from our sensitivity, and our exact epsilon lies below it."""
    mu = tree_sensitivity(row["steps"], participations=1) / row["noise"]

    def of_order(log_alpha: float) -> float:
        alpha = 1 + math.exp(log_alpha)
        return alpha * mu**2 / 2 + math.log1p(-1 / alpha) - (math.log(row["delta"]) + math.log(alpha)) / (alpha - 1)

    assert minimize_scalar(of_order, bounds=(-5, 7), method="bounded").fun == pytest.approx(row["rdp"], rel=0.01)
    assert 0.8 * row["rdp"] < gaussian_epsilon(mu, row["delta"]) < row["rdp"]
