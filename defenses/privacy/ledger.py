"""What each client spends for its own examples, over all rounds and local steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .accounting import Accountant, epsilon_spent

_PAIRS = 12
"""Ledgers that are accounted one by one; more are put in groups, each by its worst rate and its most steps."""


@dataclass(frozen=True, order=True)
class Ledger:
    """One client's use of the subsampled Gaussian mechanism on its examples.

    Attributes:
        rate: Poisson sampling rate of an example in a local step; 1 is no sampling.
        steps: local steps in all rounds.
    """

    rate: float
    steps: int

    def epsilon(self, *, noise_multiplier: float, delta: float, accountant: Accountant) -> float:
        """Epsilon after all steps; see `epsilon_spent`."""
        return epsilon_spent(
            noise_multiplier=noise_multiplier, rate=self.rate, steps=self.steps, delta=delta, accountant=accountant
        )


def ledger_of(*, examples: int, batch_size: int | None, epochs: int, most_steps: int, rounds: int) -> Ledger:
    """The ledger of a client that takes part in every round with all its local steps.

    Args:
        examples: that it holds.
        batch_size: expected examples per local step; ``None``: all.
        epochs: passes per round.
        most_steps: per round.
        rounds: of the training.
    """
    size = examples if batch_size is None else min(batch_size, examples)
    steps = min(most_steps, epochs * math.ceil(examples / size))
    return Ledger(size / examples, rounds * steps)


def ledgers(
    holdings: tuple[int, ...], *, batch_size: int | None, local_steps: int, rounds: int
) -> tuple[tuple[Ledger, ...], int]:
    """The ledgers of all clients, each once, and how many clients hold examples.

    Clients hold different examples, so what they spend is a maximum over clients, never a sum (parallel composition).

    Args:
        holdings: examples of each client; those that hold none spend nothing.
        batch_size: see `ledger_of`.
        local_steps: of the largest client in a round.
        rounds: see `ledger_of`.
    """
    sizes = sorted({n for n in holdings if n > 0})
    if not sizes:
        return (), 0
    per_epoch = 1 if batch_size is None else math.ceil(sizes[-1] / min(batch_size, sizes[-1]))
    epochs = math.ceil(local_steps / per_epoch)
    found = {
        ledger_of(examples=n, batch_size=batch_size, epochs=epochs, most_steps=local_steps, rounds=rounds)
        for n in sizes
    }
    return tuple(sorted(found)), sum(n > 0 for n in holdings)


def worst(found: tuple[Ledger, ...], *, noise_multiplier: float, delta: float, accountant: Accountant) -> float:
    """The largest epsilon of any of the ledgers; an upper bound of it where they are very many."""
    if not found:
        return 0.0
    ordered = sorted(found)
    size = math.ceil(len(ordered) / _PAIRS)
    groups = [ordered[first : first + size] for first in range(0, len(ordered), size)]
    bounds = {Ledger(max(one.rate for one in group), max(one.steps for one in group)) for group in groups}
    # a ledger that another one exceeds in both cannot be the worst
    leading = [a for a in bounds if not any(b != a and b.rate >= a.rate and b.steps >= a.steps for b in bounds)]
    return max(one.epsilon(noise_multiplier=noise_multiplier, delta=delta, accountant=accountant) for one in leading)
