"""Defenses around the local step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from fedsec.models.lanes import Step, gradient_step


class LocalHook(Protocol):
    """What wraps a local step; every defense does. May say ``replays``, which is 1 if it does not."""

    def local(self, step: Step) -> Step:
        """The wrapped step."""
        ...


@dataclass(frozen=True)
class LocalHooks:
    """The local hooks of a stack. The first of the stack is outermost: it sees the data first, the gradients last."""

    hooks: tuple[LocalHook, ...] = ()

    def step(self) -> Step:
        """The gradient step with every hook around it; `gradient_step` itself if none does anything."""
        step: Step = gradient_step
        for hook in reversed(self.hooks):
            step = hook.local(step)
        return step

    @property
    def replays(self) -> int:
        """How many consecutive steps are taken on each batch; the number of steps does not change."""
        return math.prod(getattr(hook, "replays", 1) for hook in self.hooks)
