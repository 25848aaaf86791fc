"""Clipping as defenses: the same function either at honest clients or at the server."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec.models.flat import Layout
from fedsec.protocol.payload import Payload, Plain
from fedsec.protocol.stage import Defense, EnforcedBy, Guarantee, RoundContext, Setting
from fedsec.threat import Paper

from ..expect import plain
from .norms import clip_layers, clip_norms, clip_values, layer_spans, shortened

Where = Annotated[
    Literal["client", "server"],
    Field(
        description="who clips: `client` before upload (works under encryption, does not bind an attacker) or "
        "`server` on arrival (binds everyone, needs updates in clear)"
    ),
]

_DP_FEDAVG = Paper(
    title="Learning Differentially Private Recurrent Language Models",
    authors="McMahan, Ramage, Talwar, Zhang",
    venue="ICLR 2018",
    where="section 2, flat and per-layer clipping",
)


@dataclass(frozen=True, kw_only=True)
class _Clip(Defense):
    """What the three have in common: where they act and what they report."""

    family: ClassVar[str] = "clipping"
    cost: ClassVar[str] = "one pass over each update"
    guarantee: ClassVar[Guarantee]

    enforced_by: Where = "client"

    @property
    def enforcement(self) -> EnforcedBy:
        """The parameter, as the planner reads it."""
        return EnforcedBy(self.enforced_by)

    @property
    def acts_on_arrival(self) -> bool:
        """Whether it reads uploads at the server, which no sealing stage may precede."""
        return self.enforced_by == "server"

    @abstractmethod
    def clip(self, updates: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """``(n, d)`` to ``(n, d)`` clipped, and a bool tensor ``(n, ...)`` of what changed."""

    def seal(self, update: Payload, context: RoundContext) -> Payload:
        """Clip at the client."""
        return self._clipped(update, context) if self.enforced_by == "client" else update

    def receive(self, update: Payload, context: RoundContext) -> Payload:
        """Clip on arrival at the server."""
        return self._clipped(update, context) if self.enforced_by == "server" else update

    def _clipped(self, update: Payload, context: RoundContext) -> Plain:
        received = plain(update, self.name)
        values, changed = self.clip(received.values, context.layout)
        tally(changed, context)
        return Plain(values, received.weights)


def tally(changed: Tensor, context: RoundContext) -> None:
    """Report how much of these rows was clipped.

    Args:
        changed: ``(n, ...)`` bool.
        context: its report gets ``clipped_share`` in [0, 1], of rows, rows by layers or coordinates.
    """
    context.report["clipped_share"] = float(torch.count_nonzero(changed)) / max(1, changed.numel())


@dataclass(frozen=True, kw_only=True)
class ClipNorm(_Clip):
    """Clip the joint L2 norm of each update, float buffers included; weights in the mean stay as they are."""

    name: ClassVar[str] = "clip-norm"
    summary: ClassVar[str] = "Scales each update down to an L2 norm of at most c"
    paper: ClassVar[Paper | None] = _DP_FEDAVG
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="the global model from a single update that outweighs the others",
        against="clients that send large updates",
        assuming="enforced by the server; enforced by clients it binds only honest ones. Updates inside the bound "
        "pass unchanged, whatever they do",
    )

    c: Annotated[float, Field(gt=0, description="largest L2 norm of an update (units of the parameters)")] = 1.0

    def clip(self, updates: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """See `clip_norms`."""
        return clip_norms(updates, self.c)

    def row_function(self, n: int) -> Callable[[Tensor], Tensor]:
        """See `shortened`."""
        return partial(shortened, bound=self.c)


@dataclass(frozen=True, kw_only=True)
class Clip(ClipNorm):
    """`ClipNorm` by its short name, the one that most people type."""

    name: ClassVar[str] = "clip"
    summary: ClassVar[str] = "Short for clip-norm: scales each update down to an L2 norm of at most c"


@dataclass(frozen=True, kw_only=True)
class ClipValue(_Clip):
    """Clip every coordinate of each update."""

    name: ClassVar[str] = "clip-value"
    summary: ClassVar[str] = "Clips each coordinate of an update to [-c, c]"
    paper: ClassVar[Paper | None] = None
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="each coordinate of the global model from a single extreme value",
        against="clients that send extreme values",
        assuming="enforced by the server; the joint norm may still be as large as c times the root of the dimension",
    )

    c: Annotated[float, Field(gt=0, description="largest absolute value of a coordinate (units of the parameters)")] = (
        0.1
    )

    def clip(self, updates: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """See `clip_values`."""
        return clip_values(updates, self.c)


@dataclass(frozen=True, kw_only=True)
class ClipLayer(_Clip):
    """Clip the L2 norm of each layer; ``c = S / sqrt(layers)`` gives the joint bound S of the paper."""

    name: ClassVar[str] = "clip-layer"
    summary: ClassVar[str] = "Scales each layer of an update down to an L2 norm of at most c"
    paper: ClassVar[Paper | None] = _DP_FEDAVG
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="each named layer of the global model from a single update that outweighs the others",
        against="clients that send large updates",
        assuming="enforced by the server; layers that are not named are not bounded",
    )

    c: Annotated[float, Field(gt=0, description="largest L2 norm of a layer's update (units of the parameters)")] = 1.0
    layers: Annotated[
        tuple[str, ...], Field(description="names of the layers to clip, as the model names them; empty for all")
    ] = ()

    def problems(self, setting: Setting) -> Sequence[tuple[str, str]]:
        """Layers that the model does not have."""
        known = layer_spans(setting.layout)
        return [
            (f"the model has no layer {layer!r}", f"layers of this model: {', '.join(known)}")
            for layer in self.layers
            if layer not in known
        ]

    def clip(self, updates: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """See `clip_layers`."""
        spans = layer_spans(layout)
        return clip_layers(updates, dict.fromkeys(self.layers or spans, self.c), spans)
