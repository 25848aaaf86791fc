"""What the membership attacks share: taxonomies, the rounds that they read, and models by round."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fedsec.protocol.events import Topic
from fedsec.protocol.evidence import OwnerScores
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.view import Seen, View
from fedsec.threat import Capability, Knowledge, Stage, Taxonomy, ThreatModel

FAMILY = "membership inference"

MEMBERSHIP = (
    Taxonomy("nist-ai-100-2e2025", "NISTAML.033", "Membership Inference", "exact"),
    Taxonomy("mitre-atlas-5.6", "AML.T0024.000", "Infer Training Data Membership", "exact"),
    Taxonomy("owasp-ml-2023", "ML04", "Membership Inference Attack", "exact"),
)

RELATED = (
    Taxonomy("nist-ai-100-2e2025", "NISTAML.033", "Membership Inference", "partial"),
    Taxonomy("mitre-atlas-5.6", "AML.T0024.000", "Infer Training Data Membership", "partial"),
    Taxonomy("owasp-ml-2023", "ML04", "Membership Inference Attack", "partial"),
)
"""None of the three names the membership of a whole client, or which client holds an example."""

SHADOWED = frozenset(
    {
        "adversarial training",
        "anomaly detection",
        "clipping",
        "compression",
        "differential privacy",
        "homomorphic encryption",
        "robust aggregation",
    }
)
"""Families that shadow federations run as the real one does."""

WITH_SHADOWS = ThreatModel(
    story="Somebody who has the published model, a person's record and similar data finds out whether it was used",
    position="outsider",
    knowledge=frozenset({Knowledge.CANDIDATES, Knowledge.AUXILIARY_DATA, Knowledge.LOCAL_TRAINING}),
    capabilities=frozenset({Capability.QUERY_ACCESS}),
    stage=Stage.DEPLOYMENT,
)


def spread(total: int, used: int) -> tuple[int, ...]:
    """Rounds spaced evenly over the training, the last one among them."""
    count = min(used, total)
    return tuple(sorted({total - 1 - (i * total) // count for i in range(count)}))


def by_round(view: View, facts: PublicFacts, topic: Topic) -> list[tuple[Tensor, list[Seen]]]:
    """The global model ``(d,)`` of each round that can be read, and the events of a topic in that round.

    Raises:
        NotApplicable: no model of a round in which there are such events can be read.
    """
    models = {0: facts.initial} | {event.round: event.values for event in view.of(Topic.BROADCAST)}
    events = [event for event in view.of(topic) if event.round in models]
    if not events:
        raise NotApplicable("no global model of an attacked round can be read, so its updates say nothing of examples")
    rounds = sorted({event.round for event in events})
    return [(models[number], [event for event in events if event.round == number]) for number in rounds]


def per_client(rounds: Iterable[tuple[Sequence[Seen], Tensor]]) -> OwnerScores:
    """Each client's mean over the rounds in which it was seen.

    Args:
        rounds: its uploads and a row ``(k, m)`` of scores for each of them.
    """
    seen: dict[int, list[Tensor]] = {}
    for events, rows in rounds:
        for event, row in zip(events, rows, strict=True):
            seen.setdefault(int(event.sender.partition(":")[2]), []).append(row)
    clients = tuple(sorted(seen))
    return OwnerScores(clients=clients, scores=torch.stack([torch.stack(seen[c]).mean(0) for c in clients], dim=1))
