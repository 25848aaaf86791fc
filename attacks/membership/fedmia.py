"""FedMIA: the other clients of a round show what an update looks like that was not computed on the example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec.protocol.events import Topic
from fedsec.protocol.evidence import OwnerScores
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.parties import Attack
from fedsec.protocol.view import View
from fedsec.threat import Capability, Knowledge, Paper, Stage, Taxonomy, ThreatModel

from .base import FAMILY, MEMBERSHIP, by_round, per_client, spread
from .signals import gradient_cosines, local_confidences


def outside_probabilities(signals: Tensor, *, per_sample: bool) -> Tensor:
    """For each client the probability that an update without the example shows less of it than its own does.

    The others' signals are taken for a Gaussian, one for each client that is left out (Zhu et al. 2025, section 3).
    Its variance is estimated from as few values as there are other clients, so by default it is the mean over all
    examples, as in LiRA with few shadows.

    Args:
        signals: ``(k, n)`` of ``k >= 3`` clients in one round.
        per_sample: whether each example has a variance of its own, as in the authors' code.

    Returns:
        ``(k, n)`` float64 in [0, 1].
    """
    values = signals.double()
    others = len(values) - 1
    mean = (values.sum(0) - values) / others
    # Squares about the mean of the others, from those about the mean of all.
    centred = values - values.mean(0)
    squares = centred.square().sum(0) - centred.square() * (others + 1) / others
    variance = squares.clamp_min(0) / (others - 1)
    variance = variance if per_sample else variance.mean(1, keepdim=True)
    probabilities: Tensor = torch.special.ndtr((values - mean) / (variance + 1e-12).sqrt())
    return probabilities


@dataclass(frozen=True, kw_only=True)
class AllForOne(Attack):
    """Test each client's update against those of the others, round by round, without training any shadow model.

    As in the paper each client is attacked by itself: is the example in *its* data? The paper's code takes members of
    other clients for non-members; those are in one of the other updates, which are then no updates without the
    example. Here non-members were never trained on. One-sided as in the paper: a client that shows less of an example
    than others is no evidence for anything. What makes an example easy for every client is taken away, with what the
    global model has learnt of it.
    """

    name: ClassVar[str] = "fedmia"
    summary: ClassVar[str] = "Tests each client's updates against those of the other clients, without any shadow model"
    family: ClassVar[str] = FAMILY
    paper: ClassVar[Paper | None] = Paper(
        title="FedMIA: An Effective Membership Inference Attack Exploiting 'All for One' Principle "
        "in Federated Learning",
        authors="Zhu, Li, Gu, Yao, Fan, Han",
        venue="CVPR 2025",
        where="section 3, with the loss (FedMIA-I) or the gradient cosine (FedMIA-II) as the signal",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = MEMBERSHIP
    cost: ClassVar[str] = "one gradient per candidate and round, or one forward pass per candidate, client and round"
    threat: ClassVar[ThreatModel] = ThreatModel(
        story="The server compares participants' updates to find out whether a person's record is among their data",
        position="server",
        knowledge=frozenset({Knowledge.CANDIDATES}),
        capabilities=frozenset({Capability.OBSERVE_UPDATES}),
        stage=Stage.TRAINING,
    )
    wants: ClassVar[tuple[Topic, ...]] = (Topic.UPLOAD,)
    also_sees: ClassVar[tuple[Topic, ...]] = (Topic.BROADCAST,)
    judge: ClassVar[str] = "membership"
    adaptive_to: ClassVar[frozenset[str]] = frozenset({"clipping", "differential privacy"})

    signal: Annotated[
        Literal["cosine", "loss"],
        Field(description="cosine: of the example's gradient with the update; loss: of the client's own model"),
    ] = "cosine"
    variance: Annotated[
        Literal["fixed", "per-sample"],
        Field(description="fixed: one variance per client for all examples; per-sample: each its own, as in the paper"),
    ] = "fixed"
    rounds_used: Annotated[
        int, Field(ge=1, description="rounds attacked, spaced evenly over the training, the last among them")
    ] = 5

    def rounds(self, total: int) -> tuple[int, ...]:
        """Evenly spaced rounds."""
        return spread(total, self.rounds_used)

    def run(self, view: View, facts: PublicFacts, *, generator: torch.Generator) -> OwnerScores:
        """See `Attack.run`; draws nothing.

        Raises:
            NotApplicable: no model of an attacked round can be read, or no round has three updates.
        """
        read = gradient_cosines if self.signal == "cosine" else local_confidences
        rounds = []
        for model, events in by_round(view, facts, Topic.UPLOAD):
            if len(events) < 3:
                continue
            updates = torch.stack([event.values for event in events])
            signals = read(facts.model, model, facts.candidates, updates)
            found = outside_probabilities(signals, per_sample=self.variance == "per-sample")
            rounds.append((events, found))
        if not rounds:
            raise NotApplicable("no round has three updates: there are no other clients to compare with")
        return per_client(rounds)
