"""Canary clients: identities that an auditor adds, included or not by a coin, and looks for in what it sees."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec.data.examples import Examples
from fedsec.protocol.events import Topic
from fedsec.protocol.evidence import CanaryScores
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.parties import Adversary, CoalitionView
from fedsec.protocol.view import Seen, View
from fedsec.threat import Capability, Paper, Stage, Taxonomy, ThreatModel

from .scores import direction, joint_scores, lone_score

Sees = Literal["release", "broadcasts", "server"]

_SEED, _ASKED = "directions seed", "asked"
Change = tuple[range, Tensor]
"""Rounds, and the change of the model ``(d,)`` over them."""

_CAPABILITIES = frozenset({Capability.IDENTITIES, Capability.MODEL_CONTROL})
_WANTS: dict[str, tuple[Topic, ...]] = {
    "release": (Topic.RELEASE,),
    "broadcasts": (Topic.BROADCAST, Topic.RELEASE),
    "server": (Topic.UPLOAD, Topic.AGGREGATE, Topic.BROADCAST, Topic.RELEASE),
}
_ALSO: dict[str, tuple[Topic, ...]] = {"release": (), "broadcasts": (Topic.RELEASE,), "server": (Topic.RELEASE,)}
_POSITIONS = {"release": "outsider", "broadcasts": "coalition", "server": "server"}


@dataclass(frozen=True, kw_only=True)
class CanaryAudit(Adversary):
    """An audit of client-level privacy in one training (Andrew et al. 2024), with coins (Steinke et al. 2023).

    Each canary has a random direction. If its coin says so it sends it, far longer than any clipping bound, in every
    round that it is asked; else it sends zeros. Like every honest client it then clips, adds its noise, compresses. The
    auditor looks for each direction in what it sees: in the change from the initial to the released model; with
    ``broadcasts``, in the changes of those rounds in which the canary was asked; as the server, in the canary's own
    uploads, or in the aggregates where uploads cannot be read. The score is the paper's cosine with the other canaries
    regressed out (`joint_scores`), which keeps its null and works with more canaries. Over rounds changes are summed
    (for the Gaussian mechanism that loses nothing); the paper's maximum over rounds is not taken.

    A clipping bound above ``norm`` weakens the audit, and so does compression: the direction is looked for as it was
    made, not as it was sent. Honest clients disturb a score by about their number over
    ``sqrt(d)`` clipping bounds per round: in a model of a few hundred parameters that hides canaries, and a low bound
    says little.

    Encryption must have room for the canaries (`capacity` of ckks), and fixed point for what they send: clip before it.
    The audit trains nothing and disturbs the model; utility is read from the honest federation.
    """

    canaries: Annotated[int, Field(ge=4, le=100_000, description="identities added, each included by a fair coin")] = (
        200
    )
    norm: Annotated[
        float, Field(gt=0.0, le=1e5, description="L2 norm of what an included canary sends before it is clipped")
    ] = 100.0
    sees: Annotated[
        Sees,
        Field(
            description="what the auditor reads: the `release`, all `broadcasts` as a client, or what the `server` does"
        ),
    ] = "release"

    first_rounds: Annotated[
        int | None,
        Field(ge=1, description="as the server: rounds whose uploads are read, all by default; fewer show less"),
    ] = None

    name: ClassVar[str] = "canary-audit"
    summary: ClassVar[str] = (
        "Adds canary clients by coin flips and bounds epsilon from below by how well they are found"
    )
    family: ClassVar[str] = "privacy audit"
    paper: ClassVar[Paper | None] = Paper(
        title="One-shot Empirical Privacy Estimation for Federated Learning",
        authors="Andrew, Kairouz, Oh, Oprea, McMahan, Suriyakumar",
        venue="ICLR 2024",
        where="algorithm 1 (cosine of random unit canaries); coins and bounds: Steinke, Nasr, Jagielski, NeurIPS 2023",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = (
        Taxonomy("nist-ai-100-2e2025", "NISTAML.033", "Membership Inference", "partial"),
        Taxonomy("mitre-atlas-5.6", "AML.T0024.000", "Infer Training Data Membership", "partial"),
        Taxonomy("owasp-ml-2023", "ML04", "Membership Inference Attack", "partial"),
    )
    threat: ClassVar[ThreatModel] = ThreatModel(
        story="An auditor joins under many names and finds out from what is published which of them really took part",
        position="outsider",
        knowledge=frozenset(),
        capabilities=frozenset({Capability.IDENTITIES, Capability.MODEL_CONTROL}),
        stage=Stage.TRAINING,
    )
    judge: ClassVar[str] = "epsilon"
    wants: ClassVar[tuple[Topic, ...]] = (Topic.RELEASE,)
    flips_coins: ClassVar[bool] = True
    cost: ClassVar[str] = (
        "one training with more clients, memory for an update per canary; as the server, disk for all uploads"
    )

    def __post_init__(self) -> None:
        # the class names the default of `sees`; an instance reads from where its parameter says
        threat = ThreatModel(
            story=self.threat.story,
            position=_POSITIONS[self.sees],
            knowledge=frozenset(),
            capabilities=_CAPABILITIES,
            stage=Stage.TRAINING,
        )
        object.__setattr__(self, "threat", threat)
        object.__setattr__(self, "wants", _WANTS[self.sees])
        object.__setattr__(self, "also_sees", _ALSO[self.sees])

    def rounds(self, total: int) -> range:
        """All rounds, or the first ones whose uploads the server reads."""
        return range(total if self.sees != "server" or self.first_rounds is None else min(self.first_rounds, total))

    @property
    def fraction(self) -> float:
        """It replaces nobody."""
        return 0.0

    @property
    def identities(self) -> int:
        """The canaries."""
        return self.canaries

    @property
    def honest_stages(self) -> bool:
        """Its clients do what the stack makes of an honest upload: that is what is audited."""
        return True

    def poison(self, shard: Examples, facts: PublicFacts, *, generator: torch.Generator) -> Examples:
        """One blank example (two for batch norm), so that the training that `craft` throws away costs nothing."""
        count = 2 if facts.model.has_batch_norm else 1
        return Examples(shard.x.new_zeros(count, *shard.x.shape[1:]), shard.y.new_zeros(count, *shard.y.shape[1:]))

    def craft(self, coalition: CoalitionView, facts: PublicFacts, *, generator: torch.Generator) -> Tensor:
        """Directions times ``norm`` for included canaries, zeros for the others, ``(k, d)``."""
        if coalition.included is None:
            raise ValueError("a canary audit needs the coins of the harness")
        state = coalition.state
        if _SEED not in state:
            state[_SEED] = torch.randint(1 << 62, (1,), generator=generator)
        asked = torch.tensor([[coalition.round, identity] for identity in coalition.clients], dtype=torch.int64)
        state[_ASKED] = torch.cat([state.get(_ASKED, asked[:0]), asked])
        seed, rows = int(state[_SEED]), torch.zeros_like(coalition.own)
        for row, (identity, included) in enumerate(zip(coalition.clients, coalition.included.tolist(), strict=True)):
            if included:
                rows[row] = self.norm * direction(seed, identity, rows.shape[1]).to(rows)
        return rows

    def observe(
        self, view: View, facts: PublicFacts, state: Mapping[str, Tensor], *, generator: torch.Generator
    ) -> CanaryScores:
        """Score every canary; one that was never asked scores 0, as one that was excluded does on average.

        Raises:
            NotApplicable: the model has not twice as many parameters as there are canaries.
        """
        names = facts.population + torch.arange(self.canaries)
        if 2 * self.canaries > facts.initial.numel():
            raise NotApplicable(
                f"{self.canaries} canaries need a model of {2 * self.canaries} parameters to be told apart, "
                f"this one has {facts.initial.numel()}"
            )
        if _SEED not in state:
            return CanaryScores(identities=names, scores=torch.zeros(self.canaries, dtype=torch.float64))
        uploads = view.of(Topic.UPLOAD)
        seed, first = int(state[_SEED]), facts.population
        if uploads:
            scores = self._in_uploads(uploads, seed, first)
        else:
            asked: list[list[int]] = [[] for _ in range(self.canaries)]
            for number, identity in state[_ASKED].tolist():
                asked[identity - first].append(number)
            scores = self._in_changes(_changes(view, facts), asked, seed, first)
        return CanaryScores(identities=names, scores=scores, uploads=bool(uploads or view.of(Topic.AGGREGATE)))

    def _in_uploads(self, uploads: tuple[Seen, ...], seed: int, first: int) -> Tensor:
        """Each canary in the sum of its own uploads."""
        sums: dict[int, Tensor] = {}
        for event in uploads:
            identity = int(event.sender.partition(":")[2])
            if identity >= first:
                sums[identity] = sums[identity] + event.values if identity in sums else event.values
        scores = torch.zeros(self.canaries, dtype=torch.float64)
        for identity, found in sums.items():
            scores[identity - first] = lone_score(found, direction(seed, identity, found.numel()))
        return scores

    def _in_changes(self, changes: list[Change], asked: list[list[int]], seed: int, first: int) -> Tensor:
        """Each canary in the sum of the changes that hold a round in which it was asked."""
        groups = [[k for k, (span, _) in enumerate(changes) if any(n in span for n in own)] for own in asked]
        steps = torch.stack([change for _, change in changes])
        rows = torch.stack([direction(seed, first + i, steps.shape[1]) for i in range(self.canaries)])
        return joint_scores(rows.to(steps), steps, groups)


def _changes(view: View, facts: PublicFacts) -> list[Change]:
    """What the view shows of the model's way: aggregates, or differences of the models that it shows."""
    aggregates = view.of(Topic.AGGREGATE)
    if aggregates:
        return [(range(event.round, event.round + 1), event.values) for event in aggregates]
    released = view.of(Topic.RELEASE)[-1].values
    models = {0: facts.initial.to(released), facts.rounds: released}
    models |= {event.round: event.values for event in view.of(Topic.BROADCAST)}
    known = sorted(models)
    return [(range(a, b), models[b] - models[a]) for a, b in itertools.pairwise(known)]
