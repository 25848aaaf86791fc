"""Fishing: a head under which all but a few examples of a batch send no gradient back.

With softmax ``p``, label ``y`` and head rows ``w_j`` an example sends ``sum_j (p_j - [j = y]) w_j`` back to the
features. If only row ``c`` is not zero that is ``(p_c - [y = c]) w_c``, and nothing below the head hears of an example
for which the factor is zero. The averaged update of a batch is then that of those few examples (Wen et al. 2022).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec.models.flat import FlatModel
from fedsec.protocol.events import Topic
from fedsec.protocol.evidence import Reconstructions
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.parties import Planted
from fedsec.protocol.view import Seen, View
from fedsec.threat import Knowledge, Paper

from ..inversion.closed_form import single_input
from ..inversion.inverting_gradients import InvertingGradients
from ..inversion.layers import LinearSlots, first_layer, head
from ..inversion.linear_layer import LinearLayerInversion
from ..inversion.victims import Victim, choose
from .base import Malicious, gathered, planting, real_inputs


def planted_head(vector: Tensor, slots: LinearSlots, *, target: int, row: Tensor, own: float, others: float) -> Tensor:
    """``(d,)`` the model with a head of one row.

    Args:
        vector: ``(d,)``.
        slots: the head; it has a bias.
        target: the class ``c`` whose row is not zero.
        row: ``(features,)`` that row.
        own: bias of that class.
        others: bias of every other class.
    """
    planted = vector.clone()
    weight, bias = slots.read(planted)
    if bias is None:
        raise NotApplicable("the model's head has no bias, which fishing needs to silence examples")
    weight.zero_()
    weight[target] = row
    bias.fill_(others)
    bias[target] = own
    return planted


def caught(update: Tensor, slots: LinearSlots, *, target: int, examples: int, learning_rate: float) -> float:
    """How many examples the update was left with: each of class ``c`` moves that class's bias by ``lr / n``."""
    _, bias = slots.read(update)
    if bias is None:
        raise NotApplicable("the model's head has no bias")
    return float(bias[target]) * examples / learning_rate


def isolated(
    update: Tensor, slots: LinearSlots, *, target: int, examples: int, left: int, learning_rate: float
) -> Tensor:
    """The update of the mean loss of the ``left`` examples that the head did not silence.

    Below the head it is the batch's, times ``n / m``. The silent examples do move the head: their part is taken out by
    writing the head as the isolated ones alone move it, ``p_j = 1 / (C - 1)`` for every other class. Their mean
    feature is row ``c`` of the update, which the silent ones leave alone.

    Args:
        update: ``(d,)`` one step of plain SGD on the batch.
        slots: the head.
        target: the class ``c``.
        examples: of the batch, ``n``.
        left: isolated examples ``m``.
        learning_rate: of the step.
    """
    alone = update * (examples / left)
    weight, bias = slots.read(alone)
    classes = len(weight)
    feature = weight[target].clone()
    weight.copy_(-feature.expand_as(weight) / (classes - 1))
    weight[target] = feature
    if bias is not None:
        bias.fill_(-learning_rate / (classes - 1))
        bias[target] = learning_rate
    return alone


def chosen_feature(features: Tensor) -> int:
    """The feature that varies most among ``(m, features)``."""
    return int(features.std(0).argmax())


def features_of(model: FlatModel, vector: Tensor, slots: LinearSlots, inputs: Tensor) -> Tensor:
    """``(m, features)``, what the head reads."""
    module = model.instance(vector)
    seen: list[Tensor] = []
    layer = module.get_submodule(slots.weight.layer)
    handle = layer.register_forward_hook(lambda _, args, __: seen.append(args[0].detach()))
    with torch.no_grad():
        module(inputs.to(vector))
    handle.remove()
    return seen[-1]


