"""How a client trains: the local part of the algorithm."""

from __future__ import annotations

import math
from dataclasses import dataclass


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
    """

    epochs: int = 1
    batch_size: int | None = 32
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    proximal: float = 0.0
    max_steps: int | None = None

    def steps(self, examples: int) -> int:
        """Number of local steps of a client with that many examples."""
        per_epoch = 1 if self.batch_size is None else math.ceil(examples / self.batch_size)
        steps = self.epochs * per_epoch if examples else 0
        return steps if self.max_steps is None else min(steps, self.max_steps)
