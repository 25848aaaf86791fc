"""A defense is one object that owns both ends of what it does; every hook's default is the identity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fedsec.data.examples import DatasetInfo, Examples
from fedsec.models.flat import FlatModel, Layout
from fedsec.models.lanes import Step
from fedsec.plugin import Plugin
from fedsec.protocol.cohort import Cohort
from fedsec.protocol.payload import Kind, Payload
from fedsec.protocol.server import ServerSide
from fedsec.randomness import generator


class EnforcedBy(StrEnum):
    """Who makes sure that a stage happens. A substituted client skips what only clients enforce."""

    CLIENT = "client"
    SERVER = "server"
    FORMAT = "format"
    """the wire format that everyone must follow to be accepted"""


@dataclass(frozen=True)
class Guarantee:
    """What a defense promises.

    Attributes:
        protects: what.
        against: from whom.
        assuming: on which assumptions.
    """

    protects: str
    against: str
    assuming: str


@dataclass(frozen=True, kw_only=True)
class RoundContext:
    """What a stage is told about the round; the only thing besides its parameters that it depends on.

    Attributes:
        round: counted from 0.
        rounds: of the whole training.
        clients: identities of the payload's rows, in order.
        layout: names, shapes and places of the parameters in an update.
        population: number of clients.
        cohort: clients expected per round.
        sampling: ``all``, ``fixed`` (without replacement) or ``poisson``.
        seed: of this stage in this federation.
        state: tensors that persist between rounds; the only memory of a stage.
        vault: objects that live as long as the process (keys); rebuilt when missing.
        report: what the stage says about itself this round, numbers by name. ``excluded:<client>`` marks a client that
            it dropped, ``score:<client>`` says how suspicious a client is (higher is more), ``protocol_up_bytes`` and
            ``protocol_down_bytes`` what all clients sent and were sent this round beside uploads and models.
        sent: architecture of the model that a client inspects; only in `Defense.inspect`.
        agreed: architecture that everybody agreed on before the first round; only in `Defense.inspect` and `agree`.
        model: ``(d,)`` global model of the round; only where the server holds it in clear.
        server: what the server can do; only in its own hooks.
        members: identities behind a row of the cohort, where several were mixed into one; others stand for themselves.
        participants: everybody who was asked to take part in the round, ascending; some may never answer. Only in
            `Defense.seal`, `receive` and `open`, and empty where nobody keeps count.
        bound: whether the senders of the rows do what only clients enforce; only in `Defense.seal`.
    """

    round: int
    rounds: int
    clients: tuple[int, ...]
    layout: Layout
    population: int
    cohort: float
    sampling: str
    seed: int
    state: dict[str, Tensor] = field(default_factory=dict)
    vault: dict[str, Any] = field(default_factory=dict)
    report: dict[str, float] = field(default_factory=dict)
    sent: FlatModel | None = None
    agreed: FlatModel | None = None
    model: Tensor | None = None
    server: ServerSide | None = None
    members: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    participants: tuple[int, ...] = ()
    bound: bool = True

    def generator(self, *purpose: str | int) -> torch.Generator:
        """A generator for a purpose inside this stage, this federation and this round."""
        return generator(self.seed, self.round, *purpose)


class Defense(Plugin):
    """One defense. Implements some hooks; the others are the identity.

    Attributes:
        guarantee: what it promises, against whom, assuming what.
        accepts: payload kinds that its `seal`, `receive` and `aggregate` can read.
        emits: the kind that `seal` makes of it; ``None`` leaves the kind as it was.
        unit_weights: whether it makes every client count once in the mean, whatever its number of examples.
        perturbs: whether an honest client's upload differs from its update by noise.
        holders: parties or roles that read what `open` gives; empty if it seals nothing.
        upload_openers: the smallest coalitions, in words, that read an upload; empty: the server with any of `holders`.
    """

    guarantee: ClassVar[Guarantee]
    accepts: ClassVar[frozenset[Kind]] = frozenset({Kind.PLAIN})
    emits: ClassVar[Kind | None] = None
    holders: ClassVar[frozenset[str]] = frozenset()
    upload_openers: ClassVar[tuple[tuple[str, ...], ...]] = ()
    unit_weights: ClassVar[bool] = False
    perturbs: ClassVar[bool] = False

    @property
    def replays(self) -> int:
        """Consecutive local steps on each batch; local training takes as many steps as ever, so it reads fewer."""
        return 1

    @property
    def poisson(self) -> bool:
        """Whether a local step's batch is drawn example by example (`poisson_order`), not read off a shuffled shard."""
        return False

    @property
    def share(self) -> float:
        """Share of the population's clients that run `local`; the others take ordinary steps."""
        return 1.0

    @property
    def open_share(self) -> float:
        """Share of an update's coordinates that it leaves in clear beside those that it seals."""
        return 0.0

    @property
    def enforcement(self) -> EnforcedBy:
        """Who enforces it: clients, if it has a hook that clients run."""
        client_side = any(self.implements(hook) for hook in ("data", "local", "seal"))
        return EnforcedBy.CLIENT if client_side else EnforcedBy.SERVER

    def inspect(self, model: Tensor, previous: Tensor, shard: Examples, context: RoundContext) -> bool:
        """Client: whether to train on the model that it was sent. A client that refuses sends nothing.

        Args:
            model: ``(d,)`` what it was sent; its layout is ``context.layout``.
            previous: the newest model it was sent before (the initial one at first), which may be of another layout.
            shard: its own data.
            context: of this client; what it reports is kept.
        """
        return True

    def problems(self, setting: Setting) -> Sequence[tuple[str, str]]:
        """Why it cannot work in this federation: ``(what was found and why, what to type instead)`` each."""
        return ()

    def architecture(self, module: nn.Module, info: DatasetInfo) -> nn.Module:
        """The model that everybody trains, attacks and judges, made of the federation's own; agreed before round 0.

        Args:
            module: with its initial parameters, which it keeps; may become a part of the result.
            info: of the dataset.

        Returns:
            A module whose new parameters are drawn from torch's default generator, which the caller seeds. A
            ``training_loss`` of it is used in the place of the task's loss (see `FlatModel.of`).
        """
        return module

    def agree(self, context: RoundContext) -> None:
        """Before the first round: what everybody agrees on in public, kept in ``context.state``.

        Args:
            context: with the initial ``model``, its architecture ``agreed``, and the ``server``, whose clean examples
                are public.
        """

    def admit(self, identities: tuple[int, ...], context: RoundContext) -> tuple[int, ...]:
        """Server, before the round: the identities that are let in."""
        return identities

    def data(self, shard: Examples, *, generator: torch.Generator) -> Examples:
        """Client: what it trains on."""
        return shard

    def local(self, step: Step) -> Step:
        """Client: wraps one local gradient computation, for all lanes at once."""
        return step

    def seal(self, update: Payload, context: RoundContext) -> Payload:
        """Client, before upload; all rows at once, each row a client of ``context.clients``."""
        return update

    def receive(self, update: Payload, context: RoundContext) -> Payload:
        """Server, on arrival of uploads; all rows at once."""
        return update

    def preaggregate(self, cohort: Cohort, context: RoundContext) -> Cohort:
        """Server, before `aggregate`: other rows for the rule to work on (averages of neighbours, clipped rows)."""
        return cohort

    def aggregate(self, cohort: Cohort, context: RoundContext) -> Payload:
        """Server: cohort to one row. At most one defense of a stack implements it."""
        raise NotImplementedError(f"{self.name} does not aggregate")

    def open(self, aggregate: Payload, context: RoundContext) -> Payload:
        """Whoever can open it, in reverse order of `seal`: decrypt, add noise."""
        return aggregate

    def release(self, model: Tensor, context: RoundContext) -> Tensor:
        """Server: what is published, ``(d,)``."""
        return model

    def function(self, n: int) -> Callable[[Tensor], Tensor] | None:
        """Its aggregation of ``n`` rows as a pure function ``(n, d) -> (d,)``; ``None`` if it draws or has secrets.

        A rule with memory gives what it does in a first round.
        """
        return None

    def row_function(self, n: int) -> Callable[[Tensor], Tensor] | None:
        """What its `receive` or `preaggregate` makes of ``n`` rows, as a pure function ``(n, d) -> (m, d)``."""
        return None

    def breakdown(self, setting: Setting) -> float | None:
        """Largest share of malicious updates in a cohort for which its source proves a bound; ``None``: no proof."""
        return None

    def claims(self, setting: Setting) -> dict[str, float | str]:
        """What it claims after the whole training, as in ``{"epsilon": 3.1, "delta": 1e-5}``."""
        return {}

    @classmethod
    def implements(cls, hook: str) -> bool:
        """Whether this defense has a hook of its own."""
        return getattr(cls, hook) is not getattr(Defense, hook)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A federation as a defense must know it to say whether it can work and what it claims.

    Attributes:
        population: number of clients.
        cohort: clients expected per round.
        rounds: rounds.
        sampling: ``all``, ``fixed`` or ``poisson``.
        layout: of the model.
        local_steps: local steps of the largest client.
        batch_size: local batch size.
        has_batch_norm: whether the model has batch-norm layers.
        task: of the dataset.
        bounds: of the inputs.
        stack: names of the defenses in the stack, in order.
        public: public examples that the federation sets aside (a server's clean examples are drawn from them).
        input_shape: of one example.
        holdings: number of examples of each client; empty if not known.
        largest_weight: largest weight of a client in the mean (examples, or 1); 0 if not known.
    """

    population: int
    cohort: float
    rounds: int
    sampling: str
    layout: Layout
    local_steps: int
    batch_size: int | None
    has_batch_norm: bool
    task: str
    bounds: tuple[float, float] | None
    stack: tuple[str, ...]
    public: int = 0
    input_shape: tuple[int, ...] = ()
    holdings: tuple[int, ...] = ()
    largest_weight: float = 0.0


LocalHook = Callable[[Step], Step]

__all__ = ["Cohort", "Defense", "EnforcedBy", "Guarantee", "LocalHook", "RoundContext", "Setting"]
