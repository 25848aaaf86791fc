"""Claimed epsilons, and which of them a measured one can be held against."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedsec.epsilon.guesses import Method

HOLDS_AGAINST = "holds_against"
"""Key of a claim: one of the two texts that follow. Without it, a claim is one against those who see releases."""
OUTSIDERS = "those who see released models"
EVERYONE = "everyone else, the server included"

EXACT_GAUSSIAN = "exact Gaussian composition"
"""In the accountant's name of a claim whose mechanism is Gaussian-DP: no sampling, so its whole curve is claimed."""


@dataclass(frozen=True)
class Claim:
    """One claimed epsilon for whether a client took part.

    Attributes:
        defense: who claims it.
        epsilon: finite.
        delta: with it.
        adjacency: what must look alike.
        method: the one-run test that fits what is claimed.
    """

    defense: str
    epsilon: float
    delta: float
    adjacency: str
    method: Method


def claims_for_clients(claims: Sequence[Mapping[str, float | str]]) -> list[tuple[Claim, bool]]:
    """The finite claims whose unit is a client, and whether each holds against the server too.

    Args:
        claims: as `Defense.claims` gives them, with the key ``defense``.
    """
    found = []
    for claim in claims:
        epsilon, delta = claim.get("epsilon"), claim.get("delta")
        if claim.get("unit") != "client" or not isinstance(epsilon, float | int) or not isinstance(delta, float | int):
            continue
        if not math.isfinite(epsilon):
            continue
        exact = EXACT_GAUSSIAN in str(claim.get("accountant", ""))
        one = Claim(
            defense=str(claim.get("defense", "")),
            epsilon=float(epsilon),
            delta=float(delta),
            adjacency=str(claim.get("adjacency", "")),
            method="gaussian-dp" if exact and delta > 0 else "f-dp",
        )
        found.append((one, claim.get(HOLDS_AGAINST) == EVERYONE))
    return found
