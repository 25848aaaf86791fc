"""Passive property inference: whether the data behind an update has a property that the task is not about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedsec.protocol.events import Topic
from fedsec.protocol.evidence import PropertyScores
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.parties import Attack
from fedsec.protocol.view import Seen, View
from fedsec.threat import Capability, Knowledge, Paper, Stage, Taxonomy, ThreatModel

from .shadows import Pools, cohorts, features, permuted_within, standardise


@dataclass(frozen=True, kw_only=True)
class PassivePropertyInference(Attack):
    """Classify real updates by updates that were simulated on public examples with and without the property.

    One classifier per round, trained on the model of that round alone: no later round is used, as an adversary in
    the middle of a training has none. The simulation is that of an honest client behind the public stack of
    client-side defenses, with noise of the adversary's own. Departures from Melis et al.: whole local trainings
    instead of single batches, signed features (`features`), a linear classifier by default instead of the
    forest, and shadow data with equal classes on both sides, so that a property cannot be read off a label.
    """

    name: ClassVar[str] = "property-inference"
    summary: ClassVar[str] = (
        "Reads from an update whether most of the data behind it has a property unrelated to the task"
    )
    family: ClassVar[str] = "property inference"
    paper: ClassVar[Paper | None] = Paper(
        title="Exploiting Unintended Feature Leakage in Collaborative Learning",
        authors="Melis, Song, De Cristofaro, Shmatikov",
        venue="IEEE S&P 2019",
        where="section 4.3 and algorithm 3 (passive, batch property classifier)",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = (
        Taxonomy("nist-ai-100-2e2025", "NISTAML.034", "Property Inference", "exact"),
        Taxonomy("mitre-atlas-5.6", "AML.T0024.000", "Infer Training Data Membership", "partial"),
        Taxonomy("owasp-ml-2023", "", "", "none"),
    )
    cost: ClassVar[str] = "shadow_updates local trainings and two small classifiers per round"
    threat: ClassVar[ThreatModel] = ThreatModel(
        story="The server learns something about a participant's data that the model was never meant to learn",
        position="server",
        knowledge=frozenset({Knowledge.AUXILIARY_DATA, Knowledge.LOCAL_TRAINING, Knowledge.COUNTS}),
        capabilities=frozenset({Capability.OBSERVE_UPDATES}),
        stage=Stage.TRAINING,
    )
    wants: ClassVar[tuple[Topic, ...]] = (Topic.UPLOAD, Topic.AGGREGATE)
    also_sees: ClassVar[tuple[Topic, ...]] = (Topic.BROADCAST,)
    judge: ClassVar[str] = "property"
    adaptive_to: ClassVar[frozenset[str]] = frozenset(
        {"clipping", "differential privacy", "adversarial training", "robust aggregation", "anomaly detection"}
    )

    property: Annotated[
        str, Field(description="attribute of the dataset whose value 1 is the property; empty for the first one")
    ] = ""
    first_round: Annotated[int, Field(ge=0, description="first round attacked, counted from 0")] = 0
    rounds_used: Annotated[
        int, Field(ge=1, description="consecutive rounds attacked; take many where only aggregates can be read")
    ] = 3
    shadow_updates: Annotated[
        int, Field(ge=8, description="updates simulated per round, half of them with the property; more help")
    ] = 80
    purity: Annotated[
        float, Field(gt=0.5, le=1, description="share of a simulated shard's examples that are of its own kind")
    ] = 0.9
    classifier: Annotated[
        Literal["linear", "forest"],
        Field(description="linear: logistic regression; forest: 100 trees of leaves of at least 5, as in the paper"),
    ] = "linear"
    assumed_examples: Annotated[
        int, Field(ge=1, description="examples behind an update whose event does not say how many")
    ] = 32

    def rounds(self, total: int) -> range:
        """The attacked rounds, moved forward if the training is too short for them."""
        first = max(0, min(self.first_round, total - self.rounds_used))
        return range(first, min(total, first + self.rounds_used))

    def run(self, view: View, facts: PublicFacts, *, generator: torch.Generator) -> PropertyScores:
        """See `Attack.run`.

        Raises:
            NotApplicable: there is no such attribute, the public examples have too little of either kind, or no
                model of an attacked round can be read.
        """
        pools = self._pools(facts)
        topic = Topic.UPLOAD if view.of(Topic.UPLOAD) else Topic.AGGREGATE
        models = {0: facts.initial} | {event.round: event.values for event in view.of(Topic.BROADCAST)}
        events = [event for event in view.of(topic) if event.round in models]
        if not events:
            raise NotApplicable("no model of an attacked round can be read, so no update on it can be simulated")
        scores, controls, sources = [], [], []
        for number in sorted({event.round for event in events}):
            seen = [event for event in events if event.round == number]
            shadows, holds = self._shadows(seen, topic, models[number], pools, facts, generator)
            observed, _ = features(torch.stack([event.values for event in seen]), facts.model.layout)
            known, widths = features(shadows, facts.model.layout)
            known, observed = standardise(known, observed, widths)
            permuted = permuted_within(holds, generator=generator)
            seed = int(torch.randint(2**31 - 1, (), generator=generator))
            scores.append(self._classify(known, holds, observed, seed))
            controls.append(self._classify(known, permuted, observed, seed))
            sources += [(event.round, event.sender) for event in seen]
        return PropertyScores(sources=tuple(sources), scores=torch.cat(scores), control=torch.cat(controls))

    def _pools(self, facts: PublicFacts) -> Pools:
        offered = [attribute.name for attribute in facts.info.attributes]
        name = self.property or (offered[0] if offered else "")
        if name not in facts.auxiliary.attributes:
            found = f"no attribute {name!r}" if name else "no attribute"
            others = f"; it has {', '.join(offered)}" if offered else ""
            raise NotApplicable(f"the dataset {facts.info.name} has {found}{others}")
        values = facts.auxiliary.attributes[name]
        by_class = facts.info.task == "classification" and facts.auxiliary.y.dim() == 1
        pools = Pools.of(facts.auxiliary, values == 1, values >= 0, by_class=by_class)
        if not pools.cells:
            raise NotApplicable(f"no class of the public examples has members both with and without {name!r}")
        return pools

    def _shadows(
        self,
        seen: list[Seen],
        topic: Topic,
        model: Tensor,
        pools: Pools,
        facts: PublicFacts,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Simulated updates (or aggregates of them) on the model of one round, and whether each has the property."""
        merged = max(1, facts.cohort) if topic == Topic.AGGREGATE else 1
        sizes = self._sizes(seen, merged)
        updates, holds = [], []
        for number in range(self.shadow_updates // 2):
            pair = pools.pair(sizes[number % len(sizes)], self.purity, generator=generator)
            for kind, shard in enumerate(pair):
                draw = int(torch.randint(2**31 - 1, (), generator=generator))
                updates.append(facts.simulate(model, shard, draw))
                holds.append(bool(kind))
        singles, truths = torch.stack(updates), torch.tensor(holds)
        if merged == 1:
            return singles, truths
        return cohorts(singles, truths, merged, self.shadow_updates // 2, generator=generator)

    def _sizes(self, seen: list[Seen], merged: int) -> list[int]:
        """Examples of one client behind each event: what it says, what its weight says, or the assumption.

        Weights that are all equal to the number of merged clients, or to 1, are those of an unweighted mean.
        """
        weighted = any(event.weight not in (1.0, float(merged)) for event in seen)
        sizes = []
        for event in seen:
            said = dict(event.about).get("examples", round(event.weight) if weighted else None)
            sizes.append(self.assumed_examples if said is None else max(1, round(said / merged)))
        return sizes

    def _classify(self, known: Tensor, holds: Tensor, observed: Tensor, seed: int) -> Tensor:
        """Log-odds of the property for each observed update, ``(k,)``; everything is fitted on simulated updates."""
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.linear_model import LogisticRegression

        train, test, labels = known.cpu().numpy(), np.nan_to_num(observed.cpu().numpy()), holds.cpu().numpy()
        if self.classifier == "forest":
            forest: Any = RandomForestClassifier(100, min_samples_leaf=5, random_state=seed).fit(train, labels)
            share = np.clip(forest.predict_proba(test)[:, 1], 1e-3, 1 - 1e-3)
            return torch.from_numpy(np.log(share / (1 - share)))
        linear: Any = LogisticRegression(max_iter=500).fit(train, labels)
        return torch.from_numpy(linear.decision_function(test))
