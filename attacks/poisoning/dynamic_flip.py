"""Dynamic label flipping: each round the labels that the current model finds least likely."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedsec.data.examples import Examples
from fedsec.models.flat import FlatModel
from fedsec.protocol.drill import Drill
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import Adversary
from fedsec.threat import Paper, Taxonomy, ThreatModel

from .poisoned_data import label_count
from .texts import DATA_POISONING, Fraction, data_threat

CHUNK = 1024
"""Examples that the model is asked about at once."""


@torch.no_grad()
def least_likely(model: FlatModel, vector: Tensor, examples: Examples) -> Tensor:
    """The wrong label of each example (of each token, for sequences) that a model finds least likely.

    Args:
        model: the architecture.
        vector: ``(d,)`` its parameters.
        examples: with their true labels, which are never the answer.

    Returns:
        int64 of the shape of ``examples.y``; the first of equally unlikely labels.
    """
    network = model.instance(vector)
    found = [examples.y[:0]]
    for start in range(0, len(examples), CHUNK):
        x, y = examples.x[start : start + CHUNK], examples.y[start : start + CHUNK]
        scores = network(x.to(vector.device)).to(y.device)
        scores = scores.scatter(-1, y.unsqueeze(-1), torch.inf)
        found.append(scores.argmin(dim=-1))
    return torch.cat(found)


@dataclass(frozen=True, kw_only=True)
class DynamicLabelFlip(Adversary):
    """Relabels its data in each round by what the global model of that round finds least likely.

    The source relabels by a surrogate model of the adversary; its clients are sent the global model itself, which is
    used here.
    """

    fraction: Fraction = 0.2

    name: ClassVar[str] = "dynamic-label-flip"
    summary: ClassVar[str] = "Trains the controlled clients on the labels that the current model finds least likely"
    family: ClassVar[str] = "data poisoning"
    paper: ClassVar[Paper | None] = Paper(
        title="Back to the Drawing Board: A Critical Evaluation of Poisoning Attacks on Production Federated Learning",
        authors="Shejwalkar, Houmansadr, Kairouz, Ramage",
        venue="IEEE S&P 2022",
        where="dynamic label flipping",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = DATA_POISONING
    threat: ClassVar[ThreatModel] = data_threat(
        "Some participants relabel their data in every round, so that the shared model unlearns what it knows best"
    )
    judge: ClassVar[str] = "availability"
    cost: ClassVar[str] = "one more forward pass over the data of each controlled client per round"

    def train(self, drill: Drill, facts: PublicFacts, *, generator: torch.Generator) -> Tensor:
        """Ordinary training on the least likely labels, ``(k, d)``.

        Raises:
            ConfigurationError: the task has no classes.
        """
        label_count(facts.info, self.name)
        wrong = [least_likely(facts.model, drill.model, shard) for shard in drill.shards]
        shards = [Examples(s.x, labels, s.attributes) for s, labels in zip(drill.shards, wrong, strict=True)]
        return drill.train(shards=shards)
