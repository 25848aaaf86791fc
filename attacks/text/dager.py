"""Exact sentences from the span of a transformer's layer inputs (Petrov et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec.protocol.evidence import TokenReconstructions
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.view import View
from fedsec.threat import Capability, Knowledge, Paper, Stage, ThreatModel

from ..inversion.victims import Victim, is_gradient, local_steps
from .base import TextAttack, choose
from .decoding import decode
from .embedding_rows import moved_rows
from .encoding import Batch, unravel
from .reading import FIRST, TOKENS, Reader
from .span import rounding_noise

LOOSE = 10.0
"""Factor on the tolerance where the update is no exact gradient and inputs moved between local steps."""


@dataclass(frozen=True, kw_only=True)
class Dager(TextAttack):
    """Span check on the first attention's inputs, then on the second's; runs in float64 on the update as it was sent.

    What differs from the paper. Rank and threshold follow from the noise of the update (the rounding of
    ``local - global`` in float32, or the noise that a defense added, as the unmoved embedding rows show it), not from
    tables per batch size. Candidates are the tokens whose embedding rows moved, and lengths come from the position
    rows; the paper checks the whole vocabulary and reads neither. A decoder's prefixes are kept in a beam, not by a
    threshold. For encoders the paper enumerates; here a search finds sentences one after another and
    subtracts each from the update (`encoding.unravel`), which also proves it. With several local steps the update is
    taken for one gradient, with a looser check and nothing subtracted. An aggregate is one batch of all its examples.

    Where the inputs span everything (as many tokens as the width) the check says nothing and nothing is claimed.
    """

    name: ClassVar[str] = "dager"
    summary: ClassVar[str] = (
        "Recovers whole sentences by testing which tokens lie in the span of a transformer's gradients"
    )
    paper: ClassVar[Paper | None] = Paper(
        title="DAGER: Exact Gradient Inversion for Large Language Models",
        authors="Petrov, Dimitrov, Baader, Müller, Vechev",
        venue="NeurIPS 2024",
        where="theorem 3.1 and section 4",
    )
    threat: ClassVar[ThreatModel] = ThreatModel(
        "A curious server tests which words fit a client's update, and puts the sentences together.",
        "server",
        frozenset({Knowledge.COUNTS, Knowledge.LOCAL_TRAINING}),
        frozenset({Capability.OBSERVE_UPDATES}),
        Stage.TRAINING,
    )
    adaptive_to: ClassVar[frozenset[str]] = frozenset({"clipping", "homomorphic encryption", "differential privacy"})
    cost: ClassVar[str] = "one decomposition per layer, and one half forward pass per guessed sentence"

    max_examples: Annotated[int, Field(ge=1, description="Sentences claimed per update, at most")] = 16
    tolerance: Annotated[
        float, Field(gt=0, lt=1, description="Distance from the span that always passes the first check")
    ] = 0.01
    beam: Annotated[int, Field(ge=1, description="Prefixes of a decoder that are kept, per sentence")] = 8
    budget: Annotated[int, Field(ge=1, description="Sentences that are evaluated per update of an encoder")] = 20000

    def run(self, view: View, facts: PublicFacts, *, generator: torch.Generator) -> TokenReconstructions:
        """Attack the view.

        Raises:
            NotApplicable: no tokens, another architecture, an adaptive optimizer, or more tokens than the width.
        """
        if facts.local.optimizer not in {"sgd", "momentum"}:
            raise NotApplicable(
                f"{facts.local.optimizer} rescales every coordinate, so rows leave the span of the inputs"
            )
        victims = choose(view, facts, targets=self.targets)
        sources: list[tuple[int, str]] = []
        tokens: list[Tensor] = []
        confidence: list[float] = []
        full = 0
        for victim in victims:
            wanted = min(victim.examples, self.max_examples)
            found = self.read(victim, facts, wanted, generator=generator)
            full += found is None
            claims = [] if found is None else found
            claims += [(torch.zeros(0, dtype=torch.int64), -1.0)] * (wanted - len(claims))
            sources += [victim.source] * wanted
            tokens += [claim for claim, _ in claims]
            confidence += [sure for _, sure in claims]
        if full == len(victims):
            raise NotApplicable("the inputs of a layer span its whole width: as many tokens as numbers per token")
        return TokenReconstructions(
            sources=tuple(sources), tokens=tuple(tokens), ordered=True, confidence=torch.tensor(confidence)
        )

    def read(
        self, victim: Victim, facts: PublicFacts, wanted: int, *, generator: torch.Generator
    ) -> list[tuple[Tensor, float]] | None:
        """Sentences of one update with their confidence; ``None`` if the inputs span everything."""
        local, exact = facts.local, is_gradient(victim, facts.local)
        reader = Reader.of(facts.model, victim.model.double())
        decay = local.in_round(victim.round).learning_rate * local.weight_decay * local_steps(victim, local)
        gradient = -victim.update.double() - decay * victim.model[: victim.update.numel()].double()
        tensors = {s.name: gradient[s.start : s.stop].view(s.shape) for s in facts.model.layout.parameters}
        state = facts.model.layout.split(victim.model)
        filled = moved_rows(tensors[TOKENS], state[TOKENS]).noise if facts.stack else 0.0
        moved = tensors[TOKENS].norm(dim=1) > 0
        if not bool(moved.any()):
            return []
        batch = Batch(
            reader=reader,
            scout=Reader.of(facts.model, victim.model.float()),
            gradient=gradient,
            noise=max(rounding_noise(tensors[FIRST], state[FIRST]), filled),
            row_noise=max(rounding_noise(tensors[TOKENS][moved], state[TOKENS]), filled),
            tolerance=self.tolerance if exact else min(1.0, LOOSE * self.tolerance),
            labels=len(facts.info.classes),
            limit=0,
            generator=generator,
            budget=self.budget,
        )
        alive, length = batch.live()
        if not len(alive) or not length:
            return []
        shallow, deep = batch.span(FIRST), batch.span(reader.second)
        if shallow.full or deep.full:
            # Something else than inputs fills the span, unless there can be as many inputs.
            batch.limit = victim.examples * length
            if batch.limit >= shallow.basis.shape[1] - 1:
                return None
            shallow, deep = batch.span(FIRST), batch.span(reader.second)
        if not reader.causal:
            found = unravel(batch, wanted=wanted, exact=exact)
            return [(one.tokens, 1.0 if one.proved else -one.distance) for one in found]
        given = reader.shallow(alive, length)
        apart = shallow.distance(given)
        candidates = shallow.contains(given, tolerance=batch.tolerance) | (apart <= 1.5 * apart.amin(1, keepdim=True))
        sentences, worst = decode(reader, candidates, alive, deep, wanted=wanted, beam=self.beam * wanted)
        return [(one, -float(far)) for one, far in zip(sentences, worst, strict=True)]
