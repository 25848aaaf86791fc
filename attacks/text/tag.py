"""Embeddings that would have caused the gradient, and the tokens nearest to them (Deng et al. 2021)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsec.data.tokens import PADDING
from fedsec.models.flat import FlatModel
from fedsec.protocol.evidence import TokenReconstructions
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.view import View
from fedsec.threat import Capability, Knowledge, Paper, Stage, ThreatModel

from ..inversion.victims import Victim, is_gradient, surrogate_gradient
from .base import TextAttack, choose, embedding_slot, rows_of
from .embedding_rows import leaked

HEAD = "head.bias"
POSITIONS = "embedding.positions"


class Given(nn.Module):
    """Stands in the place of a table of embeddings and gives what it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.held = torch.zeros(0)

    def forward(self, tokens: Tensor) -> Tensor:
        """The held embeddings, whatever the tokens."""
        return self.held


class Dummies:
    """A model that is fed embeddings, and the gradients of its other parameters."""

    def __init__(self, model: FlatModel, state: Tensor, table: str) -> None:
        self.model = model
        self.module = copy.deepcopy(model.instance(state))
        self.given = Given()
        owner, _, name = table.rpartition(".")
        setattr(self.module.get_submodule(owner), name, self.given)
        self.names = [name for name, _ in self.module.named_parameters()]

    def gradients(self, embedded: Tensor, labels: Tensor) -> list[Tensor]:
        """Of the mean loss with soft labels ``(b, C)`` or ``(b, t, V)``, differentiable; one per name."""
        self.given.held = embedded
        outputs = self.module(torch.ones(embedded.shape[:2], dtype=torch.int64))
        loss = -(labels * outputs.log_softmax(-1)).sum(-1).mean()
        return list(torch.autograd.grad(loss, list(self.module.parameters()), create_graph=True))


def layer_weights(count: int) -> list[float]:
    """Weights of the L1 term, linearly from 1 at the input to ``1 / count`` at the output (front layers weigh most)."""
    return [1 - index / count for index in range(count)]


def tag_distance(found: Sequence[Tensor], target: Sequence[Tensor], *, alpha: float, scale_free: bool) -> Tensor:
    """``sum_l |found_l - target_l|_2^2 + alpha w_l |found_l - target_l|_1``, in units of the target's norm.

    Args:
        found: gradients of the dummies.
        target: the client's.
        alpha: weight of the L1 term.
        scale_free: brings both to norm 1, where the length of the target is not known (clipping, several steps).
    """
    length = torch.stack([one.square().sum() for one in target]).sum().sqrt().clamp_min(1e-30)
    own = (torch.stack([one.square().sum() for one in found]).sum() + 1e-30).sqrt() if scale_free else length
    total = found[0].new_zeros(())
    for mine, theirs, weight in zip(found, target, layer_weights(len(found)), strict=True):
        gap = mine / own - theirs / length
        total = total + gap.square().sum() + alpha * weight * gap.abs().sum()
    return total


def nearest_tokens(embedded: Tensor, table: Tensor, candidates: Tensor) -> Tensor:
    """The candidate whose embedding has the largest cosine to each vector: ``(..., w)`` to ``(...,)`` int64.

    The cosine, because the largest product over squared norms prefers short embeddings.
    """
    units = nn.functional.normalize(table[candidates], dim=-1)
    return candidates[(nn.functional.normalize(embedded, dim=-1) @ units.mT).argmax(-1)]


