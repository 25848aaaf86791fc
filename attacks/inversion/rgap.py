"""R-GAP: the recursive gradient attack on small sequential networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec.protocol.events import Topic
from fedsec.protocol.evidence import Reconstructions
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.parties import Attack
from fedsec.protocol.view import View
from fedsec.threat import Knowledge, Paper, Taxonomy

from .base import INVERSION, threat_of
from .closed_form import single_input
from .labels import sign_rule
from .layers import LinearSlots
from .linear_model import softmax_input
from .recursion import Known, Leaf, leaves, solve
from .victims import WANTS, Victim, choose, is_gradient, surrogate_gradient


def start_at_head(gradient: Tensor, bias: Tensor | None, slots: LinearSlots, state: Tensor) -> tuple[Known, int, float]:
    """Input of a classifier's head, its slope, the label, and the scale of the gradient.

    Args:
        gradient: ``(C, f)`` of the head's weight, up to a positive factor.
        bias: ``(C,)`` of its bias, or ``None``.
        slots: the head.
        state: ``(d,)`` the model.

    Raises:
        NotApplicable: without a bias, the length of the head's input stays open.
    """
    weight, offset = slots.read(state)
    if bias is None:
        solved = softmax_input(gradient, weight)
        if solved is None:
            raise NotApplicable("a head without bias and of two classes leaves the length of its input open")
        features, label = solved
        outputs = weight @ features
    else:
        features, label = single_input(gradient, bias), sign_rule(gradient, bias)
        outputs = weight @ features + (0.0 if offset is None else offset)
    delta = outputs.softmax(0)
    delta[label] -= 1
    ideal = torch.outer(delta, features)
    scale = float((gradient * ideal).sum() / ideal.square().sum().clamp_min(1e-300))
    return Known(features, weight.T @ delta, torch.ones_like(features)), label, scale


@dataclass(frozen=True, kw_only=True)
class RGap(Attack):
    """Zhu and Blaschko 2021: one linear system per layer, from the head to the input; no iteration, no guess of pixels.

    For chains of convolutions and linear layers with invertible activations (sigmoid, tanh, leaky ReLU; ReLU as far
    as it is active), zero padding and any stride; exact where every system has full rank, which wide early
    layers and large kernels give. One example and one local step. Differs from the paper, which has one output and a
    logistic loss: the recursion starts at a softmax head of any number of classes, whose input is closed form; the
    label comes from the sign rule; equations are weighted by the error that an inverted activation makes; the
    gradient's scale is inferred, so clipping by norm does not matter.
    """

    name: ClassVar[str] = "r-gap"
    summary: ClassVar[str] = "Solves a small network for its one input by a linear system per layer, from the head down"
    family: ClassVar[str] = "gradient inversion"
    paper: ClassVar[Paper | None] = Paper(
        title="R-GAP: Recursive Gradient Attack on Privacy",
        authors="Zhu, Blaschko",
        venue="ICLR 2021",
        where="section 3",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = INVERSION
    threat = threat_of(
        "A curious server solves a client's gradient for the one input that caused it, layer by layer.",
        Knowledge.COUNTS,
        Knowledge.LOCAL_TRAINING,
    )
    wants: ClassVar[tuple[Topic, ...]] = WANTS
    also_sees: ClassVar[tuple[Topic, ...]] = (Topic.BROADCAST,)
    judge: ClassVar[str] = "reconstruction"
    adaptive_to: ClassVar[frozenset[str]] = frozenset({"clipping", "homomorphic encryption"})
    cost: ClassVar[str] = "one dense least-squares problem of a layer's input size per layer and victim"

    targets: Annotated[int, Field(ge=1, description="Updates attacked, each client once before any twice")] = 8
    first_rounds: Annotated[int, Field(ge=1, description="Rounds that are attacked, counted from the first")] = 1

    def rounds(self, total: int) -> range:
        """The first rounds."""
        return range(min(self.first_rounds, total))

    def run(self, view: View, facts: PublicFacts, *, generator: torch.Generator) -> Reconstructions:
        """Attack the view.

        Raises:
            NotApplicable: the model is no chain that can be inverted, the task is no classification, no update has one
                example behind it, or clients make several steps or rescale coordinates.
        """
        if facts.model.task != "classification":
            raise NotApplicable("the recursion starts at a softmax head; this task is not classification")
        victims = tuple(v for v in choose(view, facts, targets=len(view.events)) if v.examples == 1)[: self.targets]
        if not victims:
            raise NotApplicable("every update averages several examples, and the equations are those of one")
        if not all(is_gradient(victim, facts.local) for victim in victims):
            raise NotApplicable("the recursion needs one local step of plain SGD, whose update is a gradient")
        low, high = facts.info.bounds or (0.0, 1.0)
        found = [self.read(victim, facts) for victim in victims]
        inputs = torch.stack([one[0] for one in found]).nan_to_num((low + high) / 2).clamp(low, high)
        return Reconstructions(
            sources=tuple(victim.source for victim in victims),
            inputs=inputs,
            labels=torch.tensor([one[1] for one in found]),
            confidence=torch.tensor([-one[2] for one in found]),
        )

    def read(self, victim: Victim, facts: PublicFacts) -> tuple[Tensor, int, float]:
        """Input, label, and the largest relative error of a layer's equations."""
        shape = facts.info.input_shape
        state = victim.model.double()
        chain: list[Leaf] = leaves(facts.model, state, shape)
        slots = {slot.name: slot for slot in facts.model.layout.parameters}
        gradient = surrogate_gradient(victim, facts.local).double()

        def part(name: str) -> Tensor | None:
            slot = slots.get(name)
            return None if slot is None else gradient[slot.start : slot.stop].reshape(slot.shape)

        def weight_of(layer: str) -> str:
            return f"{layer}.weight" if layer else "weight"

        head = chain[-1][0]
        head_slots = LinearSlots(slots[weight_of(head)], slots.get(f"{head}.bias" if head else "bias"))
        top, label, scale = start_at_head(*head_slots.read(gradient), head_slots, state)
        if not scale > 0:
            return torch.full(shape, torch.nan).to(victim.model), label, torch.inf
        gradients = {name: found / scale for name, _, _ in chain[:-1] if (found := part(weight_of(name))) is not None}
        value, error = solve(chain[:-1], gradients, top)
        return value.to(victim.model).view(shape), label, error
