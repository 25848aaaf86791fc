"""What both client-level mechanisms refuse, and why."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Annotated

from pydantic import Field

from fedsec.errors import ConfigurationError, Problem
from fedsec.protocol.stage import Defense, Setting

ClipBound = Annotated[float, Field(gt=0, description="largest L2 norm of an update (units of the parameters)")]
Budget = Annotated[
    float | None, Field(gt=0, description="budget for the whole training; the noise multiplier is solved from it")
]
Delta = Annotated[float | None, Field(gt=0, lt=1, description="delta; by default 1 / (10 clients), at most 0.001")]
SMALL_POPULATION = 100
"""Below so many clients, hiding one of them costs the model most of what it learns; the claim says so."""


def common_problems(setting: Setting, *, delta: float) -> list[tuple[str, str]]:
    """Batch norm, and a delta that promises nothing."""
    found: list[tuple[str, str]] = []
    if setting.has_batch_norm:
        found.append(
            (
                "batch-norm statistics travel in the update: noise makes running variances negative, and they mix "
                "the examples of a batch",
                "use a model with group norm, and compare with the same model without noise",
            )
        )
    if delta >= 1 / setting.population:
        found.append(
            (
                f"delta {delta:g} is not below 1/{setting.population}: publishing one random client outright "
                "would satisfy it",
                f"set `delta: {1 / (10 * setting.population):g}` or leave it out",
            )
        )
    return found


def rules_that_are_no_mean(stack: tuple[str, ...]) -> list[str]:
    """Defenses of the stack that replace the mean, or what is averaged, by something that compares clients.

    The sensitivity of the result is then not the bound over the cohort: one client more or less changes which
    neighbours others are averaged with, or how far others are clipped.
    """
    return implementing(("aggregate", "preaggregate"), stack)


def implementing(hooks: tuple[str, ...], stack: tuple[str, ...]) -> list[str]:
    """Names of the defenses in the stack that have one of these hooks."""
    found: list[str] = []
    for entry in entry_points(group="fedsec.defenses"):
        if entry.name in stack:
            plugin = entry.load()
            if issubclass(plugin, Defense) and any(plugin.implements(hook) for hook in hooks):
                found.append(entry.name)
    return found


def at_most_one(name: str, first: tuple[str, float | None], second: tuple[str, float | None]) -> None:
    """Refuse two parameters of which one follows from the other.

    Raises:
        ConfigurationError: both are given.
    """
    if first[1] is not None and second[1] is not None:
        raise ConfigurationError(
            [
                Problem(
                    path=f"defenses.{name}",
                    found=f"{first[0]} {first[1]:g} and {second[0]} {second[1]:g}",
                    expected=f"one of `{first[0]}` and `{second[0]}`: each determines the other",
                    hint=f"Leave out `{first[0]}`",
                )
            ]
        )


def caveat(population: int) -> dict[str, float | str]:
    """What must stand beside an epsilon for a handful of clients."""
    if population >= SMALL_POPULATION:
        return {}
    return {"caveat": f"with {population} clients, hiding one of them leaves little to learn from the others"}
