"""Property inference from the released model: what all training data together are like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec.protocol.events import Topic
from fedsec.protocol.evidence import PropertyScores, SeveralProperties
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.parties import Attack
from fedsec.protocol.view import View
from fedsec.threat import Capability, Knowledge, Paper, Stage, Taxonomy, ThreatModel

from .asking import Asking
from .features import features, standardise
from .reading import as_evidence, fit_and_score, span
from .shadows import permuted_within


@dataclass(frozen=True, kw_only=True)
class ReleasedModelPropertyInference(Asking, Attack):
    """A classifier of models, trained on shadow federations whose training sets have much or little of a property.

    It sees how far each parameter moved from the public initial model.
    Departures from Ganju et al.: no permutation-invariant representation is needed, because all models start from one
    initial model, which keeps hidden units in their places; shadows have one purity.
    """

    name: ClassVar[str] = "property-inference-model"
    summary: ClassVar[str] = (
        "Reads from the released model whether most of all training data have a property unrelated to the task"
    )
    family: ClassVar[str] = "property inference"
    paper: ClassVar[Paper | None] = Paper(
        title="Property Inference Attacks on Fully Connected Neural Networks using Permutation Invariant "
        "Representations",
        authors="Ganju, Wang, Yang, Gunter, Borisov",
        venue="CCS 2018",
        where="section 3 (meta-classifier on shadow models), without the sorting of neurons",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = (
        Taxonomy("nist-ai-100-2e2025", "NISTAML.034", "Property Inference", "exact"),
        Taxonomy("mitre-atlas-5.6", "AML.T0024.000", "Infer Training Data Membership", "partial"),
        Taxonomy("owasp-ml-2023", "", "", "none"),
    )
    cost: ClassVar[str] = "`shadows` whole federations, trained once per stack and seed"
    threat: ClassVar[ThreatModel] = ThreatModel(
        story="Anyone who gets the model learns what the people behind the training data have in common",
        position="outsider",
        knowledge=frozenset({Knowledge.AUXILIARY_DATA, Knowledge.LOCAL_TRAINING}),
        capabilities=frozenset({Capability.QUERY_ACCESS}),
        stage=Stage.DEPLOYMENT,
    )
    wants: ClassVar[tuple[Topic, ...]] = (Topic.RELEASE,)
    judge: ClassVar[str] = "property"
    adaptive_to: ClassVar[frozenset[str]] = frozenset(
        {"clipping", "differential privacy", "adversarial training", "robust aggregation"}
    )

    shadows: Annotated[int, Field(ge=8, description="shadow federations, half of them with each property")] = 32
    purity: Annotated[
        float, Field(gt=0.5, le=1, description="share of a shadow's training examples that are of its own kind")
    ] = 0.7
    assumed_examples: Annotated[int, Field(ge=1, description="examples that each client is taken to hold")] = 100

    def run(self, view: View, facts: PublicFacts, *, generator: torch.Generator) -> PropertyScores | SeveralProperties:
        """See `Attack.run`.

        Raises:
            NotApplicable: there is no such property, the public examples have too little of either kind, or a shadow
                ended in numbers that are not finite.
        """
        pools = self.pools(facts, facts.auxiliary)
        size = self.assumed_examples * facts.population
        sets, holds = pools.shards(self.shadows // 2, [size], self.purity, generator=generator)
        trained = facts.federate(sets, int(torch.randint(2**31 - 1, (), generator=generator)))
        released = view.of(Topic.RELEASE)[-1].values[None].to(trained)
        if not bool(trained.isfinite().all()):
            raise NotApplicable("a shadow federation ended in parameters that are not finite numbers")
        layout, initial = facts.model.layout, facts.initial.to(trained)
        known, widths = features(trained - initial, layout)
        known, observed = span(*standardise(known, features(released - initial, layout)[0], widths))
        scores: dict[str, list[Tensor]] = {}
        controls: dict[str, list[Tensor]] = {}
        for place, one in enumerate(pools.properties):
            permuted = permuted_within(holds[:, place], generator=generator)
            scores[one.name] = [fit_and_score("linear", known, holds[:, place], observed, 0)]
            controls[one.name] = [fit_and_score("linear", known, permuted, observed, 0)]
        return as_evidence(((facts.rounds - 1, "public"),), scores, controls)
