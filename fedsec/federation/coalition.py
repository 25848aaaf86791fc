"""The adversary's side of a training: the data, the memory and the choices of the parties that it replaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsec.data.examples import Examples
from fedsec.federation.cohort import CohortTrainer, Shard
from fedsec.federation.hooks import LocalHook
from fedsec.federation.population import Population
from fedsec.federation.setup import FederationSetup, whole
from fedsec.federation.training import LocalTraining
from fedsec.models.lanes import Step
from fedsec.protocol.drill import Drill, Wrap
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import Adversary, CoalitionView
from fedsec.randomness import derive_seed, generator, numpy_generator


def coin(seed: int, identity: int) -> bool:
    """Whether a canary identity is included: a fair coin that only the harness knows."""
    return bool(numpy_generator(seed, "coin", identity).integers(2))


@dataclass(frozen=True)
class _Wrapped:
    """An adversary's own training step, as a hook."""

    wrap: Wrap

    def local(self, step: Step) -> Step:
        """The wrapped step."""
        return self.wrap(step)


class Coalition:
    """All identities that one adversary controls, Sybils included."""

    def __init__(
        self,
        adversary: Adversary,
        facts: PublicFacts,
        setup: FederationSetup,
        population: Population,
        *,
        engine: str = "auto",
    ) -> None:
        self.adversary, self._facts = adversary, facts
        self._setup, self._population = setup, population
        self._seed = derive_seed(setup.seed, "adversary", adversary.name)
        self._state: dict[str, Tensor] = {}
        self._shards: dict[int, Shard] = {}
        self._places = {int(c): place for place, c in enumerate(np.flatnonzero(population.controlled))}
        self._known: dict[int, Tensor] = {}
        self._held: dict[int, tuple[Shard, Examples]] = {}
        # few clients, whose owner may start each from a model of its own: not worth processes
        self._engine = "auto" if engine == "workers" else engine
        self._trainer = self._new_trainer(setup.local, ())

    @property
    def state(self) -> dict[str, Tensor]:
        """What the adversary remembers."""
        return self._state

    @property
    def identities(self) -> tuple[int, ...]:
        """The controlled identities by place."""
        return tuple(self._places)

    def sure(self, number: int) -> tuple[int, ...]:
        """Identities that are sure to be in the cohort of a round."""
        return tuple(self.identities[place] for place in self.adversary.attends(number) if place < len(self._places))

    def acts(self, number: int, client: int) -> bool:
        """Whether a controlled identity attacks in a round."""
        return self.adversary.acts(number, self._places[client])

    def shard(self, client: int) -> Shard:
        """What a controlled identity trains on: poisoned once, the same every round."""
        if client not in self._shards:
            own = generator(self._seed, "poison", client)
            examples = self.clean(client).examples().to("cpu")
            poisoned = self.adversary.poison_at(self._places[client], examples, self._facts, generator=own)
            self._shards[client] = whole(poisoned.to(self._setup.device))
        return self._shards[client]

    def train(
        self, number: int, clients: list[int], shards: list[Shard], model: Tensor, limits: list[int] | None
    ) -> Tensor:
        """What the training of the controlled identities gives, ``(k, d)``, done as their owner wants it.

        Args:
            number: the round.
            clients: controlled identities that attack.
            shards: what each of them trains on.
            model: ``(d,)`` global model of the round.
            limits: steps of stragglers; their owner's own training has none.
        """

        def run(
            start: Tensor,
            given: Sequence[Examples] | None,
            local: LocalTraining | None,
            wrap: Wrap | None,
            attempt: int,
        ) -> Tensor:
            held = shards if given is None else [whole(examples.to(model.device)) for examples in given]
            purpose = (number,) if not attempt else (number, "attempt", attempt)
            seeds = [derive_seed(self._setup.seed, "train", *purpose, client) for client in clients]
            hooks = () if wrap is None else (_Wrapped(wrap),)
            plain = local is None and wrap is None
            trainer = self._trainer if plain else self._new_trainer(local or self._setup.local, hooks)
            if start.dim() == 1:
                return trainer.train(start, held, seeds, max_steps=limits if plain else None, round_index=number)
            rows = zip(start, held, seeds, strict=True)
            return torch.cat([trainer.train(row, [shard], [seed], round_index=number) for row, shard, seed in rows])

        drill = Drill(
            round=number,
            clients=tuple(clients),
            places=tuple(self._places[c] for c in clients),
            model=model.clone(),
            previous=self._previous(number),
            shards=tuple(self._examples(c, shard) for c, shard in zip(clients, shards, strict=True)),
            _clean=lambda: tuple(self.clean(c).examples().to("cpu") for c in clients),
            local=self._setup.local,
            cohort=int(self._setup.participation.clients_per_round),
            layout=self._setup.model.layout,
            state=self._state,
            _train=run,
        )
        return self.adversary.train(drill, self._facts, generator=generator(self._seed, "drill", number))

    def told(self, number: int, model: Tensor) -> None:
        """Some controlled identity was sent the global model of a round."""
        if number not in self._known:
            self._known = {r: m for r, m in self._known.items() if r == max(self._known)} | {number: model.clone()}

    def _new_trainer(self, local: LocalTraining, hooks: tuple[LocalHook, ...]) -> CohortTrainer:
        return CohortTrainer(self._setup.model, local, hooks=hooks, engine=self._engine, device=self._setup.device)

    def _examples(self, client: int, shard: Shard) -> Examples:
        """A shard's examples on the CPU, kept as long as the shard stays the same."""
        held = self._held.get(client)
        if held is None or held[0] is not shard:
            held = self._held[client] = (shard, shard.examples().to("cpu"))
        return held[1]

    def _previous(self, number: int) -> Tensor | None:
        earlier = [r for r in self._known if r < number]
        return self._known[max(earlier)] if earlier else None

    def clean(self, client: int) -> Shard:
        """A controlled client's own data; a Sybil has none and shares that of a controlled client, or public data."""
        clients = len(self._population.index)
        if client < clients:
            return self._setup.shard(client)
        real = np.flatnonzero(self._population.controlled[:clients])
        if len(real):
            return self._setup.shard(int(real[(client - clients) % len(real)]))
        return whole(self._setup.split.auxiliary)

    def craft(
        self, number: int, clients: list[int], own: Tensor, sizes: list[int], model: Tensor, honest: Tensor | None
    ) -> Tensor:
        """What the controlled identities send in this round, ``(k, d)``.

        Args:
            number: the round.
            clients: controlled identities in the cohort.
            own: ``(k, d)`` what their training gave.
            sizes: their numbers of examples.
            model: ``(d,)`` global model of the round.
            honest: ``(h, d)`` honest updates, for an omniscient adversary only.
        """
        view = CoalitionView(
            round=number,
            clients=tuple(clients),
            own=own,
            weights=torch.tensor([float(size) for size in sizes], dtype=torch.float64),
            model=model.clone(),
            honest=honest,
            expected_cohort=int(self._setup.participation.clients_per_round),
            state=self._state,
            is_sybil=torch.tensor([c >= len(self._population.index) for c in clients]),
            shards=tuple(self._examples(c, self.shard(c)) for c in clients),
            places=tuple(self._places[c] for c in clients),
            previous=self._previous(number),
            included=torch.tensor([coin(self._setup.seed, c) for c in clients]) if self.adversary.flips_coins else None,
        )
        random = generator(self._seed, "craft", number)
        return self.adversary.craft(view, self._facts, generator=random)