@dataclass(frozen=True, kw_only=True)
class Fishing(Malicious):
    """What class and feature fishing share: the planted head, and the inversion of what it leaves.

    What is left is inverted in closed form where the model's first layer is linear, else by signed Adam on the
    gradient's direction. Needs one local step of plain SGD; after a second one the head is no longer the planted one.
    Clients of whom nothing was caught count as failures.
    """

    cost: ClassVar[str] = "that of inverting one small batch per victim"

    target: Annotated[
        int, Field(ge=-1, description="Class that is fished for; -1: the most frequent one of the public examples")
    ] = -1
    method: Annotated[
        Literal["auto", "closed-form", "optimise"],
        Field(description="How what is left is inverted; auto: in closed form where the first layer is linear"),
    ] = "auto"
    max_caught: Annotated[int, Field(ge=1, description="Examples reconstructed per update, at most")] = 4
    iterations: Annotated[int, Field(ge=8, description="Double backward passes per starting point, to optimise")] = 300
    restarts: Annotated[int, Field(ge=1, description="Starting points per victim, to optimise")] = 2

    def head(self, model: FlatModel, vector: Tensor, facts: PublicFacts) -> LinearSlots:
        """The head.

        Raises:
            NotApplicable: tokens, no classes, or no linear head.
        """
        real_inputs(facts)
        if model.task != "classification":
            raise NotApplicable("fishing isolates examples by class; this task is not classification")
        return head(model, vector, facts.info.input_shape)

    def fished(self, facts: PublicFacts) -> int:
        """The class that is fished for."""
        classes = len(facts.info.classes)
        if self.target >= classes:
            raise NotApplicable(f"there is no class {self.target}; there are {classes}")
        if self.target >= 0:
            return self.target
        return int(torch.bincount(facts.auxiliary.y, minlength=classes).argmax())

    def plant(self, model: Tensor, facts: PublicFacts, *, generator: torch.Generator) -> Planted:
        """See `MaliciousServer.plant`."""
        slots, target = self.head(facts.model, model, facts), self.fished(facts)
        row, own, others = self.bait(model, slots, target, facts)
        return Planted(facts.model, planted_head(model, slots, target=target, row=row, own=own, others=others))

    @abstractmethod
    def bait(self, model: Tensor, slots: LinearSlots, target: int, facts: PublicFacts) -> tuple[Tensor, float, float]:
        """The planted row ``(features,)``, the bias of its class and that of all others."""

    def run(self, view: View, facts: PublicFacts, *, generator: torch.Generator) -> Reconstructions:
        """Invert what is left of each upload."""
        victims, target = choose(view, facts, targets=len(view.events)), self.fished(facts)
        alone: list[Victim] = []
        counts: dict[tuple[int, str], float] = {}
        for victim in victims:
            slots = self.head(facts.model, victim.model, facts)
            rate = facts.local.in_round(victim.round).learning_rate
            left = caught(victim.update, slots, target=target, examples=victim.examples, learning_rate=rate)
            if round(left) >= 1:
                many = min(round(left), victim.examples)
                update = isolated(
                    victim.update, slots, target=target, examples=victim.examples, left=many, learning_rate=rate
                )
                alone.append(replace(victim, update=update, examples=many))
            counts[victim.source] = left
        found = {victim.source: rows for victim, rows in zip(alone, self.invert(alone, facts, generator), strict=True)}
        width = int(torch.tensor(facts.info.input_shape).prod())
        nothing = facts.initial.new_zeros(0, width), facts.initial.new_zeros(0)
        return gathered(victims, [found.get(victim.source, nothing) for victim in victims], facts)

    def invert(
        self, victims: list[Victim], facts: PublicFacts, generator: torch.Generator
    ) -> list[tuple[Tensor, Tensor]]:
        """Inputs ``(k, f)`` and confidence ``(k,)`` of each isolated update."""
        if not victims:
            return []
        if self.method != "optimise":
            try:
                first_layer(facts.model, victims[0].model, facts.info.input_shape)
            except NotApplicable:
                if self.method == "closed-form":
                    raise
            else:
                return [self.read(victim, facts) for victim in victims]
        engine = InvertingGradients(
            targets=len(victims), max_examples=self.max_caught, restarts=self.restarts, iterations=self.iterations
        )
        evidence = engine.run(_as_view(victims), facts, generator=generator)
        rows: dict[tuple[int, str], list[int]] = {}
        for row, source in enumerate(evidence.sources):
            rows.setdefault(source, []).append(row)
        flat = evidence.inputs.flatten(1)
        return [(flat[rows[victim.source]], evidence.confidence[rows[victim.source]]) for victim in victims]

    def read(self, victim: Victim, facts: PublicFacts) -> tuple[Tensor, Tensor]:
        """Inputs ``(k, f)`` of one isolated update off the first linear layer, and their confidence ``(k,)``."""
        if victim.examples == 1 and not facts.stack:
            # Nothing was cut off, so large equal entries are bright pixels and every one of them counts.
            layer = first_layer(facts.model, victim.model, facts.info.input_shape)
            weight, bias = layer.slots.read(victim.update)
            if bias is not None:
                flat = (single_input(weight, bias) - layer.shift) / layer.scale
                return flat.unsqueeze(0), flat.new_full((1,), float(torch.count_nonzero(bias)))
        size = min(victim.examples, self.max_caught)
        inputs, sure = LinearLayerInversion(max_examples=self.max_caught).read(victim, size, facts)
        kept = sure > -1
        return inputs.flatten(1)[kept], sure[kept]


