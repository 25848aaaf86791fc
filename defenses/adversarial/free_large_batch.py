"""Adversarial training on embeddings: FreeLB, which uses the gradients of all its passes, and PGD, which does not."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec.ball import project, steepest
from fedsec.data.tokens import PADDING
from fedsec.models.lanes import Lanes, Step, gradient_step
from fedsec.protocol.payload import Kind
from fedsec.protocol.stage import Defense, EnforcedBy, Guarantee, Setting
from fedsec.threat import Paper, Taxonomy

from .adversarial_training import Share

_SALT = 83
"""Sets the draws of the start apart from those of other defenses in a step."""


@dataclass(frozen=True)
class EmbeddingAscent:
    """Ascent steps on what a layer of token vectors is changed by, in the Euclidean ball of each whole sequence.

    Attributes:
        eps: radius of the ball over all words of a sequence, in units of the embedding; ``None`` for no ball.
        step: length of an ascent step.
        init: size of the start: each number is uniform in ``init / sqrt(words x width)`` of both signs.
        layer: name of the layer.
    """

    eps: float | None
    step: float
    init: float
    layer: str

    def start(self, lanes: Lanes, x: Tensor) -> Tensor:
        """Changes ``(l, b, t, w)`` to start from, zero at padding; see `fedsec.models.lanes.Lanes.uniform`."""
        zero = lanes.zero_shift(x, self.layer)
        if not self.init:
            return zero
        with torch.no_grad():
            words = (x != PADDING).unsqueeze(-1).to(zero)
            count = (words.sum((-2, -1), keepdim=True) * zero.shape[-1]).clamp_min(1.0)
            unit = lanes.uniform(tuple(zero.shape[1:]), salt=_SALT).to(zero)
            return self._into((2 * unit - 1) * words * self.init / count.sqrt())

    def advance(self, delta: Tensor, gradient: Tensor) -> Tensor:
        """One step along the gradient over its length, then into the ball."""
        with torch.no_grad():
            return self._into(delta + self.step * steepest(gradient, "l2", lead=2))

    def _into(self, delta: Tensor) -> Tensor:
        return delta if self.eps is None else project(delta, self.eps, "l2", lead=2)


@dataclass(frozen=True)
class FreeLargeBatchStep:
    """The mean of the gradients at each of ``passes`` changes, each an ascent step from the one before (picklable)."""

    step: Step
    ascent: EmbeddingAscent
    passes: int

    def __call__(self, lanes: Lanes, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """See `fedsec.models.lanes.Step`."""
        delta = self.ascent.start(lanes, x)
        total: tuple[Tensor, ...] = ()
        for number in range(self.passes):
            gradients, uphill = self._both(lanes, x, y, delta, last=number == self.passes - 1)
            total = tuple(a + b for a, b in zip(total, gradients, strict=True)) if total else gradients
            if uphill is not None:
                delta = self.ascent.advance(delta, uphill)
        return tuple(part / self.passes for part in total)

    def _both(
        self, lanes: Lanes, x: Tensor, y: Tensor, delta: Tensor, *, last: bool
    ) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Gradients in the parameters and, but for the last pass, in the change; by one backward pass if possible."""
        if last or self.step is not gradient_step:
            gradients = self.step(_Shifted(lanes, delta, self.ascent.layer), x, y)
            return gradients, None if last else _uphill(lanes, x, y, delta, self.ascent.layer)
        leaf = delta.detach().requires_grad_()
        loss = lanes.losses(x, y, train=True, shift=leaf, at=self.ascent.layer).mean(-1).sum()
        *of_parameters, uphill = torch.autograd.grad(loss, (*lanes.parameters, leaf))
        return tuple(of_parameters), uphill


