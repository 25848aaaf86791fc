"""The adversary's side of a training: the data, the memory and the choices of the parties that it replaces."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedsec.federation.cohort import Shard
from fedsec.federation.population import Population
from fedsec.federation.setup import FederationSetup, whole
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import Adversary, CoalitionView
from fedsec.randomness import derive_seed, generator, numpy_generator


def coin(seed: int, identity: int) -> bool:
    """Whether a canary identity is included: a fair coin that only the harness knows."""
    return bool(numpy_generator(seed, "coin", identity).integers(2))


class Coalition:
    """All identities that one adversary controls, Sybils included."""

    def __init__(
        self, adversary: Adversary, facts: PublicFacts, setup: FederationSetup, population: Population
    ) -> None:
        self.adversary, self._facts = adversary, facts
        self._setup, self._population = setup, population
        self._seed = derive_seed(setup.seed, "adversary", adversary.name)
        self._state: dict[str, Tensor] = {}
        self._shards: dict[int, Shard] = {}

    @property
    def state(self) -> dict[str, Tensor]:
        """What the adversary remembers."""
        return self._state

    def shard(self, client: int) -> Shard:
        """What a controlled identity trains on: poisoned once, the same every round."""
        if client not in self._shards:
            own = generator(self._seed, "poison", client)
            examples = self._data(client).examples().to("cpu")
            poisoned = self.adversary.poison(examples, self._facts, generator=own)
            self._shards[client] = whole(poisoned.to(self._setup.device))
        return self._shards[client]

    def _data(self, client: int) -> Shard:
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
            shards=tuple(self.shard(c).examples().to("cpu") for c in clients),
            included=torch.tensor([coin(self._setup.seed, c) for c in clients]) if self.adversary.flips_coins else None,
        )
        random = generator(self._seed, "craft", number)
        return self.adversary.craft(view, self._facts, generator=random)
