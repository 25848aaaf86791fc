"""Which two defenses can stand in one stack, and in which order: told from their declarations, without a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations

from fedsec.protocol.compose import Refusal, check_stack
from fedsec.protocol.stage import Defense, Setting


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Whether two defenses work together.

    Attributes:
        first: the name of one.
        second: the name of the other.
        forward: why ``[first, second]`` is refused; empty if it works.
        backward: why ``[second, first]`` is refused; empty if it works.
    """

    first: str
    second: str
    forward: tuple[Refusal, ...]
    backward: tuple[Refusal, ...]

    @property
    def works(self) -> bool:
        """In one order at least."""
        return not self.forward or not self.backward

    @property
    def any_order(self) -> bool:
        """In both orders."""
        return not self.forward and not self.backward

    def order(self, name: str) -> str:
        """Where the defense of this name must stand: ``first``, ``second``, ``any``, or ``refused``.

        Args:
            name: one of the two.
        """
        if not self.works:
            return "refused"
        if self.any_order:
            return "any"
        return "first" if (name == self.first) == (not self.forward) else "second"

    def other(self, name: str) -> str:
        """The name of the partner."""
        return self.second if name == self.first else self.first


def pairs_of(defenses: Mapping[str, Defense], setting: Setting) -> list[Pair]:
    """Every pair of two different defenses.

    What one of them alone is refused for in this setting is not held against the pair.

    Args:
        defenses: by name.
        setting: the federation; its ``stack`` is replaced by each pair.
    """
    alone = {name: _found(setting, defense) for name, defense in defenses.items()}
    result = []
    for (a, first), (b, second) in combinations(defenses.items(), 2):
        known = alone[a] | alone[b]
        forward = _refusals(setting, first, second, known)
        backward = _refusals(setting, second, first, known)
        result.append(Pair(first=a, second=b, forward=forward, backward=backward))
    return result


def _refusals(setting: Setting, first: Defense, second: Defense, known: frozenset[str]) -> tuple[Refusal, ...]:
    return tuple(refusal for refusal in _check(setting, first, second) if refusal.found not in known)


def _found(setting: Setting, defense: Defense) -> frozenset[str]:
    return frozenset(refusal.found for refusal in _check(setting, defense))


def _check(setting: Setting, *stack: Defense) -> list[Refusal]:
    names = tuple(defense.name for defense in stack)
    return check_stack(stack, replace(setting, stack=names))
