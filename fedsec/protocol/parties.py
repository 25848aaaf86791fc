"""The two kinds of adversary: a passive `Attack` reads a view, an `Adversary` takes the place of parties."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedsec.data.examples import DatasetInfo, Examples
from fedsec.models.flat import FlatModel
from fedsec.plugin import Plugin
from fedsec.protocol.drill import Drill
from fedsec.protocol.events import Topic
from fedsec.protocol.evidence import Evidence
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.view import View
from fedsec.threat import Knowledge, ThreatModel


class Attack(Plugin):
    """A passive attack: declares a position, the events it wants and the knowledge it assumes; gets no more.

    Attributes:
        threat: the adversary; ``threat.position`` is the default of the configuration's ``position``.
        wants: topics, in order of preference: it runs on the first of them that its position can read.
        also_sees: topics that it reads beside, where its position can.
        judge: name of the judge that measures its evidence (`fedsec.judges`).
        adaptive_to: families of defenses that it takes into account (through the public stack).
    """

    threat: ClassVar[ThreatModel]
    wants: ClassVar[tuple[Topic, ...]]
    also_sees: ClassVar[tuple[Topic, ...]] = ()
    judge: ClassVar[str]
    adaptive_to: ClassVar[frozenset[str]] = frozenset()

    def rounds(self, total: int) -> range | tuple[int, ...]:
        """The rounds whose events it wants, of ``total``; the transcript keeps no others."""
        return range(total)

    def knows(self) -> frozenset[Knowledge]:
        """The knowledge that it uses with these parameters."""
        return self.threat.knowledge

    @abstractmethod
    def run(self, view: View, facts: PublicFacts, *, generator: torch.Generator) -> Evidence:
        """Attack the view.

        Args:
            view: the wanted events that the position can read; never empty.
            facts: what is public, and the declared knowledge.
            generator: the attack's only source of randomness.
        """


@dataclass(frozen=True, kw_only=True)
class CoalitionView:
    """What the substituted clients of one round hold together when they choose what to send.

    Attributes:
        round: the round, counted from 0.
        clients: the controlled identities in this cohort, Sybils included, in row order.
        own: ``(k, d)`` updates that training on their (poisoned) data gave, without client-enforced stages.
        weights: ``(k,)`` the weights that their updates carry.
        model: ``(d,)`` global model of the round, which every client of the cohort is given.
        honest: ``(h, d)`` honest updates as they were sent (as they were trained, where those are sealed); ``None``
            unless ``HONEST_UPDATES`` is declared.
        expected_cohort: how many updates the server expects this round (public).
        state: tensors that persist between rounds.
        is_sybil: ``(k,)`` bool, identities that the adversary made up.
        shards: what each of them trains on, after `Adversary.poison`.
        places: which of the controlled identities each of them is, counted from 0.
        previous: ``(d,)`` global model that the coalition saw before, ``None`` at first.
        included: ``(k,)`` bool, fair coins of the harness, one per identity and federation; ``None`` unless the
            adversary is a canary audit (`Adversary.flips_coins`). An excluded canary must send zeros.
    """

    round: int
    clients: tuple[int, ...]
    own: Tensor
    weights: Tensor
    model: Tensor
    honest: Tensor | None
    expected_cohort: int
    state: dict[str, Tensor]
    is_sybil: Tensor
    shards: tuple[Examples, ...] = ()
    included: Tensor | None = None
    places: tuple[int, ...] = ()
    previous: Tensor | None = None


class Adversary(Plugin):
    """An active adversary: a party put in the place of some clients (and extra Sybil identities).

    Controlled clients do not run client-enforced stages; they follow `format` stages, without which they
    would not be accepted.

    Attributes:
        threat: the adversary.
        judge: name of the judge that compares the attacked federation with the honest one, or measures what the
            adversary saw in it, if it wants to see something.
        wants: topics that it reads in the attacked federation, in order of preference; with any, `observe` is called
            and its evidence is judged. `threat.position` ``coalition`` stands for the parties that it replaced.
        also_sees: topics that it reads beside.
        flips_coins: whether the harness draws for each identity whether it is included (`CoalitionView.included`).
    """

    threat: ClassVar[ThreatModel]
    judge: ClassVar[str]
    adaptive_to: ClassVar[frozenset[str]] = frozenset()
    wants: ClassVar[tuple[Topic, ...]] = ()
    also_sees: ClassVar[tuple[Topic, ...]] = ()
    flips_coins: ClassVar[bool] = False

    @property
    @abstractmethod
    def fraction(self) -> float:
        """Share of the population's clients that it controls, in (0, 1); 0 if it only adds identities."""

    @property
    def identities(self) -> int:
        """Sybil identities that it adds to the population."""
        return 0

    @property
    def carried(self) -> Adversary:
        """The attack that it carries (itself, but for Sybils)."""
        return self

    @property
    def omniscience(self) -> bool:
        """Whether it uses the honest updates that its threat model may declare (a parameter of some attacks)."""
        return bool(getattr(self.carried, "omniscient", False))

    def knows(self) -> frozenset[Knowledge]:
        """The knowledge that it uses with these parameters."""
        return self.threat.knowledge - (frozenset() if self.omniscience else {Knowledge.HONEST_UPDATES})

    @property
    def honest_stages(self) -> bool:
        """Whether its clients run client-enforced stages like anybody: auditors do, and clients that know nothing of
        what was done to their data.
        """
        return False

    @property
    def joins(self) -> int:
        """The round in which its added identities join."""
        return 0

    def acts(self, round_index: int, place: int) -> bool:
        """Whether a controlled identity attacks in a round; where it does not, it behaves like an honest client.

        Args:
            round_index: counted from 0.
            place: which of the controlled identities, counted from 0 (real clients before Sybils).
        """
        return True

    def attends(self, round_index: int) -> tuple[int, ...]:
        """Places of controlled identities that are sure to be in the cohort of a round (they take the place of others).

        An assumption about the world that some papers make; an attack that makes it says so in its description.
        """
        return ()

    def poison(self, shard: Examples, facts: PublicFacts, *, generator: torch.Generator) -> Examples:
        """What a controlled client trains on; by default its own data."""
        return shard

    def poison_at(self, place: int, shard: Examples, facts: PublicFacts, *, generator: torch.Generator) -> Examples:
        """`poison`, for an attack whose clients do not all do the same."""
        return self.poison(shard, facts, generator=generator)

    def train(self, drill: Drill, facts: PublicFacts, *, generator: torch.Generator) -> Tensor:
        """How controlled clients train, ``(k, d)`` updates; by default like everybody, on their poisoned data."""
        return drill.train()

    def probe(self, test: Examples, info: DatasetInfo) -> Examples | None:
        """Inputs at deployment with the labels that the adversary wants for them; ``None`` if it wants none in
        particular. The harness asks the model for them after each evaluated round.
        """
        return None

    def craft(self, coalition: CoalitionView, facts: PublicFacts, *, generator: torch.Generator) -> Tensor:
        """What the controlled clients send, ``(k, d)``; by default what their training gave."""
        return coalition.own

    def goal(self) -> Mapping[str, int]:
        """What the judge has to know of the aim, as in ``{"source": 1, "target": 7}``."""
        return {}

    def rounds(self, total: int) -> range | tuple[int, ...]:
        """The rounds whose events it wants, of ``total``, if it wants any."""
        return range(total)

    def observe(
        self, view: View, facts: PublicFacts, state: Mapping[str, Tensor], *, generator: torch.Generator
    ) -> Evidence:
        """What it concludes after the training from what it saw; only for an adversary that `wants` something.

        Args:
            view: the wanted events that its position can read; never empty.
            facts: what is public, and the declared knowledge.
            state: what its `craft` left in `CoalitionView.state`.
            generator: its only source of randomness.
        """
        raise NotImplementedError(f"{self.name} observes nothing")


@dataclass(frozen=True)
class Planted:
    """What a malicious server sends in place of the global model.

    Attributes:
        model: the architecture; the public one, unless the attack changes it.
        vector: ``(d,)`` its parameters.
    """

    model: FlatModel
    vector: Tensor


class MaliciousServer(Attack):
    """A passive attack's counterpart that first sends chosen clients a model of its own making.

    The harness takes the honest global model of each of `rounds`, has `plant` change it, sends the result to
    `victims` clients (those with the fewest examples first), lets them inspect it (the `inspect` hook of the stack),
    train on it and send their update through the stack, and gives `run` a view of these events: a Broadcast with the
    planted vector and the Uploads that the position can read. `PublicFacts.model` is then the planted architecture.
    """

    wants: ClassVar[tuple[Topic, ...]] = (Topic.UPLOAD,)
    also_sees: ClassVar[tuple[Topic, ...]] = (Topic.BROADCAST,)

    @property
    @abstractmethod
    def victims(self) -> int:
        """Clients that are sent a planted model in each attacked round."""

    @abstractmethod
    def plant(self, model: Tensor, facts: PublicFacts, *, generator: torch.Generator) -> Planted:
        """The model to send in place of the global ``model (d,)``."""
