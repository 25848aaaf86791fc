"""What attacks on text share: whom they attack, and where a model keeps its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn

from fedsec.models.flat import FlatModel, Slot
from fedsec.protocol.events import Topic
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.parties import Attack
from fedsec.protocol.view import View
from fedsec.threat import Taxonomy

from ..inversion.victims import WANTS, Victim, victims

TEXT_INVERSION = (
    Taxonomy("nist-ai-100-2e2025", "NISTAML.032", "Reconstruction", "partial"),
    Taxonomy("mitre-atlas-5.6", "AML.T0024.001", "Invert AI Model", "partial"),
    Taxonomy("owasp-ml-2023", "ML03", "Model Inversion Attack", "partial"),
)
"""NIST and ATLAS define inversion through a trained model's interface; none of the three names reading updates."""


@dataclass(frozen=True, kw_only=True)
class TextAttack(Attack):
    """Reads tokens out of the updates with the fewest examples behind them, of uploads or else of aggregates."""

    family: ClassVar[str] = "gradient inversion"
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = TEXT_INVERSION
    wants: ClassVar[tuple[Topic, ...]] = WANTS
    also_sees: ClassVar[tuple[Topic, ...]] = (Topic.BROADCAST,)
    judge: ClassVar[str] = "text"

    targets: Annotated[int, Field(ge=1, description="Updates attacked, those with the fewest examples first")] = 16
    first_round: Annotated[int, Field(ge=0, description="First round that is attacked, counted from 0")] = 0
    attacked_rounds: Annotated[int, Field(ge=1, description="Rounds that are attacked, from the first one on")] = 3

    def rounds(self, total: int) -> range:
        """The attacked rounds that there are."""
        return range(min(self.first_round, total), min(self.first_round + self.attacked_rounds, total))


def choose(view: View, facts: PublicFacts, *, targets: int) -> tuple[Victim, ...]:
    """The victims of an attack on text; see `fedsec.attacks.inversion.victims.victims`.

    Raises:
        NotApplicable: the inputs are no tokens, or the view holds no update.
    """
    if not facts.info.vocabulary:
        raise NotApplicable("the inputs are no tokens")
    return victims(view, facts, targets=targets)


def embedding_slot(model: FlatModel, vocabulary: int) -> Slot:
    """Where the model keeps its token embeddings, ``(vocabulary, width)``.

    Raises:
        NotApplicable: there is no such table, or an output layer shares it.
    """
    slots = {slot.name: slot for slot in model.layout.parameters}
    for name, part in model.module.named_modules():
        if isinstance(part, nn.Embedding) and part.num_embeddings == vocabulary:
            users = sum(p is part.weight for m in model.module.modules() for p in m._parameters.values())
            if users > 1:
                raise NotApplicable("the embedding is tied to the output layer, which moves every row")
            slot = slots.get(f"{name}.weight")
            if slot is not None:
                return slot
    raise NotApplicable("the model has no trained table of token embeddings")


def rows_of(slot: Slot, vector: Tensor) -> Tensor:
    """The part of a vector ``(d,)`` that lies in a slot, in its shape."""
    return vector[slot.start : slot.stop].view(slot.shape)
