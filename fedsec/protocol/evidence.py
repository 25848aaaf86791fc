"""What an attack returns: evidence. It never says how well it did; a judge that holds the truth does."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Reconstructions:
    """Inputs that an attack claims to have read out of updates.

    Attributes:
        sources: for each reconstruction the ``(round, sender)`` of the event it was read from.
        inputs: ``(t, *input_shape)`` in the dataset's own units.
        labels: ``(t,)`` claimed labels, or ``None`` if the attack makes no claim.
        confidence: ``(t,)`` the attack's own score, higher is surer (never made from the truth).
    """

    sources: tuple[tuple[int, str], ...]
    inputs: Tensor
    labels: Tensor | None
    confidence: Tensor


@dataclass(frozen=True, kw_only=True)
class MembershipScores:
    """``(m,)`` score per candidate of the challenge, higher means member."""

    scores: Tensor


@dataclass(frozen=True, kw_only=True)
class PropertyScores:
    """Score per observed event, higher means that the property holds for the data behind it.

    Attributes:
        sources: the ``(round, sender)`` of each event.
        scores: ``(k,)``.
        control: ``(k,)`` scores of the same attack trained on permuted property labels (its floor).
    """

    sources: tuple[tuple[int, str], ...]
    scores: Tensor
    control: Tensor


@dataclass(frozen=True, kw_only=True)
class AdversarialInputs:
    """``(m, *input_shape)`` inputs that should be misread, in the order of the challenge."""

    inputs: Tensor
    forwards: int
    backwards: int


Evidence = Reconstructions | MembershipScores | PropertyScores | AdversarialInputs