@dataclass(frozen=True)
class EmbeddingPGDStep:
    """The gradient at the change that ``steps`` ascent steps end at; theirs are thrown away (picklable)."""

    step: Step
    ascent: EmbeddingAscent
    steps: int

    def __call__(self, lanes: Lanes, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """See `fedsec.models.lanes.Step`."""
        delta = self.ascent.start(lanes, x)
        for _ in range(self.steps):
            delta = self.ascent.advance(delta, _uphill(lanes, x, y, delta, self.ascent.layer))
        return self.step(_Shifted(lanes, delta, self.ascent.layer), x, y)


def _uphill(lanes: Lanes, x: Tensor, y: Tensor, delta: Tensor, layer: str) -> Tensor:
    """Gradient of the summed losses in the change, under the dropout masks of this step."""
    leaf = delta.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(lanes.losses(x, y, train=True, shift=leaf, at=layer).sum(), leaf)
    return gradient


class _Shifted(Lanes):
    """The same lanes with a change added to a layer in every pass."""

    def __init__(self, lanes: Lanes, shift: Tensor, layer: str) -> None:
        self._lanes, self._shift, self._layer = lanes, shift, layer
        self.model, self.parameters, self.keys = lanes.model, lanes.parameters, lanes.keys
        self.round, self.step, self.steps = lanes.round, lanes.step, lanes.steps
        self.memory, self.place = lanes.memory, lanes.place

    def outputs(self, x: Tensor, *, train: bool, shift: Tensor | None = None, at: str = "") -> Tensor:
        """See `Lanes.outputs`."""
        if shift is None:
            return self._lanes.outputs(x, train=train, shift=self._shift, at=self._layer)
        if at != self._layer:
            raise ValueError(f"two defenses change two layers in one pass: {self._layer} and {at}")
        return self._lanes.outputs(x, train=train, shift=self._shift + shift, at=at)

    def output_of(self, x: Tensor, at: str, *, train: bool) -> Tensor:
        """See `Lanes.output_of`; the layer's own output, without the change."""
        return self._lanes.output_of(x, at, train=train)


class _EmbeddingTraining(Defense):
    """What both have in common."""

    family: ClassVar[str] = "adversarial training"
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = (Taxonomy("mitre-atlas-5.6", "AML.M0003", "Model Hardening", "exact"),)
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="how the released model reads texts whose embeddings were altered by at most eps",
        against="changes in the space of embeddings; measured, not certified, and other words are not covered by it",
        assuming="clients are honest, and training does not enlarge the embeddings instead",
    )
    accepts: ClassVar[frozenset[Kind]] = frozenset({Kind.PLAIN, Kind.SEALED, Kind.MASKED})

    eps: float | None
    step: float
    init: float | None
    layer: str

    @property
    def enforcement(self) -> EnforcedBy:
        """Only honest clients train so."""
        return EnforcedBy.CLIENT

    @property
    def ascent(self) -> EmbeddingAscent:
        """The steps on the change."""
        init = (0.0 if self.eps is None else self.eps) if self.init is None else self.init
        return EmbeddingAscent(self.eps, self.step, init, self.layer)

    @abstractmethod
    def local(self, step: Step) -> Step:
        """See `Defense.local`."""

    def problems(self, setting: Setting) -> Sequence[tuple[str, str]]:
        """See `Defense.problems`."""
        if setting.bounds is not None:
            return (
                ("the inputs are no tokens and have no embeddings", "use pgd-at, which changes the inputs themselves"),
            )
        if sum(name in {"freelb", "embedding-pgd-at"} for name in setting.stack) > 1:
            return (
                ("two defenses change the embeddings in one pass, by more than either was told", "keep one of them"),
            )
        if not any(slot.name.startswith(f"{self.layer}.") for slot in setting.layout.parameters):
            names = ", ".join(name for name, _ in setting.layout.layers())
            return ((f"the model has no layer {self.layer!r} with parameters", f"name one of {names}"),)
        return ()


Eps = Annotated[
    float | None,
    Field(ge=0, description="largest change over all words of a text, in units of the embedding; null for any"),
]
Length = Annotated[float, Field(ge=0, description="length of an ascent step, in units of the embedding")]
Init = Annotated[
    float | None,
    Field(ge=0, description="size of the random start; null for that of eps, or none where eps is null"),
]
Layer = Annotated[str, Field(min_length=1, description="layer of token vectors whose output is changed")]


@dataclass(frozen=True, kw_only=True)
class FreeLB(_EmbeddingTraining):
    """Free large-batch training: one backward pass gives the gradient in the model and in the embeddings.

    Each of ``steps`` passes adds its gradient in the parameters and moves the change uphill by its gradient over its
    length; the model takes the mean of the gradients, and nothing is moved after the last. All passes draw one
    dropout mask. The start is projected on the ball as every later change is, which matters only where ``init``
    exceeds ``eps``. With one step and no start it is plain training. The defaults are those of the authors' scripts
    for SST-2 (RoBERTa), whose embeddings are smaller than those of a model that starts from normal ones.
    """

    name: ClassVar[str] = "freelb"
    summary: ClassVar[str] = "Trains each client on several ascending changes of its texts' embeddings at once (FreeLB)"
    paper: ClassVar[Paper | None] = Paper(
        title="FreeLB: Enhanced Adversarial Training for Natural Language Understanding",
        authors="Zhu, Cheng, Gan, Sun, Goldstein, Liu",
        venue="ICLR 2020",
        where="algorithm 1",
    )
    cost: ClassVar[str] = "steps times the forward and backward passes of a local step"

    eps: Eps = 0.6
    step: Length = 0.1
    steps: Annotated[int, Field(ge=1, description="passes per local step, K in the paper")] = 2
    init: Init = None
    layer: Layer = "embedding.tokens"
    share: Share = 1.0

    def local(self, step: Step) -> Step:
        """See `Defense.local`."""
        return FreeLargeBatchStep(step, self.ascent, self.steps)


@dataclass(frozen=True, kw_only=True)
class EmbeddingPGDTraining(_EmbeddingTraining):
    """K-PGD on embeddings, what FreeLB is compared with: the step is taken at the last change only.

    The ascent is that of FreeLB, in train mode under the dropout mask of the local step. Without steps and start it is
    plain training; with one step as long as ``eps`` and no start, it is that of Miyato et al. 2017 with embeddings
    that are not normalised.
    """

    name: ClassVar[str] = "embedding-pgd-at"
    summary: ClassVar[str] = "Trains each client on texts whose embeddings are changed by projected gradient ascent"
    paper: ClassVar[Paper | None] = Paper(
        title="FreeLB: Enhanced Adversarial Training for Natural Language Understanding",
        authors="Zhu, Cheng, Gan, Sun, Goldstein, Liu",
        venue="ICLR 2020",
        where="the K-PGD that it is compared with",
    )
    cost: ClassVar[str] = "steps more forward and backward passes per local step, and some clean accuracy"

    eps: Eps = 0.6
    step: Length = 0.1
    steps: Annotated[int, Field(ge=0, description="ascent steps per local step")] = 2
    init: Init = None
    layer: Layer = "embedding.tokens"
    share: Share = 1.0

    def local(self, step: Step) -> Step:
        """See `Defense.local`."""
        return EmbeddingPGDStep(step, self.ascent, self.steps)
