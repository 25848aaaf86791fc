"""Losses on logits that attacks raise, and the margin by which a point is misread."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Loss = Literal["ce", "dlr"]
CLEAR = 1e-5
_TINY = 1e-12


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """The lead ``max z_other - z_y`` of the best other class, ``(b,)``; positive where ``y`` is not what is read."""
    own = logits.gather(1, y[:, None])[:, 0]
    return logits.scatter(1, y[:, None], -torch.inf).amax(1) - own


def clearly_misread(logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
    """Whether a point is misread (as its target, if there is one) by more than what another batch size rounds away."""
    lead = margin(logits, y) if targets is None else -margin(logits, targets)
    return lead > CLEAR * logits.abs().amax(1)


def attack_loss(logits: Tensor, y: Tensor, targets: Tensor | None, loss: Loss) -> Tensor:
    """Loss of each example that an attack raises, ``(b,)``.

    Args:
        logits: ``(b, C)``, C at least 2.
        y: ``(b,)`` true classes.
        targets: ``(b,)`` classes to be read instead; ``None`` for any wrong one.
        loss: ``ce``, the cross-entropy (of the target, negated); ``dlr``, the difference of logits ratio of Croce
            and Hein 2020 (equations 6 and 7), which does not change when logits are scaled. The ratio needs 3
            classes, with targets 4; with fewer it is the difference alone.
    """
    if loss == "ce":
        if targets is None:
            return nn.functional.cross_entropy(logits, y, reduction="none")
        return -nn.functional.cross_entropy(logits, targets, reduction="none")
    classes = logits.shape[1]
    ordered = logits.sort(dim=1, descending=True).values
    if targets is None:
        lead = margin(logits, y)
        return lead / (ordered[:, 0] - ordered[:, 2] + _TINY) if classes >= 3 else lead
    lead = (logits.gather(1, targets[:, None]) - logits.gather(1, y[:, None]))[:, 0]
    return lead / (ordered[:, 0] - 0.5 * (ordered[:, 2] + ordered[:, 3]) + _TINY) if classes >= 4 else lead
