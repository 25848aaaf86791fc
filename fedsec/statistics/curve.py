"""The ROC curve of scores of members and non-members, for use outside an audit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from fedsec.statistics.intervals import Floats, Interval, as_array, auc, auc_interval, steps, tpr_at_fpr


@dataclass(frozen=True, eq=False)
class RocCurve:
    """The step ROC: every threshold, no interpolation, ties together.

    Attributes:
        members: ``(p,)`` scores.
        nonmembers: ``(n,)`` scores.
    """

    members: Floats
    nonmembers: Floats

    @property
    def auc(self) -> float:
        """Probability that a member scores higher than a non-member, ties counted half."""
        return auc(*self._labelled)

    def auc_interval(self, *, confidence: float = 0.95) -> Interval:
        """Interval of the area (`fedsec.statistics.auc_interval`)."""
        return auc_interval(*self._labelled, confidence=confidence)

    def tpr_at(self, fpr: float) -> float:
        """Share of members above the last threshold at which at most ``fpr`` of the non-members are.

        Raises:
            ValueError: ``fpr`` is not in [0, 1].
        """
        return self._at(fpr, 0.95)[0]

    def interval_at(self, fpr: float, *, confidence: float = 0.95) -> Interval:
        """The exact interval (Clopper and Pearson) of `tpr_at`.

        Raises:
            ValueError: ``fpr`` is not in [0, 1].
        """
        return self._at(fpr, confidence)[1]

    @property
    def resolution(self) -> float:
        """The smallest false positive rate but 0 that the non-members resolve: one of them."""
        return 1 / len(self.nonmembers)

    @cached_property
    def points(self) -> tuple[Floats, Floats]:
        """False and true positive rates of every threshold, from (0, 0) to (1, 1)."""
        return steps(*self._labelled)

    @cached_property
    def _labelled(self) -> tuple[Floats, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
        truths = np.arange(len(self.members) + len(self.nonmembers)) < len(self.members)
        return np.concatenate([self.members, self.nonmembers]), truths

    def _at(self, fpr: float, confidence: float) -> tuple[float, Interval, float]:
        if not 0 <= fpr <= 1:
            raise ValueError(f"a false positive rate lies in [0, 1], found {fpr}")
        return tpr_at_fpr(*self._labelled, fpr, confidence=confidence)


def roc(member_scores: ArrayLike, nonmember_scores: ArrayLike) -> RocCurve:
    """The ROC curve of a membership score.

    Args:
        member_scores: ``(p,)`` tensor, array or sequence; higher means member.
        nonmember_scores: ``(n,)``.

    Raises:
        ValueError: one side is empty or no vector, or a score is not a number.
    """
    sides = [as_array(side).astype(np.float64) for side in (member_scores, nonmember_scores)]
    for name, side in zip(("member", "non-member"), sides, strict=True):
        if side.ndim != 1 or not len(side):
            raise ValueError(f"expected a vector of at least one {name} score, found shape {side.shape}")
        if np.isnan(side).any():
            raise ValueError(f"a {name} score is not a number")
    return RocCurve(*sides)
