"""Who masks against whom: everybody against everybody, or a sparse graph (Bell et al., CCS 2020)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence


def neighbours_of(identity: int, identities: Sequence[int], *, degree: int | None, seed: bytes) -> tuple[int, ...]:
    """The neighbours of one identity, ascending.

    With a degree it is Bell et al.'s graph for a semi-honest server (section 3.2, Harary graph under a random
    relabelling): identities stand on a circle in the order of their hashes, and each is tied to the ``degree / 2``
    nearest on either side. Everybody can compute it; it is random only if nobody who chooses the seed knows the
    identities before. (Their graph for a malicious server, in which clients choose, is not built.)

    Args:
        identity: one of ``identities``.
        identities: of the round.
        degree: even; ``None``, or as many as there are others: all of them.
        seed: public randomness of the round.
    """
    others = sorted(set(identities) - {identity})
    if degree is None or degree >= len(others):
        return tuple(others)
    circle = sorted(identities, key=lambda i: hashlib.blake2b(i.to_bytes(8, "little"), key=seed).digest())
    place, n = circle.index(identity), len(circle)
    return tuple(sorted(circle[(place + hop) % n] for s in range(1, degree // 2 + 1) for hop in (s, -s)))


def threshold_of(degree: int, *, active_server: bool) -> int:
    """The fewest of ``degree`` neighbours that open a secret.

    More than half: the server cannot get both shares of one client by telling two stories to honest neighbours. More
    than two thirds: not even if it has up to a third of them on its side (Bonawitz et al. 2017, theorems 6.4, 6.5).
    """
    return max(1, 2 * degree // 3 + 1 if active_server else degree // 2 + 1) if degree > 1 else 1


def most_colluders(degree: int, threshold: int) -> int:
    """Colluding neighbours ``c`` that an active server may have: ``2 threshold > degree + c`` and ``c < threshold``."""
    return min(2 * threshold - degree - 1, threshold - 1)


def risk(n: int, *, degree: int, threshold: int, colluding: float, dropouts: float) -> tuple[float, float]:
    """How likely a sparse graph gives way in one round (union bounds; Bell et al., section 3.2).

    Args:
        n: identities.
        degree: neighbours of each.
        threshold: of each neighbourhood.
        colluding: share of the identities on the server's side.
        dropouts: share that vanishes.

    Returns:
        The chance that some client is unmasked: too many of its neighbours collude, or the honest that stay fall into
        two parts of the circle; and the chance that some secret cannot be recovered. Neighbours are drawn without
        replacement.
    """
    corrupt, gone = math.floor(colluding * (n - 1)), math.floor(dropouts * (n - 1))
    surrounded = n * _tail(n - 1, corrupt, degree, threshold)
    # two gaps of half the degree each are needed to cut the circle
    gap = _tail(n, min(n, corrupt + gone), degree // 2, degree // 2)
    cut = 0.0 if degree >= n - 1 else min(1.0, (n * gap) ** 2)
    lost = n * _tail(n - 1, gone, degree, degree - threshold + 1)
    return min(1.0, surrounded + cut), min(1.0, lost)


def _tail(population: int, marked: int, drawn: int, least: int) -> float:
    """Hypergeometric: the chance that at least ``least`` of ``drawn`` are marked."""
    total = math.comb(population, drawn)
    hits = range(max(least, 0), min(drawn, marked) + 1)
    return sum(math.comb(marked, k) * math.comb(population - marked, drawn - k) for k in hits) / total
