"""What a known answer is, and what came of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fedsec.selftests.bench import Bench

Outcome = Literal["holds", "fails", "does not apply"]


@dataclass(frozen=True)
class Answer:
    """What one test found.

    Attributes:
        holds: whether the known answer came out.
        found: what was measured, in words with numbers.
        expected: what had to come out.
    """

    holds: bool
    found: str
    expected: str


@dataclass(frozen=True)
class KnownAnswer:
    """One test.

    Attributes:
        name: in kebab-case.
        about: what is asked, in one sentence without a full stop.
        applies: why it does not apply to a defense; empty if it does.
        run: the test.
    """

    name: str
    about: str
    applies: Callable[[Bench], str]
    run: Callable[[Bench], Answer]


@dataclass(frozen=True)
class Result:
    """One test on one defense.

    Attributes:
        test: its name.
        about: what was asked.
        outcome: what came of it.
        found: what was measured, or why the test does not apply.
        expected: what had to come out; empty if it does not apply.
        seconds: that it took.
    """

    test: str
    about: str
    outcome: Outcome
    found: str
    expected: str
    seconds: float


def below(value: float, bound: float, what: str, *, unit: str = "") -> Answer:
    """Whether a value is at most a bound."""
    suffix = f" {unit}" if unit else ""
    return Answer(value <= bound, f"{what} {value:.3g}{suffix}", f"at most {bound:.3g}{suffix}")


__all__ = ["Answer", "KnownAnswer", "Outcome", "Result", "below"]
