"""How often a lower bound is right: audits of a Gaussian mechanism whose epsilon is known exactly, and of broken twins.

The mechanism is one round of client-level DP: canaries send random directions of a large norm, the included ones are
clipped to 1 and summed, noise is added. A bound at 95 % must lie at or below the true epsilon in 95 % of audits, and
must exceed the claim when the mechanism does less than it claims.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedsec.epsilon.gaussian import gaussian_epsilon
from fedsec.epsilon.guesses import METHODS, as_method, audit_epsilon
from fedsec.epsilon.one_run import one_run_epsilon
from fedsec.epsilon.rates import gaussian_rates_epsilon, known_null_epsilon, rates_epsilon
from fedsec.randomness import numpy_generator
from fedsec.statistics.intervals import clopper_pearson

Floats = NDArray[np.float64]
Coins = NDArray[np.bool_]
Fault = Literal["none", "noise / 10", "no clipping", "wrong sensitivity"]
FAULTS: tuple[Fault, ...] = ("noise / 10", "no clipping", "wrong sensitivity")
LAYERS = 16
"""Parts that the mechanism of wrong sensitivity clips to 1 each, so that the whole has norm 4."""
NORM = 100.0
"""Of what a canary sends before it is clipped."""
THRESHOLD = 2.5
"""In standard deviations of the null, where the bounds from rates look; fixed beforehand."""


def gaussian_audit(
    *, noise: float, canaries: int, dimension: int, generator: np.random.Generator, fault: Fault = "none"
) -> tuple[Floats, Coins]:
    """One audit of a Gaussian mechanism with sensitivity 1.

    Args:
        noise: standard deviation that the mechanism says it adds.
        canaries: ``m``.
        dimension: ``d``, a multiple of 16.
        generator: the only source of randomness.
        fault: what the mechanism does wrong: a tenth of the noise; no clipping; or each of 16 layers clipped to 1,
            with noise for a sensitivity of 1 in all.

    Returns:
        ``(m,)`` scores in standard deviations of the null (cosines times ``sqrt(d)``), and ``(m,)`` coins.
    """
    coins = generator.integers(2, size=canaries).astype(bool)
    directions = generator.standard_normal((canaries, dimension))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    sent = directions[coins] * NORM
    if fault == "wrong sensitivity":
        layers = sent.reshape(len(sent), LAYERS, -1)
        layers /= np.maximum(np.linalg.norm(layers, axis=2, keepdims=True), 1.0)
        sent = layers.reshape(len(sent), dimension)
    elif fault != "no clipping":
        sent /= np.maximum(np.linalg.norm(sent, axis=1, keepdims=True), 1.0)
    added = noise / 10 if fault == "noise / 10" else noise
    released = sent.sum(0) + added * generator.standard_normal(dimension)
    return directions @ released * (math.sqrt(dimension) / float(np.linalg.norm(released))), coins


def _rates(bound: Callable[..., float]) -> Callable[[Floats, Coins, float], float]:
    def audit(scores: Floats, coins: Coins, delta: float) -> float:
        guessed = scores > THRESHOLD
        members, found = int(coins.sum()), int((guessed & coins).sum())
        accused = int((guessed & ~coins).sum())
        return bound(members=members, found=found, nonmembers=len(coins) - members, accused=accused, delta=delta)

    return audit


def _one_run(name: str) -> Callable[[Floats, Coins, float], float]:
    method = as_method(name)
    return lambda scores, coins, delta: audit_epsilon(scores, coins, delta=delta, method=method).value


AUDITS: Mapping[str, Callable[[Floats, Coins, float], float]] = {
    **{name: _one_run(name) for name in METHODS},
    "rates": _rates(rates_epsilon),
    "gaussian-rates": _rates(gaussian_rates_epsilon),
    "known-null": lambda scores, coins, delta: known_null_epsilon(scores[coins], delta=delta),
}
"""Every lower bound: ``(scores, coins, delta) -> epsilon`` at 95 %."""


def bounds(
    *, noise: float, canaries: int, dimension: int, audits: int, delta: float, fault: Fault = "none", seed: int = 0
) -> dict[str, Floats]:
    """Lower bounds of all methods in many audits.

    Args:
        noise: see `gaussian_audit`.
        canaries: see `gaussian_audit`.
        dimension: see `gaussian_audit`.
        audits: how many.
        delta: at which epsilon is asked for.
        fault: see `gaussian_audit`.
        seed: of the coins, directions and noise.

    Returns:
        By method ``(audits,)``.
    """
    random = numpy_generator(seed, "coverage", fault, round(noise * 1000))
    found: dict[str, list[float]] = {name: [] for name in AUDITS}
    for _ in range(audits):
        scores, coins = gaussian_audit(
            noise=noise, canaries=canaries, dimension=dimension, generator=random, fault=fault
        )
        for name, audit in AUDITS.items():
            found[name].append(audit(scores, coins, delta))
    return {name: np.array(values) for name, values in found.items()}


def published_values() -> Mapping[str, float | tuple[float, float, float]]:
    """The one-run bound at seven ``(canaries, guesses, correct, delta)``, keyed by them."""
    cases = (
        (1000, 100, 100, 0.0),
        (1000, 100, 100, 1e-5),
        (1000, 100, 100, 1e-3),
        (1000, 1000, 1000, 1e-5),
        (1000, 200, 150, 1e-5),
        (5000, 100, 95, 1e-5),
        (1000, 1000, 550, 1e-5),
    )
    return {
        f"{m} {r} {v} {delta:g}": one_run_epsilon(canaries=m, guesses=r, correct=v, delta=delta)
        for m, r, v, delta in cases
    }


def reproduction() -> Mapping[str, float | tuple[float, float, float]]:
    """Coverage at three noise levels and the share of broken mechanisms that are flagged, 200 audits each.

    Returns:
        ``coverage | METHOD | NOISE`` and ``flagged | METHOD | FAULT``, each with its exact interval.
    """
    audits, delta, claimed = 200, 1e-5, 2.0
    figures: dict[str, float | tuple[float, float, float]] = {}

    def share(right: Coins) -> tuple[float, float, float]:
        return (float(right.mean()), *clopper_pearson(int(right.sum()), audits))

    for noise in (2.0, 1.0, 0.5):
        true = gaussian_epsilon(1 / noise, delta)
        found = bounds(noise=noise, canaries=400, dimension=1600, audits=audits, delta=delta)
        figures |= {f"coverage | {name} | {noise:g}": share(values <= true) for name, values in found.items()}
    claim = gaussian_epsilon(1 / claimed, delta)
    for fault in FAULTS:
        found = bounds(noise=claimed, canaries=400, dimension=1600, audits=audits, delta=delta, fault=fault)
        figures |= {f"flagged | {name} | {fault}": share(values > claim) for name, values in found.items()}
    return figures
