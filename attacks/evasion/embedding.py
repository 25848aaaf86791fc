"""PGD in the space of embeddings: how robust a model of tokens is where a small change has a meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsec.ball import TINY, lengths, steepest
from fedsec.data.tokens import PADDING
from fedsec.errors import ConfigurationError
from fedsec.gradient import frozen, input_gradient
from fedsec.models.layers import run_until, shifting
from fedsec.protocol.events import Topic
from fedsec.protocol.evidence import LayerPerturbations
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.parties import Attack
from fedsec.protocol.view import View
from fedsec.threat import Capability, Knowledge, Paper, Stage, Taxonomy, ThreatModel

from .gradient_ascent import Passes

_BATCH = 250


def embedding_pgd(
    model: nn.Module,
    tokens: Tensor,
    y: Tensor,
    *,
    eps: float | Tensor,
    steps: int = 20,
    step: float | None = None,
    at: str = "embedding.tokens",
    restarts: int = 1,
    generator: torch.Generator | None = None,
    drop_fooled: bool = True,
    passes: Passes | None = None,
) -> tuple[Tensor, Tensor]:
    """Projected gradient ascent on what the embedding of each sequence is changed by (Miyato et al. 2017, section 3).

    The ball is Euclidean over all words of a sequence together (its Frobenius norm), as in Zhu et al. 2020, algorithm
    1; padding is never changed. Losses are summed, so the path of a sequence does not depend on its batch. A sequence
    that is misread keeps the first change by which it was and leaves the batch; what is never misread ends at the
    change of highest loss among the last ones of the restarts.

    Args:
        model: tokens to logits ``(b, C)``; evaluated in eval mode and left as it was.
        tokens: ``(b, t)`` int64, padding is token 0.
        y: ``(b,)`` true classes.
        eps: radius of the ball in units of the embedding, one for all or ``(b,)``.
        steps: ascent steps per restart.
        step: length of a step as a share of the radius; ``None`` for ``2.5 / steps``.
        at: name of the layer whose output ``(b, t, w)`` is changed.
        restarts: starts per sequence.
        generator: draws the starts, uniformly from the ball; without it the one start is no change.
        drop_fooled: ``False`` keeps every sequence to its last step.
        passes: counts what it costs.

    Returns:
        ``(b,)`` bool, whether each sequence is misread, and the changes ``(b, t, w)``, each in its ball.

    Raises:
        ConfigurationError: there is no layer ``at``.
        ValueError: its output is not one vector per token, or several restarts without a generator.
    """
    if restarts > 1 and generator is None:
        raise ValueError("further restarts are drawn and need a generator")
    count = Passes() if passes is None else passes
    with frozen(model), torch.no_grad():
        embedded = run_until(model, at, lambda: model(tokens))
        count.forwards += len(tokens)
        if embedded.dim() != 3 or embedded.shape[:2] != tokens.shape:
            raise ValueError(f"the layer {at!r} gives {tuple(embedded.shape)}, not one vector per token")
        ascent = _Ascent(model, at, tokens, y, _radii(eps, embedded), steps, step, count)
        best = torch.zeros_like(embedded)
        highest, fooled = ascent.look(best)
        left = torch.arange(len(tokens), device=tokens.device)
        if drop_fooled:
            left = left[~fooled]
        for number in range(restarts):
            if not len(left):
                break
            found = ascent.climb(left, embedded, generator, drop_fooled)
            losses, misread = ascent.look(found, left)
            losses = torch.where(misread, torch.inf, losses)
            better = losses > highest[left] if number or drop_fooled else torch.ones_like(misread)
            best[left[better]], highest[left[better]] = found[better], losses[better]
            fooled[left] |= misread
            left = left[~misread] if drop_fooled else left
        if not drop_fooled:
            fooled = ascent.look(best)[1]
    return fooled, best


def _radii(eps: float | Tensor, embedded: Tensor) -> Tensor:
    radii = torch.as_tensor(eps, dtype=embedded.dtype, device=embedded.device)
    return radii.expand(len(embedded)).reshape(-1, 1, 1)


@dataclass(frozen=True)
class _Ascent:
    """The search of one batch; ``radii`` is ``(b, 1, 1)``."""

    model: nn.Module
    at: str
    tokens: Tensor
    y: Tensor
    radii: Tensor
    steps: int
    step: float | None
    passes: Passes

    def look(self, delta: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Loss of each changed sequence, and whether it is misread."""
        tokens, y = (self.tokens, self.y) if rows is None else (self.tokens[rows], self.y[rows])
        with shifting(self.model, self.at, delta):
            logits = self.model(tokens)
        self.passes.forwards += len(tokens)
        return nn.functional.cross_entropy(logits, y, reduction="none"), logits.argmax(-1) != y

    def climb(self, left: Tensor, embedded: Tensor, generator: torch.Generator | None, drop_fooled: bool) -> Tensor:
        """The last change of each sequence ``left``, or the first by which it is misread."""
        delta = self._start(left, embedded, generator)
        share = 2.5 / self.steps if self.step is None else self.step
        rows = torch.arange(len(left), device=left.device)
        for _ in range(self.steps):
            gradient, fooled = self._gradient(delta[rows], left[rows])
            if drop_fooled:
                rows, gradient = rows[~fooled], gradient[~fooled]
                if not len(rows):
                    break
            radii = self.radii[left[rows]]
            moved = delta[rows] + share * radii * steepest(gradient * self._real(left[rows]), "l2")
            delta[rows] = moved * (radii / lengths(moved, "l2").clamp_min(TINY)).clamp_max(1.0)
        return delta

    def _real(self, rows: Tensor) -> Tensor:
        """1 at words and 0 at padding, ``(b, t, 1)``."""
        return (self.tokens[rows] != PADDING).unsqueeze(-1).to(self.radii.dtype)

    def _start(self, left: Tensor, embedded: Tensor, generator: torch.Generator | None) -> Tensor:
        """Points uniform in the balls of the words that there are, or no change without a generator."""
        like = embedded[left]
        if generator is None:
            return torch.zeros_like(like)
        drawn = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=generator.device).to(like.device)
        unit = torch.rand(len(left), generator=generator, dtype=like.dtype, device=generator.device).to(like.device)
        real = self._real(left)
        numbers = (real.flatten(1).sum(1) * like.shape[-1]).clamp_min(1.0)
        return steepest(drawn * real, "l2") * self.radii[left] * unit.pow(1 / numbers).reshape(-1, 1, 1)

    def _gradient(self, delta: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of the loss in the change, and whether the sequence is misread already."""
        tokens, y = self.tokens[rows], self.y[rows]

        def losses(leaf: Tensor) -> tuple[Tensor, Tensor]:
            with shifting(self.model, self.at, leaf):
                logits = self.model(tokens)
            return nn.functional.cross_entropy(logits, y, reduction="none"), logits

        gradient, logits = input_gradient(losses, delta)
        self.passes.forwards += len(tokens)
        self.passes.backwards += len(tokens)
        return gradient, logits.argmax(-1) != y


@dataclass(frozen=True, kw_only=True)
class EmbeddingPGD(Attack):
    """PGD on the embeddings of test texts. No text has them: it bounds what changed words of that size could do."""

    name: ClassVar[str] = "embedding-pgd"
    summary: ClassVar[str] = (
        "Searches the neighbourhood of a text's embeddings by gradient steps for a point that the model misreads"
    )
    family: ClassVar[str] = "adversarial examples"
    paper: ClassVar[Paper | None] = Paper(
        title="Adversarial Training Methods for Semi-Supervised Text Classification",
        authors="Miyato, Dai, Goodfellow",
        venue="ICLR 2017",
        where="section 3, with several projected steps as in Madry et al. 2018",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = (
        Taxonomy("nist-ai-100-2e2025", "NISTAML.022", "Evasion", "partial"),
        Taxonomy("mitre-atlas-5.6", "AML.T0043.000", "White-Box Optimization", "partial"),
        Taxonomy("owasp-ml-2023", "ML01", "Input Manipulation Attack", "partial"),
    )
    threat: ClassVar[ThreatModel] = ThreatModel(
        story="Somebody who has the published model alters the embeddings of a text slightly, and it is misread",
        position="outsider",
        knowledge=frozenset({Knowledge.TEST_INPUTS}),
        capabilities=frozenset({Capability.TESTING_DATA_CONTROL}),
        stage=Stage.DEPLOYMENT,
    )
    wants: ClassVar[tuple[Topic, ...]] = (Topic.RELEASE,)
    judge: ClassVar[str] = "embedding-evasion"
    cost: ClassVar[str] = "at most steps x restarts forward and backward passes per text; misread texts stop early"
    adaptive_to: ClassVar[frozenset[str]] = frozenset(
        {
            "adversarial training",
            "clipping",
            "homomorphic encryption",
            "differential privacy",
            "robust aggregation",
            "anomaly detection",
        }
    )

    eps: Annotated[float, Field(ge=0, description="size of the change (Euclidean, over all words of a text)")] = 0.05
    relative: Annotated[
        bool,
        Field(
            description="measure the size as a share of the length of the text's own embedding, which no scale hides"
        ),
    ] = True
    step: Annotated[
        float | None, Field(gt=0, description="length of a step as a share of the size; null for 2.5 / steps")
    ] = None
    steps: Annotated[int, Field(ge=1, description="gradient steps per restart")] = 20
    restarts: Annotated[int, Field(ge=1, description="random starts per text")] = 1
    layer: Annotated[str, Field(min_length=1, description="layer whose output is changed")] = "embedding.tokens"
    examples: Annotated[int, Field(ge=1, description="test texts attacked at the most, the first ones")] = 500

    def rounds(self, total: int) -> tuple[int, ...]:
        """The last round: what is published."""
        return (total - 1,)

    def run(self, view: View, facts: PublicFacts, *, generator: torch.Generator) -> LayerPerturbations:
        """See `Attack.run`.

        Raises:
            NotApplicable: the inputs are not tokens, the model has no such layer, or there are no classes.
        """
        if not facts.info.vocabulary:
            raise NotApplicable(f"{facts.info.modality} inputs have no embeddings; attack the inputs themselves")
        if facts.info.task != "classification":
            raise NotApplicable(f"a {facts.info.task} model has no classes to misread a text as")
        x, y = facts.test_inputs.x[: self.examples], facts.test_inputs.y[: self.examples]
        released = view.of(Topic.RELEASE)[-1].values
        net, passes = facts.model.instance(released), Passes()
        deltas = []
        for tokens, classes in zip(torch.split(x, _BATCH), torch.split(y, _BATCH), strict=True):
            where = tokens.to(released.device)
            try:
                size = self._size(net, where, passes)
            except ConfigurationError as error:
                raise NotApplicable(f"the model has no layer {self.layer!r} with one vector per token") from error
            _, delta = embedding_pgd(
                net,
                where,
                classes.to(released.device),
                eps=size,
                steps=self.steps,
                step=self.step,
                at=self.layer,
                restarts=self.restarts,
                generator=generator,
                passes=passes,
            )
            deltas.append(delta)
        return LayerPerturbations(
            layer=self.layer, deltas=torch.cat(deltas), forwards=passes.forwards, backwards=passes.backwards
        )

    def _size(self, net: nn.Module, tokens: Tensor, passes: Passes) -> Tensor:
        """Radius of each text's ball, ``(b,)``."""
        passes.forwards += len(tokens)
        with torch.no_grad():
            embedded = run_until(net, self.layer, lambda: net(tokens))
        if embedded.shape[:-1] != tokens.shape:
            raise NotApplicable(f"the layer {self.layer!r} does not give one vector per token")
        if not self.relative:
            return torch.full((len(tokens),), self.eps, dtype=embedded.dtype, device=embedded.device)
        real = (tokens != PADDING).unsqueeze(-1).to(embedded.dtype)
        return self.eps * lengths(embedded * real, "l2").flatten()
