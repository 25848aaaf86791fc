"""The known answers of each defense: what was tried, and what came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .document import Audit, rows, table, texts


@dataclass(frozen=True, kw_only=True)
class Test:
    """One known answer that applies."""

    name: str
    about: str
    holds: bool
    found: str
    expected: str


@dataclass(frozen=True, kw_only=True)
class Tested:
    """One defense with its parameters.

    Attributes:
        defense: its name with parameters.
        stacks: that have it.
        verdict: in a few words.
        holds: whether all that apply held; ``None`` if none applies.
        tests: failed ones first.
    """

    defense: str
    stacks: tuple[str, ...]
    verdict: str
    holds: bool | None
    tests: tuple[Test, ...]


def selftests(audit: Audit) -> tuple[Tested, ...]:
    """Every defense whose known answers were tried, in the order of the file."""
    return tuple(_tested(row) for row in rows(audit.raw, "selftests"))


def _tested(row: Mapping[str, Any]) -> Tested:
    applied = [one for one in rows(row, "tests") if one.get("outcome") in {"holds", "fails"}]
    tests = tuple(
        Test(
            name=str(one.get("test") or ""),
            about=str(one.get("about") or ""),
            holds=one.get("outcome") == "holds",
            found=str(one.get("found") or ""),
            expected=str(one.get("expected") or ""),
        )
        for one in applied
    )
    failed = [test.name for test in tests if not test.holds]
    verdict = f"{len(failed)} of {len(tests)} fail: {', '.join(failed)}" if failed else f"all {len(tests)} hold"
    given = ", ".join(f"{name}={value}" for name, value in table(row, "parameters").items() if value is not None)
    name = str(row.get("defense") or "")
    return Tested(
        defense=f"{name}({given})" if given else name,
        stacks=tuple(texts(row, "stacks")),
        verdict=verdict if tests else "none applies: nothing was shown",
        holds=not failed if tests else None,
        tests=tuple(sorted(tests, key=lambda test: test.holds)),
    )


__all__ = ["Test", "Tested", "selftests"]