def _as_view(victims: list[Victim]) -> View:
    """Isolated updates, as if their few examples had been the whole batch."""
    models = {victim.round: victim.model for victim in victims}
    sent = [
        Seen(round=number, topic=Topic.BROADCAST, sender="server", values=model, weight=1.0, about=())
        for number, model in sorted(models.items())
    ]
    uploads = [
        Seen(
            round=victim.round,
            topic=Topic.UPLOAD,
            sender=victim.sender,
            values=torch.cat([victim.update, victim.model.new_zeros(len(victim.model) - len(victim.update))]),
            weight=float(victim.examples),
            about=(("examples", victim.examples),),
        )
        for victim in victims
    ]
    return View("server", (*sent, *uploads))


@dataclass(frozen=True, kw_only=True)
class ClassFishing(Fishing):
    """Wen et al. 2022, section 4.2: every class but one is silenced.

    Rows of the other classes are zero and their biases so high that ``p_c`` vanishes: an example of another class sends
    nothing below the head, one of class ``c`` sends ``-w_c``. A batch with one example of the class is thereby reduced
    to it, whatever its size; with ``m`` of them to a batch of ``m``.
    """

    name: ClassVar[str] = "class-fishing"
    summary: ClassVar[str] = "Plants a head that silences every class but one, and inverts what is left of the update"
    paper: ClassVar[Paper | None] = Paper(
        title="Fishing for User Data in Large-Batch Federated Learning via Gradient Magnification",
        authors="Wen, Geiping, Fowl, Goldblum, Goldstein",
        venue="ICML 2022",
        where="section 4.2",
    )
    threat = planting(
        "A malicious server sends a model whose last layer lets only one class of examples speak.",
        Knowledge.COUNTS,
        Knowledge.LOCAL_TRAINING,
        Knowledge.AUXILIARY_DATA,
    )

    shift: Annotated[float, Field(gt=0, description="Bias of every other class")] = 1000.0

    def knows(self) -> frozenset[Knowledge]:
        """Public examples only tell the most frequent class; a class that is named needs none."""
        return self.threat.knowledge - (frozenset({Knowledge.AUXILIARY_DATA}) if self.target >= 0 else frozenset())

    def bait(self, model: Tensor, slots: LinearSlots, target: int, facts: PublicFacts) -> tuple[Tensor, float, float]:
        """The class's own row and bias; a large bias for the others."""
        weight, bias = slots.read(model)
        return weight[target].clone(), 0.0 if bias is None else float(bias[target]), self.shift


@dataclass(frozen=True, kw_only=True)
class FeatureFishing(Fishing):
    """Wen et al. 2022, section 4.3: of one class, only examples with an extreme feature speak.

    Row ``c`` is ``-b e_j`` and its bias ``b t``: for class ``c`` the softmax is saturated unless feature ``j`` exceeds
    the cut ``t``. For every other class it is the other way round, so the attack is for clients that hold one class (as
    in the paper); elsewhere examples of other classes below the cut speak too, and `caught` says so. The cut is the
    public quantile above which one of ``expected`` examples lies, so exactly one is caught in ``(1 - 1/m)^(m - 1)`` of
    all cases, about 0.37; the paper repeats the query over rounds.
    """

    name: ClassVar[str] = "feature-fishing"
    summary: ClassVar[str] = "Plants a head that lets only examples with an extreme feature speak, and inverts the rest"
    paper: ClassVar[Paper | None] = Paper(
        title="Fishing for User Data in Large-Batch Federated Learning via Gradient Magnification",
        authors="Wen, Geiping, Fowl, Goldblum, Goldstein",
        venue="ICML 2022",
        where="section 4.3",
    )
    threat = planting(
        "A malicious server sends a model whose last layer lets only one unusual example of a class speak.",
        Knowledge.COUNTS,
        Knowledge.LOCAL_TRAINING,
        Knowledge.AUXILIARY_DATA,
    )

    expected: Annotated[int, Field(ge=2, description="Examples of the class that a client is thought to hold")] = 8
    sharpness: Annotated[
        float, Field(gt=0, description="Nats of the logit over one standard deviation of the feature")
    ] = 2000.0

    def bait(self, model: Tensor, slots: LinearSlots, target: int, facts: PublicFacts) -> tuple[Tensor, float, float]:
        """One steep feature."""
        mine = facts.auxiliary.x[facts.auxiliary.y == target]
        if len(mine) < 2:
            raise NotApplicable(f"the public examples have fewer than two of class {target}")
        read = features_of(facts.model, model, slots, mine)
        feature = chosen_feature(read)
        values = read[:, feature]
        steep = self.sharpness / max(float(values.std()), 1e-12)
        cut = float(torch.quantile(values.double(), 1 - 1 / self.expected))
        row = torch.zeros_like(read[0])
        row[feature] = -steep
        return row, steep * cut, 0.0
