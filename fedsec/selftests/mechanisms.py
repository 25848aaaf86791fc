"""Differential privacy: the noise that is claimed, the sensitivity that it is measured against, and all rounds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedsec.epsilon.claims import EVERYONE, HOLDS_AGAINST
from fedsec.epsilon.gaussian import gaussian_epsilon
from fedsec.selftests.answers import Answer, KnownAnswer, below
from fedsec.selftests.bench import CLIENTS, ROUNDS, Bench

_REPEATS = 40
_ENOUGH = 20_000
NOISE = {
    "noise_std": "of every round",
    "noise_std_first_round": "of the first round",
    "noise_std_final": "of the sum of all rounds",
}
"""Claims of a standard deviation, and what each is of."""


def _claimed_noise(bench: Bench) -> tuple[str, float] | None:
    for name in NOISE:
        value = bench.number(name)
        if value is not None:
            return name, value
    return None


def noisy(bench: Bench) -> str:
    """A claimed standard deviation of noise on updates."""
    if not bench.changes_rounds:
        return "it does nothing to updates"
    return "" if _claimed_noise(bench) else "it claims no noise on updates"


def measured_noise(bench: Bench) -> Answer:
    """The variance of what comes of zeros against the claim, at rows if they are noised, else at the opened mean."""
    name, claimed = _claimed_noise(bench) or ("", 0.0)
    parts: list[Tensor] = []
    while sum(part.numel() for part in parts) < _ENOUGH and len(parts) < _REPEATS:
        parts.append(_noise_of_zeros(bench, name, len(parts)))
    drawn = torch.cat(parts)
    drawn = drawn - drawn.mean()
    measured = float(drawn.square().mean().sqrt())
    # six standard errors of a variance estimated from this many independent Gaussians, for the deviation
    tolerance = max(6 * math.sqrt(2 / drawn.numel()) / 2, 0.005)
    holds = abs(measured / claimed - 1) <= tolerance if claimed else measured == 0.0
    found = f"standard deviation {measured:.4g} over {drawn.numel()} draws"
    return Answer(holds, found, f"{claimed:.4g} within {tolerance:.1%} (claimed as `{name}`)")


def _noise_of_zeros(bench: Bench, name: str, draw: int) -> Tensor:
    zeros, stages = torch.zeros_like(bench.updates()), bench.stages(seed=draw)
    if name == "noise_std_final":
        return torch.stack([bench.round(stages, zeros, number=number).mean for number in range(ROUNDS)]).sum(0)
    done = bench.round(stages, zeros, number=0 if name.endswith("first_round") else draw % ROUNDS)
    if bench.in_clear and bool((done.rows != 0).any()):
        return done.rows.flatten()
    return done.mean


def _bound(bench: Bench) -> float | None:
    """Sensitivity for one client that the noise was made for: claimed, or noise over its multiplier."""
    stated = bench.number("sensitivity")
    if stated is not None:
        return stated
    multiplier = bench.number("noise_multiplier_of_updates") or bench.number("noise_multiplier")
    noise = _claimed_noise(bench)
    return noise[1] / multiplier if noise and multiplier else None


def bounded(bench: Bench) -> str:
    """An epsilon for clients, with noise and its multiplier."""
    if not bench.changes_rounds:
        return "it does nothing to updates"
    if bench.claims.get("unit") != "client" or bench.number("epsilon") is None:
        return "it claims no epsilon for clients"
    return "" if _bound(bench) else "it does not say what its noise is measured against"


def sensitivity(bench: Bench) -> Answer:
    """One client of great weight sends a huge update, or nothing: how far that moves what the claim covers."""
    bound = _bound(bench) or 0.0
    weights = torch.ones(CLIENTS, dtype=torch.float64)
    weights[3] = 1000.0
    base = bench.updates()
    replace = str(bench.claims.get("adjacency", "")).startswith("replace")
    by_row = bench.claims.get(HOLDS_AGAINST) == EVERYONE and bench.in_clear
    worst = 0.0
    for draw in range(4):
        huge = 1e4 * bench.updates(1, size=1.0, draw=10 + draw)[0]
        one, other = base.clone(), base.clone()
        one[3], other[3] = huge, -huge if replace else torch.zeros_like(huge)
        a, b = (bench.round(bench.stages(seed=draw), values, weights) for values in (one, other))
        moved = (a.rows[3] - b.rows[3]) if by_row else (a.mean - b.mean)
        worst = max(worst, float(moved.norm()))
    allowed = (2.0 if replace else 1.0) * bound
    what = "one client moves its upload by" if by_row else "one client moves the opened mean by"
    return below(worst, allowed * (1 + 1e-4) + 1e-6, what)


def claims_epsilon(bench: Bench) -> str:
    """A finite epsilon."""
    epsilon = bench.number("epsilon")
    return "" if epsilon is not None and math.isfinite(epsilon) else "it claims no finite epsilon"


def complete_claim(bench: Bench) -> Answer:
    """Everything without which an epsilon means nothing, and a delta that promises something."""
    missing = [key for key in ("delta", "unit", "adjacency", "sampler", "accountant") if key not in bench.claims]
    delta = bench.number("delta")
    if delta is not None and delta >= 1 / CLIENTS:
        missing.append(f"a delta below 1/{CLIENTS} (found {delta:g})")
    if HOLDS_AGAINST not in bench.claims:
        missing.append(f"against whom it holds (`{HOLDS_AGAINST}`)")
    return Answer(not missing, "missing: " + ", ".join(missing) if missing else "complete", "a complete claim")


def accounted(bench: Bench) -> str:
    """An epsilon together with delta and a noise multiplier."""
    if claims_epsilon(bench):
        return claims_epsilon(bench)
    known = bench.number("delta") and bench.number("noise_multiplier")
    return "" if known else "it states no delta or no noise multiplier"


def composition(bench: Bench) -> Answer:
    """Epsilon over rounds, all clients in all of them: no less than Gaussians of this noise compose to.

    Without sampling ``T`` Gaussian mechanisms are exactly one with ``sqrt(T)`` times the sensitivity (Dong, Roth, Su
    2022, corollary 3.3), so a smaller epsilon is wrong whatever the accountant.
    """
    short: list[str] = []
    said: list[str] = []
    for rounds in (1, 4, 16, 64):
        claims = bench.claims_of(rounds=rounds)
        epsilon, delta, multiplier = (float(claims[key]) for key in ("epsilon", "delta", "noise_multiplier"))
        replace = str(claims.get("adjacency", "")).startswith("replace one client")
        least = gaussian_epsilon(math.sqrt(rounds) * (2.0 if replace else 1.0) / multiplier, delta)
        said.append(f"{epsilon:.3g}")
        if epsilon < 0.99 * least:
            short.append(f"{epsilon:.3g} after {rounds} rounds, where {least:.3g} is spent")
    found = "; ".join(short) or f"epsilon {', '.join(said)} after 1, 4, 16, 64 rounds"
    return Answer(not short, found, "at least what the rounds compose to")


TESTS = (
    KnownAnswer("noise", "Is the noise as large as claimed", noisy, measured_noise),
    KnownAnswer("sensitivity", "Does one client move the result by no more than claimed", bounded, sensitivity),
    KnownAnswer("complete-claim", "Does the epsilon come with what gives it a meaning", claims_epsilon, complete_claim),
    KnownAnswer("composition", "Does epsilon grow with the rounds", accounted, composition),
)
