"""Soteria: hide in the gradient of one fully connected layer what the layer's input tells most about the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsec.errors import ConfigurationError, Problem
from fedsec.models.flat import FlatModel
from fedsec.models.lanes import Lanes, Step
from fedsec.protocol.payload import Kind
from fedsec.protocol.stage import Defense, EnforcedBy, Guarantee, Setting
from fedsec.threat import Paper


@dataclass(frozen=True, kw_only=True)
class Soteria(Defense):
    """Set columns of one layer's weight gradient to 0: those of the features that pin the input down most.

    For the input ``r`` of the defended fully connected layer, the objective of Sun et al. (farthest reconstruction
    from a given number of altered features) is solved by the features of the largest ``|r_i| / |d r_i / d x|``, summed
    here over the batch; a feature that is 0 counts 0, as its column of the gradient is 0 already. The ``share`` of them
    is pruned at every local step. Only the columns of this one weight change: forward passes, the other layers, and
    the layer's bias keep their gradients. The features and their Jacobians are taken in eval mode.

    The paper's bound speaks of reconstructions from this layer alone. Whoever reads the other layers, divides rows of
    an earlier linear layer by its bias, or leaves this layer out of the match, is not hindered.
    """

    name: ClassVar[str] = "soteria"
    summary: ClassVar[str] = "Prunes the gradient of one fully connected layer where its input tells most (Soteria)"
    family: ClassVar[str] = "perturbation"
    paper: ClassVar[Paper | None] = Paper(
        title="Soteria: Provable Defense Against Privacy Leakage in Federated Learning from Representation Perspective",
        authors="Sun, Li, Wang, Zhao, Li, Pei, Chen",
        venue="CVPR 2021",
        where="section 4, the objective for the 2-norm; per local step",
    )
    cost: ClassVar[str] = "as many backward passes per local step as the layer has inputs"
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="what the input of one fully connected layer tells about single examples",
        against="attacks that match or invert the gradient of this layer",
        assuming="the attack does not leave this layer out and read the others, which are untouched; few local steps "
        "and small batches, for a sum over many examples is pruned where they tell most together",
    )
    accepts: ClassVar[frozenset[Kind]] = frozenset({Kind.PLAIN, Kind.SEALED, Kind.MASKED})

    share: Annotated[float, Field(ge=0, le=1, description="share of the layer's inputs that is pruned")] = 0.8
    layer: Annotated[
        str, Field(description="name of the fully connected layer, as the model names it; empty for the last")
    ] = ""

    @property
    def enforcement(self) -> EnforcedBy:
        """Only honest clients hide something."""
        return EnforcedBy.CLIENT

    def problems(self, setting: Setting) -> Sequence[tuple[str, str]]:
        """Inputs without gradients; a layer that the model does not have."""
        found: list[tuple[str, str]] = []
        if setting.bounds is None:
            found.append(("the inputs are tokens, in which features have no gradient", f"leave {self.name} out"))
        dense = [slot.layer for slot in setting.layout.parameters if _is_matrix(slot.name, slot.shape)]
        if self.layer and self.layer not in dense:
            found.append((f"no fully connected layer {self.layer!r}", f"layers of this model: {', '.join(dense)}"))
        if not dense:
            found.append(("the model has no fully connected layer", f"leave {self.name} out"))
        return found

    def local(self, step: Step) -> Step:
        """See `Defense.local`."""
        return SoteriaStep(step, self.share, self.layer) if self.share else step


def _is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    return name.rpartition(".")[2] == "weight" and len(shape) == 2


@dataclass(frozen=True)
class SoteriaStep:
    """The wrapped step, whose gradient of one weight loses columns (picklable).

    Attributes:
        step: what it wraps.
        share: of the columns.
        layer: name of the layer; empty for the last one.
    """

    step: Step
    share: float
    layer: str

    def __call__(self, lanes: Lanes, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """See `fedsec.models.lanes.Step`."""
        gradients = self.step(lanes, x, y)
        layer = self.layer or last_dense(lanes.model)
        names = [slot.name for slot in lanes.model.layout.parameters]
        place = names.index(f"{layer}.weight" if layer else "weight")
        kept = ~pruned(exposure(lanes, x, before(lanes.model, layer, x)), self.share)
        masked = gradients[place] * kept[:, None].to(gradients[place].dtype)
        return (*gradients[:place], masked, *gradients[place + 1 :])


def exposure(lanes: Lanes, x: Tensor, at: str) -> Tensor:
    """``|r_i| / |d r_i / d x|`` of every feature, summed over the batch.

    Args:
        lanes: the models; read in eval mode.
        x: ``(l, b, *shape)`` inputs.
        at: the layer whose output, flattened, is the representation ``r``.

    Returns:
        ``(l, features)``; a feature that is 0 counts 0, one that the input does not move but is not 0 counts most.
    """
    leaf = x.detach().requires_grad_()
    features = lanes.output_of(leaf, at, train=False).flatten(2)
    scores = []
    for place in range(features.shape[-1]):
        feature = features[..., place]
        (slope,) = torch.autograd.grad(feature.sum(), leaf, retain_graph=True)
        length = torch.linalg.vector_norm(slope.flatten(2), dim=-1)
        size = feature.detach().abs()
        tiny = torch.finfo(size.dtype).tiny
        ratio = torch.where(size > 0, size / length.clamp_min(tiny), 0.0)
        scores.append((ratio if lanes.present is None else ratio * lanes.present).sum(-1))
    return torch.stack(scores, dim=-1)


def pruned(scores: Tensor, share: float) -> Tensor:
    """The ``share`` of largest scores of each row, rounded up: bool like ``scores (l, features)``."""
    count = math.ceil(share * scores.shape[-1] * (1 - 1e-12))
    mask = torch.zeros_like(scores, dtype=torch.bool)
    return mask.scatter(-1, scores.topk(count, dim=-1).indices, True)


def last_dense(model: FlatModel) -> str:
    """Name of the last fully connected layer.

    Raises:
        ConfigurationError: there is none.
    """
    names: list[str] = [name for name, part in model.module.named_modules() if isinstance(part, nn.Linear)]
    if not names:
        raise _unusable(model.name, "a model with a fully connected layer")
    return names[-1]


def before(model: FlatModel, layer: str, x: Tensor) -> str:
    """Name of the leaf that runs right before a layer; its flattened output is the layer's input.

    Args:
        model: the architecture.
        layer: name of a fully connected layer.
        x: ``(l, b, *shape)`` inputs, of which one is looked at.

    Raises:
        ConfigurationError: something else stands between, or nothing before it.
    """
    wanted = model.module.get_submodule(layer)
    order: list[tuple[str, Tensor]] = []
    found: list[tuple[str, Tensor, Tensor]] = []
    handles = []
    for name, part in model.module.named_modules():
        if not any(True for _ in part.children()):

            def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
                if module is wanted and order:
                    found.append((*order[-1], inputs[0]))
                order.append((name, output))

            handles.append(part.register_forward_hook(note))
    training = model.module.training
    try:
        with torch.no_grad():
            module = model.module.eval()
            module(x[0, :1].detach().to(next(module.parameters(), x)))
    finally:
        model.module.train(training)
        for handle in handles:
            handle.remove()
    if len(found) != 1 or not torch.equal(found[0][1].flatten(1), found[0][2].flatten(1)):
        raise _unusable(layer, "a fully connected layer that runs once, on what the layer before it gives")
    return found[0][0]


def _unusable(found: str, expected: str) -> ConfigurationError:
    return ConfigurationError([Problem(path="defenses.soteria", found=found, expected=expected)])


__all__ = ["Soteria", "SoteriaStep", "before", "exposure", "last_dense", "pruned"]
