"""What an attack returns: evidence. It never says how well it did; a judge that holds the truth does."""

from __future__ import annotations

from collections.abc import Mapping
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
    """``(m, *input_shape)`` inputs that should be misread, in the order of the challenge.

    Attributes:
        inputs: they.
        forwards: passes through the model, counted per example.
        backwards: passes through its gradient.
        nearest: ``(m, *input_shape)`` the nearest misread points that were found, beyond the ball too; the input itself
            where none was. ``None`` for an attack that does not go beyond its ball.
        size: radius of the attack's ball.
    """

    inputs: Tensor
    forwards: int
    backwards: int
    nearest: Tensor | None = None
    size: float | None = None


@dataclass(frozen=True, kw_only=True)
class LayerPerturbations:
    """Changes of what one layer of the released model puts out, for inputs that cannot be altered slightly (tokens).

    Attributes:
        layer: its qualified name.
        deltas: ``(m, *output_shape)`` added to its output, in the order of the challenge.
        forwards: passes through the model, counted per example.
        backwards: the same.
    """

    layer: str
    deltas: Tensor
    forwards: int
    backwards: int


@dataclass(frozen=True, kw_only=True)
class TokenReconstructions:
    """Token sequences, or sets of tokens, that an attack claims to have read out of updates.

    Attributes:
        sources: for each claim the ``(round, sender)`` of the event it was read from.
        tokens: for each claim its tokens ``(t,)`` int64; distinct ones in any order if ``ordered`` is false.
        ordered: sequences (one per example) or one set per source.
        confidence: ``(claims,)`` the attack's own score, higher is surer.
    """

    sources: tuple[tuple[int, str], ...]
    tokens: tuple[Tensor, ...]
    ordered: bool
    confidence: Tensor


@dataclass(frozen=True, kw_only=True)
class SeveralProperties:
    """Scores of several properties that were read at once; their names as in the dataset's attributes."""

    scores: Mapping[str, PropertyScores]


@dataclass(frozen=True, kw_only=True)
class OwnerScores:
    """Whose training set a candidate is from (source inference).

    Attributes:
        clients: identities of the columns.
        scores: ``(m, k)`` per candidate of the challenge and client, higher means that this client holds it.
    """

    clients: tuple[int, ...]
    scores: Tensor


@dataclass(frozen=True, kw_only=True)
class ParticipationScores:
    """``(c,)`` score per data set of `PublicFacts.client_candidates`, higher means that this client took part."""

    scores: Tensor


@dataclass(frozen=True, kw_only=True)
class CanaryScores:
    """How much each canary identity seems to have been included, for an audit of a claimed epsilon.

    Attributes:
        identities: ``(m,)`` int64, the canary identities in the order of the scores.
        scores: ``(m,)`` higher means included; standard normal for one that was not (cosine times ``sqrt(d)``).
        uploads: whether they were read from single uploads or their sum before noise, which only the server sees,
            and not from models.
    """

    identities: Tensor
    scores: Tensor
    uploads: bool = False


Evidence = (
    Reconstructions
    | MembershipScores
    | PropertyScores
    | AdversarialInputs
    | LayerPerturbations
    | TokenReconstructions
    | SeveralProperties
    | OwnerScores
    | ParticipationScores
    | CanaryScores
)
