"""Defenses around the local step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fedsec.models.lanes import Step, gradient_step


class LocalHook(Protocol):
    """What wraps a local step; every defense does. May say ``replays``, ``share`` and ``poisson``."""

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

    def of(self, standing: float) -> tuple[bool, ...]:
        """Which of the hooks a client of this standing runs (`fedsec.federation.population.standings`)."""
        return tuple(standing < getattr(hook, "share", 1.0) for hook in self.hooks)

    @property
    def replays(self) -> int:
        """How many consecutive steps are taken on each batch; the number of steps does not change."""
        return math.prod(getattr(hook, "replays", 1) for hook in self.hooks)

    @property
    def poisson(self) -> bool:
        """Whether batches are drawn anew for each step, example by example."""
        return any(getattr(hook, "poisson", False) for hook in self.hooks)


@dataclass(frozen=True, eq=False)
class Way:
    """How some of the clients take their steps.

    Attributes:
        number: counted from 0, in the order in which the ways were first needed.
        step: with the hooks that they run.
        replays: consecutive steps on each batch.
        poisson: batches are drawn example by example.
    """

    number: int
    step: Step
    replays: int
    poisson: bool = False


class Ways:
    """One `Way` for each set of hooks that some client runs."""

    def __init__(self, around: LocalHooks) -> None:
        self._around = around
        self._known: dict[tuple[bool, ...], Way] = {}

    def of(self, standings: Sequence[float] | None, count: int) -> list[Way]:
        """The way of each of ``count`` clients; without standings, all run every hook whose share is above 0."""
        return [self._way(self._around.of(0.0 if standings is None else standings[i])) for i in range(count)]

    def _way(self, runs: tuple[bool, ...]) -> Way:
        if runs not in self._known:
            hooks = LocalHooks(tuple(hook for hook, run in zip(self._around.hooks, runs, strict=True) if run))
            self._known[runs] = Way(len(self._known), hooks.step(), hooks.replays, hooks.poisson)
        return self._known[runs]
