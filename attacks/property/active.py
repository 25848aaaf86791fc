"""Active property inference: a participant that teaches the shared model to tell a property apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsec.data.examples import Examples
from fedsec.data.properties import Property
from fedsec.federation.training import LocalTraining
from fedsec.models.flat import FlatModel
from fedsec.protocol.events import Topic
from fedsec.protocol.evidence import PropertyScores, SeveralProperties
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.parties import Adversary, CoalitionView
from fedsec.protocol.view import Seen, View
from fedsec.threat import Capability, Knowledge, Paper, Stage, Taxonomy, ThreatModel

from .passive import followed
from .reading import ShadowReader


@dataclass(frozen=True, kw_only=True)
class ActivePropertyInference(ShadowReader, Adversary):
    """Clients that train for the task and for the property, and read the property from what the others send.

    Each controlled client adds a property head of its own to the input of the model's last linear layer, trains on
    ``task_weight * task loss + (1 - task_weight) * property loss`` and uploads its change of the shared parameters;
    the heads never leave the coalition. The shared representation comes to separate data with the property from data
    without, and so do honest updates. They are read from the models that the coalition is sent: the difference of two
    in a row, less its own part, is the mean of the others' updates.

    Beside their own data the clients train on public examples, half of them with each property. Local steps are plain
    SGD with the federation's learning rate, batch size and epochs, with dropout and batch statistics switched off.
    """

    name: ClassVar[str] = "property-inference-active"
    summary: ClassVar[str] = (
        "Trains on the task and a property at once, so that the others' aggregated updates show the property"
    )
    family: ClassVar[str] = "property inference"
    paper: ClassVar[Paper | None] = Paper(
        title="Exploiting Unintended Feature Leakage in Collaborative Learning",
        authors="Melis, Song, De Cristofaro, Shmatikov",
        venue="IEEE S&P 2019",
        where="active property inference by multi-task learning",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = (
        Taxonomy("nist-ai-100-2e2025", "NISTAML.034", "Property Inference", "exact"),
        Taxonomy("mitre-atlas-5.6", "AML.T0024.000", "Infer Training Data Membership", "partial"),
        Taxonomy("owasp-ml-2023", "", "", "none"),
    )
    cost: ClassVar[str] = "a local training per controlled client and round, and shadow_updates more per round read"
    threat: ClassVar[ThreatModel] = ThreatModel(
        story="A participant bends the shared model so that the others' updates betray what their data are like",
        position="coalition",
        knowledge=frozenset({Knowledge.AUXILIARY_DATA, Knowledge.LOCAL_TRAINING}),
        capabilities=frozenset({Capability.TRAINING_DATA_CONTROL, Capability.MODEL_CONTROL}),
        stage=Stage.TRAINING,
    )
    wants: ClassVar[tuple[Topic, ...]] = (Topic.AGGREGATE,)
    also_sees: ClassVar[tuple[Topic, ...]] = (Topic.BROADCAST,)
    judge: ClassVar[str] = "property"
    adaptive_to: ClassVar[frozenset[str]] = frozenset(
        {"clipping", "compression", "differential privacy", "homomorphic encryption"}
    )

    fraction: Annotated[float, Field(gt=0, lt=1, description="share of the population's clients that it controls")] = (
        0.1
    )
    task_weight: Annotated[
        float, Field(ge=0, le=1, description="weight of the task's loss; the rest is that of the property")
    ] = 0.5
    public_share: Annotated[
        float, Field(ge=0, description="public examples that a controlled client adds, per example of its own")
    ] = 1.0

    def craft(self, coalition: CoalitionView, facts: PublicFacts, *, generator: torch.Generator) -> Tensor:
        """See `Adversary.craft`."""
        layer = last_linear(facts.model)
        if layer is None:
            return coalition.own  # there is nothing to bend, which `observe` says
        asked, pools = self.asked(facts), self.pools(facts, facts.auxiliary)
        head = coalition.state.get("head", torch.zeros(len(asked), layer.in_features + 1))
        updates, heads = [], []
        for shard in coalition.shards:
            data = shard
            if extra := round(self.public_share * len(shard) / 2):
                pair, _ = pools.shards(1, [extra], self.purity, generator=generator)
                data = _joined([shard, *pair])
            update, trained = multi_task(
                facts.model,
                coalition.model,
                head,
                data,
                asked,
                facts.local.in_round(coalition.round),
                task_weight=self.task_weight,
                generator=generator,
            )
            updates.append(update)
            heads.append(trained)
        crafted = torch.stack(updates).to(coalition.own)
        coalition.state["head"] = torch.stack(heads).mean(0)
        weights = coalition.weights / coalition.weights.sum()
        coalition.state[f"sent {coalition.round}"] = weights.to(crafted) @ crafted
        coalition.state[f"weights {coalition.round}"] = coalition.weights
        return crafted

    def observe(
        self, view: View, facts: PublicFacts, state: Mapping[str, Tensor], *, generator: torch.Generator
    ) -> PropertyScores | SeveralProperties:
        """See `Adversary.observe`.

        Raises:
            NotApplicable: the model has no layer below its last, there is no such property, or the coalition saw no
                round to which others and it contributed.
        """
        if last_linear(facts.model) is None:
            raise NotApplicable("the model has no hidden layer, so a property head shares nothing with it")
        pools = self.pools(facts, facts.auxiliary)
        models = {0: facts.initial} | {event.round: event.values for event in view.of(Topic.BROADCAST)}
        aggregates = view.of(Topic.AGGREGATE)
        models = followed(models, {event.round: event.values for event in aggregates})
        groups: dict[int, list[Seen]] = {}
        for event in aggregates:
            own = state.get(f"sent {event.round}")
            if own is None:
                continue
            weights = state[f"weights {event.round}"]
            merged = facts.cohort - len(weights)
            if merged >= 1:
                groups.setdefault(merged, []).append(without(event, own, weights, facts.cohort))
        found = [
            self.read(groups[merged], models, pools, facts, merged=merged, generator=generator)
            for merged in sorted(groups)
            if any(event.round in models for event in groups[merged])
        ]
        if not found:
            raise NotApplicable("there is no round of which the coalition saw the aggregate and that it took part in")
        return _together(found)


def last_linear(model: FlatModel) -> nn.Linear | None:
    """The last linear layer, if another layer with parameters lies below it."""
    layers = [m for m in model.module.modules() if any(True for _ in m.parameters(recurse=False))]
    last = next((m for m in reversed(layers) if isinstance(m, nn.Linear)), None)
    return last if len(layers) > 1 else None


def multi_task(
    model: FlatModel,
    vector: Tensor,
    head: Tensor,
    data: Examples,
    asked: tuple[Property, ...],
    local: LocalTraining,
    *,
    task_weight: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Local training on the joint loss.

    Args:
        model: the architecture.
        vector: ``(d,)`` global model.
        head: ``(p, f + 1)`` weights and bias of the property heads, one per property.
        data: with the attributes that the properties are about; examples of unknown attribute do not count there.
        asked: the properties.
        local: learning rate, batch size, epochs.
        task_weight: of the task's loss, in [0, 1].
        generator: draws the order of the batches.

    Returns:
        The change of the model ``(d,)``, and the trained heads.
    """
    net = model.instance(vector.detach().cpu())
    seen: list[Tensor] = []
    layers = [m for m in net.modules() if isinstance(m, nn.Linear)]
    hook = layers[-1].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    heads = head.clone().requires_grad_()
    truths = torch.stack([one.holds(data) for one in asked], dim=1).double()
    known = torch.stack([one.known(data) for one in asked], dim=1).double()
    trained = [*net.parameters(), heads]
    size = len(data) if local.batch_size is None else local.batch_size
    for _ in range(local.epochs):
        for rows in torch.split(torch.randperm(len(data), generator=generator), max(1, size)):
            seen.clear()
            task = model.loss(net(data.x[rows]), data.y[rows]).mean()
            below = seen[-1].flatten(1)
            logits = (below @ heads[:, :-1].T + heads[:, -1]).double()
            each = nn.functional.binary_cross_entropy_with_logits(logits, truths[rows], reduction="none")
            about = (each * known[rows]).sum(0) / known[rows].sum(0).clamp_min(1)
            loss = task_weight * task + (1 - task_weight) * about.mean()
            gradients = torch.autograd.grad(loss, trained, allow_unused=True)
            with torch.no_grad():
                for tensor, gradient in zip(trained, gradients, strict=True):
                    if gradient is not None:
                        tensor -= local.learning_rate * (gradient + local.weight_decay * tensor)
    hook.remove()
    state: dict[str, Any] = net.state_dict()
    after = torch.cat([state[slot.name].reshape(-1) for slot in model.layout.slots])
    return after - vector.detach().cpu(), heads.detach()


