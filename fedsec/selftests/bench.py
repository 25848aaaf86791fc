"""A small federation without data, in which one defense runs as it does in a real one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from fedsec.data.examples import Examples
from fedsec.federation.mean import mean
from fedsec.federation.stages import Stages
from fedsec.models.flat import FlatModel, Layout, Slot
from fedsec.protocol.cohort import Cohort
from fedsec.protocol.compose import seals
from fedsec.protocol.payload import Kind, Payload, Plain
from fedsec.protocol.stage import Defense, Setting
from fedsec.randomness import generator

CLIENTS = 12
LAYOUT = Layout((Slot("0.weight", (16, 24), 0, 384, True), Slot("0.bias", (16,), 384, 400, True)))
PUBLIC = 64
ROUNDS = 4
"""A power of 2, so that a binary tree over the rounds has one root."""
DEFAULT_RESOLUTION = 1e-4


def setting_of(*, clients: int = CLIENTS, rounds: int = ROUNDS, layout: Layout = LAYOUT, stack: str = "") -> Setting:
    """Every client takes part in every round, with one local step on all of its 8 examples."""
    return Setting(
        population=clients,
        cohort=float(clients),
        rounds=rounds,
        sampling="all",
        layout=layout,
        local_steps=1,
        batch_size=None,
        has_batch_norm=False,
        task="classification",
        bounds=(0.0, 1.0),
        stack=(stack,) if stack else (),
        input_shape=(24,),
        holdings=(8,) * clients,
        public=PUBLIC,
        largest_weight=float(clients),
    )


@dataclass(frozen=True)
class PublicExamples:
    """A server that has clean examples and nothing else."""

    seed: int

    def root(self, count: int) -> Examples:
        """Normal inputs with labels at random.

        Raises:
            ValueError: more than the bench sets aside.
        """
        if count > PUBLIC:
            raise ValueError(f"the bench has {PUBLIC} public examples")
        source = generator("self-test", self.seed, "public")
        return Examples(torch.rand(count, 24, generator=source), torch.randint(16, (count,), generator=source))

    def train(self, model: Tensor, examples: Examples, *, draw: int) -> Tensor:
        """Nothing is trained on the bench."""
        raise NotImplementedError("the bench of self-tests trains nothing")

    def losses(self, models: Tensor, examples: Examples) -> Tensor:
        """Nothing is measured on the bench."""
        raise NotImplementedError("the bench of self-tests measures no model")

    def right(self, models: Tensor, examples: Examples) -> Tensor:
        """Nothing is measured on the bench."""
        raise NotImplementedError("the bench of self-tests measures no model")


@dataclass(frozen=True)
class Round:
    """What one round gave.

    Attributes:
        sent: rows as uploaded, one payload per chunk.
        aggregate: what the server made of them.
        opened: what the stage opened it to.
        given: the rows before the stage, with the weights that the federation lets travel.
    """

    sent: tuple[Payload, ...]
    aggregate: Payload
    opened: Payload
    given: Plain

    @property
    def rows(self) -> Tensor:
        """``(n, d)`` the rows as sent in clear.

        Raises:
            TypeError: they are not in clear.
        """
        return torch.cat([_clear(part).values for part in self.sent]).double()

    @property
    def mean(self) -> Tensor:
        """``(d,)`` float64, what was opened.

        Raises:
            TypeError: nobody opened it.
        """
        return _clear(self.opened).values[0].double()

    @property
    def weight(self) -> float:
        """Total weight of what was opened; 0 if nothing was."""
        return float(_clear(self.opened).weights.sum())

    @property
    def right(self) -> Tensor:
        """``(d,)`` float64, the weighted mean of the rows as given."""
        weights = self.given.weights.double()
        return (weights @ self.given.values.double()) / weights.sum()

    def serialised(self) -> list[bytes]:
        """Each row as it crosses the wire."""
        return [bytes(part.serialise(row)) for part in self.sent for row in range(len(part))]


def _clear(payload: Payload) -> Plain:
    if not isinstance(payload, Plain):
        raise TypeError(f"expected numbers in clear, found a {payload.kind} payload")
    return payload


@dataclass(frozen=True)
class Bench:
    """One defense on the bench.

    Attributes:
        defense: what is tried.
        seed: of everything that the bench draws.
    """

    defense: Defense
    seed: int = 0

    @property
    def hides(self) -> bool:
        """Whether it makes rows of which only sums can be formed."""
        return self.defense.emits not in (None, Kind.PLAIN)

    @property
    def seals(self) -> bool:
        """Whether it changes updates at the client."""
        return seals(self.defense) or self.defense.implements("receive")

    @property
    def changes_rounds(self) -> bool:
        """Whether a round without data shows anything of it."""
        return (self.seals or self.defense.implements("open")) and not self.has_rule

    @property
    def has_rule(self) -> bool:
        """Whether it brings a rule of its own, which the bench has no server for."""
        return self.defense.implements("aggregate") or self.defense.implements("preaggregate")

    @property
    def in_clear(self) -> bool:
        """Whether rows stay numbers."""
        return not self.hides

    @cached_property
    def claims(self) -> dict[str, Any]:
        """What it claims in the bench's federation."""
        return self.claims_of()

    def claims_of(self, **changes: Any) -> dict[str, Any]:
        """What it claims in another federation; see `setting_of`."""
        return dict(self.defense.claims(setting_of(stack=self.defense.name, **changes)))

    def number(self, name: str) -> float | None:
        """A claim, if it is a number."""
        value = self.claims.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    def stages(self, *, seed: int = 0, **changes: Any) -> Stages:
        """The stage with an empty memory."""
        stages = Stages((self.defense,), setting_of(stack=self.defense.name, **changes), seed=self.seed * 1000 + seed)
        if self.defense.implements("agree"):
            model = FlatModel.of(nn.Sequential(nn.Linear(24, 16)), task="classification", name="bench")
            initial = 0.1 * torch.randn(LAYOUT.size, generator=generator("self-test", self.seed, "initial"))
            stages.agree(model, initial, PublicExamples(self.seed))
        return stages

    @property
    def resolution(self) -> float:
        """Largest error of an entry of the opened mean: what is claimed, or `DEFAULT_RESOLUTION`."""
        for name in ("resolution", "quantisation_step"):
            claimed = self.number(name)
            if claimed is not None:
                return claimed
        return DEFAULT_RESOLUTION

    def updates(self, clients: int = CLIENTS, *, size: float = 0.02, draw: int = 0) -> Tensor:
        """``(clients, d)`` float32, normal of this standard deviation."""
        source = generator("self-test", self.seed, draw)
        return size * torch.randn(clients, LAYOUT.size, generator=source)

    def weights(self, clients: int = CLIENTS) -> Tensor:
        """Numbers of examples, all different."""
        return torch.arange(1, clients + 1, dtype=torch.float64)

    def round(
        self,
        stages: Stages,
        values: Tensor,
        weights: Tensor | None = None,
        *,
        number: int = 0,
        chunks: Sequence[Sequence[int]] | None = None,
        answered: Sequence[int] | None = None,
    ) -> Round:
        """One round: seal, arrive, sum, open.

        Args:
            stages: with the memory of earlier rounds.
            values: ``(n, d)``, a row for each client from 0.
            weights: ``(n,)``; 1 by default, and 1 always if the defense says so.
            number: of the round.
            chunks: places of the clients that are handled together; by default all at once.
            answered: places of those who upload at all; by default all.
        """
        everyone = range(len(values))
        if weights is None or self.defense.unit_weights:
            weights = torch.ones(len(values), dtype=torch.float64)
        stages.participants = tuple(everyone)
        there = list(everyone if answered is None else answered)
        parts: list[Payload] = []
        arrived: list[tuple[tuple[int, ...], Payload]] = []
        for chunk in chunks or [list(there)]:
            ids = tuple(place for place in chunk if place in there)
            if ids:
                update = Plain(values[list(ids)], weights[list(ids)])
                parts.append(stages.before_upload(update, number, ids, bound=True))
                arrived.append((ids, stages.on_arrival(parts[-1], number, ids)))
        aggregate = mean(Cohort(arrived), size=values.shape[1], like=values[0])
        opened = stages.opening(aggregate, number, ())[-1]
        return Round(tuple(parts), aggregate, opened, Plain(values[there], weights[there]))

    def with_parameters(self, **changes: Any) -> Bench:
        """The same defense with other parameters."""
        changed: Any = self.defense
        return Bench(replace(changed, **changes), self.seed)

    def has(self, parameter: str) -> bool:
        """Whether the defense has a parameter of this name."""
        return parameter in self.defense.parameters()


__all__ = ["CLIENTS", "LAYOUT", "ROUNDS", "Bench", "Round", "setting_of"]
