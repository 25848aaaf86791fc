"""What an adversary knows: public facts for everyone, declared knowledge for those who declared it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from fedsec.data.examples import DatasetInfo, Examples
from fedsec.errors import NotKnownError
from fedsec.federation.training import LocalTraining
from fedsec.models.flat import FlatModel
from fedsec.threat import Knowledge

T = TypeVar("T")
Simulate = Callable[[Tensor, Examples, int], Tensor]
"""``(model (d,), shard, draw) -> update (d,)``: what an honest client with this shard would upload in clear,
client-enforced and format stages included, sealing excepted, with the attacker's own noise draw."""

SimulateMany = Callable[[Tensor, Sequence[Examples], Sequence[int]], Tensor]
"""``(model (d,), n shards, n draws) -> updates (n, d)``: the same for many clients at once, which is faster."""

Federate = Callable[[Sequence[Examples], int], Tensor]
"""``(training sets of s federations, draw) -> released models (s, d)``: shadow federations by the public algorithm
(population size, rounds, local training, stack), each training set spread over the clients at random."""


class Aggregate(Protocol):
    """The public stack's server, rehearsed; see `fedsec.federation.rehearsal.Rehearsal`."""

    def __call__(self, updates: Tensor, *, model: Tensor | None = None) -> Tensor:
        """``(m, d)`` plain updates that answer ``model (d,)`` to the aggregate ``(d,)``, without memory."""

    def function(self, n: int) -> Callable[[Tensor], Tensor] | None:
        """The same of ``n`` updates as one pure function ``(n, d) -> (d,)``, if it is one."""


@dataclass(frozen=True)
class BatchOrder:
    """In which order a client used its examples in one round.

    Attributes:
        rows: one ``(b,)`` int64 per local step, positions in the client's own data.
        labels: ``(n,)`` label of each position.
    """

    rows: tuple[Tensor, ...]
    labels: Tensor


@dataclass(frozen=True, kw_only=True)
class PublicFacts:
    """Public facts and declared knowledge; reaching for undeclared knowledge raises `NotKnownError`.

    Attributes:
        info: what the dataset says about itself.
        model: the architecture (parameters travel as flat vectors).
        initial: ``(d,)`` the initial global model, which every participant was given.
        stack: names of the defenses with their parameters (Kerckhoffs).
        population: number of clients.
        cohort: clients expected per round.
        rounds: number of rounds.
        rule: the aggregation rule's name.
        knowledge: what was declared.
        server_rate: the server's learning rate.
    """

    info: DatasetInfo
    model: FlatModel
    initial: Tensor
    stack: tuple[str, ...]
    population: int
    cohort: int
    rounds: int
    rule: str
    knowledge: frozenset[Knowledge]
    server_rate: float = 1.0
    _local: LocalTraining | None = field(default=None, repr=False)
    _auxiliary: Examples | None = field(default=None, repr=False)
    _simulate: Simulate | None = field(default=None, repr=False)
    _simulate_many: SimulateMany | None = field(default=None, repr=False)
    _candidates: Examples | None = field(default=None, repr=False)
    _test_inputs: Examples | None = field(default=None, repr=False)
    _labels: dict[tuple[int, str], Tensor] | None = field(default=None, repr=False)
    _order: Callable[[int, str], BatchOrder] | None = field(default=None, repr=False)
    _federate: Federate | None = field(default=None, repr=False)
    _client_candidates: tuple[Examples, ...] | None = field(default=None, repr=False)
    _property: str | None = field(default=None, repr=False)
    _aggregate: Aggregate | None = field(default=None, repr=False)
    _own: Examples | None = field(default=None, repr=False)

    def _known(self, what: Knowledge, value: T | None) -> T:
        if what not in self.knowledge:
            raise NotKnownError(f"this attack does not declare that it knows the {what.value}")
        if value is None:
            raise NotKnownError(f"this federation has no {what.value}")
        return value

    @property
    def local(self) -> LocalTraining:
        """How clients train."""
        return self._known(Knowledge.LOCAL_TRAINING, self._local)

    @property
    def own(self) -> Examples:
        """The examples of the clients in the attack's position, before any stage of the stack; for a passive attack."""
        return self._known(Knowledge.OWN_DATA, self._own)

    @property
    def auxiliary(self) -> Examples:
        """Public examples of the same population, disjoint from every client's."""
        return self._known(Knowledge.AUXILIARY_DATA, self._auxiliary)

    @property
    def simulate(self) -> Simulate:
        """Local training as an honest client would do it."""
        return self._known(Knowledge.LOCAL_TRAINING, self._simulate)

    def simulate_many(self, model: Tensor, shards: Sequence[Examples], draws: Sequence[int]) -> Tensor:
        """Updates ``(n, d)`` of ``n`` honest clients on one ``model (d,)``: at once, where that is offered."""
        if self._simulate_many is not None:
            return self._known(Knowledge.LOCAL_TRAINING, self._simulate_many)(model, shards, draws)
        pairs = zip(shards, draws, strict=True)
        return torch.stack([self.simulate(model, shard, draw) for shard, draw in pairs])

    @property
    def aggregate(self) -> Aggregate:
        """What the server makes of a round."""
        return self._known(Knowledge.AGGREGATION_RULE, self._aggregate)

    @property
    def candidates(self) -> Examples:
        """Examples whose membership is in question, shuffled; half of them or so are members."""
        return self._known(Knowledge.CANDIDATES, self._candidates)

    @property
    def test_inputs(self) -> Examples:
        """Inputs at deployment, with the labels that the model should give."""
        return self._known(Knowledge.TEST_INPUTS, self._test_inputs)

    def labels_of(self, round_index: int, sender: str) -> Tensor:
        """Labels behind one update, as a sorted multiset."""
        return self._known(Knowledge.LABELS, self._labels)[round_index, sender]

    def order_of(self, round_index: int, sender: str) -> BatchOrder:
        """The batches behind one client's update, with labels: an oracle."""
        return self._known(Knowledge.BATCH_ORDER, self._order)(round_index, sender)

    @property
    def federate(self) -> Federate:
        """Shadow federations by the public algorithm."""
        return self._known(Knowledge.LOCAL_TRAINING, self._federate)

    @property
    def client_candidates(self) -> tuple[Examples, ...]:
        """Data sets of clients of which half or so took part, shuffled."""
        return self._known(Knowledge.CLIENT_CANDIDATES, self._client_candidates)