@dataclass(frozen=True, kw_only=True)
class Tag(TextAttack):
    """Gradient matching on dummy embeddings with an L2 and a weighted L1 term, then the nearest token at each place.

    The gradient of the token table is not matched (dummies are no rows of it), the position rows are. The length of one
    sentence is read off the position rows where the model has them; in a batch every dummy is as long as the longest
    sentence (the papers on text hand the attacker each length). The class of one sentence is read off the bias of the
    head; those of a batch, and next tokens, are optimised as soft labels. The optimizer is Adam at a fixed rate, the
    best iterate by match is decoded. Several local steps are taken for one gradient.
    """

    name: ClassVar[str] = "tag"
    summary: ClassVar[str] = "Optimises embeddings until they cause a client's gradient, and reads the nearest words"
    paper: ClassVar[Paper | None] = Paper(
        title="TAG: Gradient Attack on Transformer-based Language Models",
        authors="Deng, Wang, Li, Wang, Shang, Liu, Rajasekaran, Ding",
        venue="Findings of EMNLP 2021",
        where="section 3, algorithm 1",
    )
    threat: ClassVar[ThreatModel] = ThreatModel(
        "A curious server optimises sentences until they would have caused a client's update.",
        "server",
        frozenset({Knowledge.COUNTS, Knowledge.LOCAL_TRAINING}),
        frozenset({Capability.OBSERVE_UPDATES}),
        Stage.TRAINING,
    )
    adaptive_to: ClassVar[frozenset[str]] = frozenset({"clipping", "homomorphic encryption"})
    cost: ClassVar[str] = "steps x restarts double backward passes per update"

    targets: Annotated[int, Field(ge=1, description="Updates attacked, those with the fewest examples first")] = 8
    max_examples: Annotated[int, Field(ge=1, description="Sentences claimed per update, at most")] = 8
    steps: Annotated[int, Field(ge=1, description="Double backward passes per starting point")] = 400
    restarts: Annotated[int, Field(ge=1, description="Starting points; the best gradient match wins")] = 1
    learning_rate: Annotated[float, Field(gt=0, description="Of Adam, in units of the embeddings")] = 0.05
    alpha: Annotated[float, Field(ge=0, description="Weight of the L1 term")] = 0.01
    leaked_tokens: Annotated[
        bool, Field(description="Only tokens whose embedding rows moved are decoded: a stronger attacker")
    ] = False

    def run(self, view: View, facts: PublicFacts, *, generator: torch.Generator) -> TokenReconstructions:
        """Attack the view.

        Raises:
            NotApplicable: no tokens, or no table of embeddings of its own.
        """
        victims = choose(view, facts, targets=self.targets)
        sources: list[tuple[int, str]] = []
        tokens: list[Tensor] = []
        confidence: list[float] = []
        for victim in victims:
            size = min(victim.examples, self.max_examples)
            found, match = self.read(victim, size, facts, generator=generator)
            sources += [victim.source] * size
            tokens += list(found)
            confidence += [-match] * size
        return TokenReconstructions(
            sources=tuple(sources), tokens=tuple(tokens), ordered=True, confidence=torch.tensor(confidence)
        )

    def read(
        self, victim: Victim, size: int, facts: PublicFacts, *, generator: torch.Generator
    ) -> tuple[Tensor, float]:
        """Token sequences ``(size, t)`` of one update, and how far their gradient is from it."""
        slot = embedding_slot(facts.model, facts.info.vocabulary)
        gradient = surrogate_gradient(victim, facts.local)
        parts = {s.name: gradient[s.start : s.stop].view(s.shape) for s in facts.model.layout.parameters}
        dummies = Dummies(facts.model, victim.model, slot.name.removesuffix(".weight"))
        target = [parts[name] for name in dummies.names]
        table = rows_of(slot, victim.model)
        length = _length(parts, facts.info.input_shape[0])
        candidates = torch.arange(len(table))
        if self.leaked_tokens:
            candidates = (
                leaked(rows_of(slot, victim.update), table, clear=not facts.stack, error=0.001).tokens.sort().values
            )
        candidates = candidates[candidates != PADDING]
        if not len(candidates):
            return torch.zeros(size, 0, dtype=torch.int64), float("inf")
        free = not is_gradient(victim, facts.local) or bool(facts.stack)
        best, least = torch.zeros(size, length, table.shape[1]), float("inf")
        for _ in range(self.restarts):
            found, match = self._optimise(
                dummies, target, parts, (size, length, table.shape[1]), free, facts, generator
            )
            if match < least:
                best, least = found, match
        return nearest_tokens(best, table, candidates), least

    def _optimise(
        self,
        dummies: Dummies,
        target: Sequence[Tensor],
        parts: dict[str, Tensor],
        shape: tuple[int, int, int],
        free: bool,
        facts: PublicFacts,
        generator: torch.Generator,
    ) -> tuple[Tensor, float]:
        """The best iterate from one random start, and its distance."""
        embedded = torch.randn(shape, generator=generator).requires_grad_()
        each = shape[:2] if facts.model.task == "next-token" else shape[:1]
        classes = facts.info.vocabulary if facts.model.task == "next-token" else len(facts.info.classes)
        fixed = None
        if shape[0] == 1 and facts.model.task == "classification" and HEAD in parts:
            fixed = nn.functional.one_hot(parts[HEAD].argmin().view(1), classes).to(embedded.dtype)
        logits = torch.randn(*each, classes, generator=generator).requires_grad_()
        free_variables = [embedded] if fixed is not None else [embedded, logits]
        optimizer = torch.optim.Adam(free_variables, lr=self.learning_rate)
        best, least = embedded.detach().clone(), float("inf")
        for _ in range(self.steps):
            labels = logits.softmax(-1) if fixed is None else fixed
            distance = tag_distance(dummies.gradients(embedded, labels), target, alpha=self.alpha, scale_free=free)
            if float(distance.detach()) < least:
                best, least = embedded.detach().clone(), float(distance.detach())
            slopes = torch.autograd.grad(distance, free_variables)
            for variable, slope in zip(free_variables, slopes, strict=True):
                variable.grad = slope
            optimizer.step()
        return best, least


def _length(parts: dict[str, Tensor], longest: int) -> int:
    """Length of the longest sentence: the last place whose row moved, where the model has positions."""
    if POSITIONS not in parts:
        return longest
    size = parts[POSITIONS].norm(dim=1)
    moved = (size > 1e-3 * size.max()).nonzero()
    return int(moved.max()) + 1 if len(moved) else longest
