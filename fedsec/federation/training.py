"""How a client trains: the local part of the algorithm."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

SCHEDULES = ("constant", "cosine", "one-cycle")

_RISE = 0.3
"""Share of the rounds in which the rate of ``one-cycle`` rises."""


@dataclass(frozen=True, kw_only=True)
class LocalTraining:
    """Local training of one client in one round.

    Attributes:
        epochs: passes over the shard.
        batch_size: examples per step; ``None`` is the whole shard. The last batch of an epoch may be smaller.
        optimizer: ``sgd``, ``momentum``, ``adagrad``, ``rmsprop`` or ``adam``; state starts at zero each round.
        learning_rate: of the local optimizer.
        momentum: of ``momentum``; the decay 0.99 of ``rmsprop`` and the betas 0.9, 0.999 of ``adam`` are fixed.
        weight_decay: L2 penalty added to the gradient.
        proximal: FedProx's mu (Li et al. 2020, eq. 2): adds ``mu (w - w_global)`` to the gradient.
        max_steps: steps at the most, ``None`` for no limit (stragglers do fewer).
        schedule: of the learning rate over the rounds, one of `SCHEDULES`; see `in_round`.
        rounds: over which it runs.
    """

    epochs: int = 1
    batch_size: int | None = 32
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    proximal: float = 0.0
    max_steps: int | None = None
    schedule: str = "constant"
    rounds: int = 1

    def in_round(self, number: int) -> LocalTraining:
        """The local training of a round, counted from 0, with its own learning rate and no schedule.

        ``cosine`` falls from the full rate along half a cosine (Loshchilov and Hutter 2017, eq. 5, without restarts)
        that would end at 0 in the round after the last. ``one-cycle`` first rises to it in equal parts over the first
        30 % of the rounds, the shape of Smith and Topin 2018 with a cosine for the way down. No round has the rate 0.
        """
        if self.schedule == "constant":
            return self
        number = min(number, self.rounds - 1)
        rise = math.ceil(_RISE * self.rounds) if self.schedule == "one-cycle" else 0
        if number < rise:
            share = (number + 1) / (rise + 1)
        else:
            share = (1 + math.cos(math.pi * (number - rise) / max(1, self.rounds - rise))) / 2
        return replace(self, learning_rate=share * self.learning_rate, schedule="constant")

    def steps(self, examples: int) -> int:
        """Number of local steps of a client with that many examples."""
        per_epoch = 1 if self.batch_size is None else math.ceil(examples / self.batch_size)
        steps = self.epochs * per_epoch if examples else 0
        return steps if self.max_steps is None else min(steps, self.max_steps)
