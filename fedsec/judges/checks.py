"""Checks on whether a measured number can be believed, and the verdict that they come to together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison.

    Attributes:
        name: in kebab-case.
        passed: whether it is as with useful gradients.
        text: what was found, in one sentence with its figures.
        figures: the numbers by name; shares unless they say otherwise.
    """

    name: str
    passed: bool
    text: str
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Battery:
    """What the battery found of one model.

    Attributes:
        checks: in a fixed order; none where too few inputs are read rightly.
        inputs: how many were used.
        size: perturbation at which attacks were compared, in widths of the bounds: about half survive there.
    """

    checks: tuple[Check, ...]
    inputs: int
    size: float

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that failed."""
        return tuple(check.name for check in self.checks if not check.passed)

    @property
    def masked(self) -> bool | None:
        """Whether gradients are masked; ``None`` if that was not checked."""
        return bool(self.failed) if self.checks else None

    @property
    def text(self) -> str:
        """The verdict in one sentence."""
        if not self.checks:
            return f"Masking was not checked: only {self.inputs} inputs are read rightly."
        if not self.failed:
            return f"Masking battery: no sign of masked gradients ({len(self.checks)} checks on {self.inputs} inputs)."
        return (
            f"Masking battery: gradients are masked ({', '.join(self.failed)}; {len(self.failed)} of "
            f"{len(self.checks)} checks on {self.inputs} inputs failed), so attacks by gradients understate the harm."
        )
