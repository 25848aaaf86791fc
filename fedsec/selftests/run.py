"""All known answers on one defense."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import torch

from fedsec.federation.engines import one_thread
from fedsec.protocol.compose import check_stack
from fedsec.protocol.stage import Defense
from fedsec.selftests import clipping_and_compression, conduct, mechanisms, secrets_held, sums
from fedsec.selftests.answers import KnownAnswer, Outcome, Result
from fedsec.selftests.bench import CLIENTS, Bench, setting_of

TESTS: tuple[KnownAnswer, ...] = (
    *conduct.TESTS,
    *sums.TESTS,
    *secrets_held.TESTS,
    *mechanisms.TESTS,
    *clipping_and_compression.TESTS,
)


FEWEST = 3
"""Smallest cohort whose sum a stage must open on the bench, where clients vanish."""


@dataclass(frozen=True)
class SelfTests:
    """What came of all tests.

    Attributes:
        defense: its name.
        parameters: that it was tried with.
        results: one per test.
        alone: why the planner refuses the defense alone in the bench's federation; tests run all the same.
    """

    defense: str
    parameters: dict[str, Any]
    results: tuple[Result, ...]
    alone: tuple[str, ...]

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the tests that failed."""
        return tuple(result.test for result in self.results if result.outcome == "fails")

    @property
    def holds(self) -> bool:
        """Whether every known answer that applies came out."""
        return not self.failed

    def document(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "defense": self.defense,
            "parameters": self.parameters,
            "holds": self.holds,
            "failed": list(self.failed),
            "applied": sum(result.outcome != "does not apply" for result in self.results),
            "refused_alone": list(self.alone),
            "tests": [asdict(result) for result in self.results],
        }


def check_defense(defense: Defense, *, seed: int = 0) -> SelfTests:
    """Try every known answer that applies, and those that the defense brings along.

    Sizes that belong to another federation are replaced by those of the bench; see `at_bench`.

    Args:
        defense: with the parameters to be tried.
        seed: of what the bench draws.
    """
    defense = at_bench(defense)
    bench = Bench(defense, seed)
    with one_thread(torch.device("cpu")):
        results = tuple(_tried(test, bench) for test in (*TESTS, *_own(defense)))
    refusals = check_stack((defense,), setting_of(stack=defense.name))
    return SelfTests(
        defense=defense.name,
        parameters=dict(defense.parameters()),
        results=results,
        alone=tuple(f"{refusal.found}: {refusal.why}" for refusal in refusals),
    )


def at_bench(defense: Defense) -> Defense:
    """The defense with room for the weights and the number of the bench's clients, if it has too little.

    A stage that was given the largest weight or the fewest clients of the audited federation would refuse the bench's,
    which is no fault of it.
    """
    given = defense.parameters()
    changed: dict[str, int] = {}
    for name in ("max_weight", "largest_weight"):
        if isinstance(given.get(name), int) and given[name] < CLIENTS:
            changed[name] = CLIENTS
    if isinstance(given.get("minimum_cohort"), int) and given["minimum_cohort"] > FEWEST:
        changed["minimum_cohort"] = FEWEST
    fitted: Defense = replace(cast("Any", defense), **changed) if changed else defense
    return fitted


def _own(defense: Defense) -> tuple[KnownAnswer, ...]:
    """Known answers that a defense brings along, in a method ``known_answers``: of a protocol of its own."""
    brought: Callable[[], Iterable[KnownAnswer]] | None = getattr(defense, "known_answers", None)
    return () if brought is None else tuple(brought())


def _tried(test: KnownAnswer, bench: Bench) -> Result:
    started = time.perf_counter()
    try:
        reason = test.applies(bench)
        if reason:
            return Result(test.name, test.about, "does not apply", reason, "", time.perf_counter() - started)
        answer = test.run(bench)
    except Exception as error:  # a defense that breaks fails this test; the others go on
        found = f"{type(error).__name__}: {error}"
        return Result(test.name, test.about, "fails", found, "no error", time.perf_counter() - started)
    outcome: Outcome = "holds" if answer.holds else "fails"
    seconds = time.perf_counter() - started
    return Result(test.name, test.about, outcome, answer.found, answer.expected, seconds)


__all__ = ["TESTS", "SelfTests", "check_defense"]
