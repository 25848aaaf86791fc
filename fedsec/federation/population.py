"""Who takes part: the population as index arrays, and the cohort of a round."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsec.data.source import ClientIndex
from fedsec.randomness import numpy_generator


@dataclass(frozen=True, kw_only=True)
class Participation:
    """How cohorts are formed.

    Attributes:
        clients_per_round: expected size of a cohort.
        sampling: ``fixed`` (without replacement) or ``poisson`` (each client by itself).
        availability: share of clients that can be reached in a round.
        dropouts: share of a cohort that vanishes after it was asked.
        stragglers: share of a cohort that does only a part of its local steps.
    """

    clients_per_round: int
    sampling: str = "fixed"
    availability: float = 1.0
    dropouts: float = 0.0
    stragglers: float = 0.0


@dataclass(frozen=True)
class RoundCohort:
    """The identities of one round.

    Attributes:
        asked: identities that the server sent the model to, ascending.
        answered: those of them that upload, ascending.
        effort: share of its local steps that each of ``answered`` does, in (0, 1].
    """

    asked: NDArray[np.int64]
    answered: NDArray[np.int64]
    effort: NDArray[np.float64]


@dataclass(frozen=True)
class Population:
    """All identities: clients with data, and Sybils that an adversary added.

    Attributes:
        index: which examples each client holds.
        sybils: identities beyond ``len(index)``.
        controlled: ``(clients + sybils,)`` bool.
    """

    index: ClientIndex
    sybils: int
    controlled: NDArray[np.bool_]

    @classmethod
    def of(cls, index: ClientIndex, *, fraction: float, sybils: int, seed: int) -> Population:
        """Put the adversary in place of a share of the clients (the same ones for every attack) and add Sybils."""
        clients = len(index)
        controlled = np.zeros(clients + sybils, dtype=np.bool_)
        count = round(fraction * clients)
        if fraction > 0 and count == 0:
            count = 1
        order = numpy_generator(seed, "controlled").permutation(clients) if count else np.zeros(0, np.int64)
        controlled[order[:count]] = True
        controlled[clients:] = True
        return cls(index, sybils, controlled)

    @property
    def size(self) -> int:
        """Number of identities."""
        return len(self.index) + self.sybils

    @property
    def compromised(self) -> float:
        """Share of the identities that the adversary controls."""
        return float(self.controlled.mean()) if self.size else 0.0


def standings(clients: int, *, seed: int) -> NDArray[np.float64]:
    """Where each client stands among all, ``(clients,)`` evenly spread in (0, 1), dealt at random once.

    The clients that stand below ``s`` are the same for the whole federation, ``s clients`` of them to the nearest
    whole number, and all of those that stand below a smaller share are among them.

    Args:
        clients: number of clients.
        seed: of the federation.
    """
    places = numpy_generator(seed, "standing").permutation(clients)
    return np.asarray((places + 0.5) / max(clients, 1), dtype=np.float64)


def draw_cohort(
    population: Population,
    how: Participation,
    *,
    round_index: int,
    seed: int,
    admitted: NDArray[np.int64] | None = None,
    sure: tuple[int, ...] = (),
) -> RoundCohort:
    """The cohort of a round.

    Args:
        population: all identities.
        how: sampling, availability, dropouts, stragglers.
        round_index: the round, counted from 0.
        seed: of the federation.
        admitted: ascending identities that may take part; ``None`` for all.
        sure: identities that take part in any case, in the place of others drawn.
    """
    random = numpy_generator(seed, "cohort", round_index)
    size = population.size if admitted is None else len(admitted)
    pool: NDArray[np.int64] | int = size if admitted is None else admitted
    if how.availability < 1.0:
        there = np.flatnonzero(random.random(size) < how.availability)
        pool = there if admitted is None else admitted[there]
    reachable = size if isinstance(pool, int) else len(pool)
    if how.sampling == "poisson":
        # Equal in law to asking each client by itself, without a draw per client.
        count = int(random.binomial(reachable, min(1.0, how.clients_per_round / size)))
    elif how.clients_per_round >= len(population.index):
        count = reachable
    else:
        count = min(how.clients_per_round, reachable)
    asked = np.sort(random.choice(pool, size=count, replace=False, shuffle=False).astype(np.int64))
    asked = _with(asked, sure)
    count = len(asked)
    stays = np.ones(count, dtype=np.bool_)
    if how.dropouts > 0:
        stays = (random.random(count) >= how.dropouts) | np.isin(asked, sure)
    effort = np.ones(count)
    if how.stragglers > 0:
        slow = random.random(count) < how.stragglers
        effort[slow] = random.uniform(0.1, 0.9, size=int(slow.sum()))
    return RoundCohort(asked, asked[stays], effort[stays])


def _with(asked: NDArray[np.int64], sure: tuple[int, ...]) -> NDArray[np.int64]:
    """The drawn identities with those that are sure to come, which take the places of the first others."""
    missing = np.setdiff1d(np.asarray(sure, dtype=np.int64), asked)
    if not len(missing):
        return asked
    others = asked[~np.isin(asked, sure)]
    given_up = others[: min(len(missing), len(others))]
    return np.union1d(np.setdiff1d(asked, given_up), missing)