def without(event: Seen, own: Tensor, weights: Tensor, cohort: int) -> Seen:
    """The mean of the others' updates.

    Args:
        event: the aggregate of the round; a weight of 1 or of ``cohort`` tells nothing of the others' examples, who
            are then taken to hold as many as the coalition's clients on average.
        own: ``(d,)`` weighted mean of what the coalition sent.
        weights: ``(k,)`` its clients' numbers of examples.
        cohort: clients of the round.
    """
    ours = float(weights.sum())
    total = event.weight
    if total in (1.0, float(cohort)) or total <= ours:
        total = cohort * ours / len(weights)
    values = (total * event.values.double() - ours * own.to(event.values).double()) / (total - ours)
    about = (("examples", round(total - ours)),)
    return dataclasses.replace(event, values=values.to(event.values), about=about, weight=total - ours)


def _joined(parts: list[Examples]) -> Examples:
    names = set.intersection(*(set(part.attributes) for part in parts))
    return Examples(
        torch.cat([part.x for part in parts]),
        torch.cat([part.y for part in parts]),
        {name: torch.cat([part.attributes[name] for part in parts]) for name in names},
    )


def _together(found: list[PropertyScores | SeveralProperties]) -> PropertyScores | SeveralProperties:
    """Evidence of several groups of rounds as one."""
    if len(found) == 1:
        return found[0]
    single = [one for one in found if isinstance(one, PropertyScores)]
    if single:
        return _concatenated(single)
    several = [one.scores for one in found if isinstance(one, SeveralProperties)]
    return SeveralProperties(scores={name: _concatenated([one[name] for one in several]) for name in several[0]})


def _concatenated(parts: list[PropertyScores]) -> PropertyScores:
    return PropertyScores(
        sources=tuple(source for part in parts for source in part.sources),
        scores=torch.cat([part.scores for part in parts]),
        control=torch.cat([part.control for part in parts]),
    )
