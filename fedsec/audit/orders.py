"""The oracle of batch orders: what each client's local training read at each step, for attacks that declare it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from fedsec.errors import NotKnownError
from fedsec.federation.population import Population, draw_cohort
from fedsec.federation.setup import FederationSetup
from fedsec.federation.shards import Shard, local_order
from fedsec.protocol.facts import BatchOrder
from fedsec.protocol.stage import Defense
from fedsec.randomness import derive_seed


def batch_orders(setup: FederationSetup, stack: tuple[Defense, ...]) -> Callable[[int, str], BatchOrder]:
    """``(round, sender) -> BatchOrder`` in the honest federation, by the seeds that its training used.

    Positions are those of the client's data as it trains on it (its environment and the stack's ``data`` hooks
    applied). Raises `NotKnownError` for a sender that is no client, or that sent nothing in that round.
    """
    hooks = tuple(defense for defense in stack if defense.implements("data"))
    poisson = any(defense.poisson for defense in stack if defense.implements("local"))
    population = Population.of(setup.index, fraction=0.0, sybils=0, seed=setup.seed)

    def order_of(round_index: int, sender: str) -> BatchOrder:
        kind, _, number = sender.partition(":")
        drawn = draw_cohort(population, setup.participation, round_index=round_index, seed=setup.seed)
        answered = drawn.answered.tolist()
        if kind != "client" or int(number) not in answered:
            raise NotKnownError(f"no single client's batches are behind what {sender} sent in round {round_index}")
        client = int(number)
        shard = setup.shard(client, hooks)
        own = Shard(shard.pool, torch.arange(len(shard)))
        effort = float(drawn.effort[answered.index(client)])
        limit = max(1, int(effort * setup.local.steps(len(shard)))) if effort < 1.0 else None
        seed = derive_seed(setup.seed, "train", round_index, client)
        order = local_order(own, setup.local, seed=seed, max_steps=limit, poisson=poisson)
        rows = tuple(order.rows[first:last] for first, last in order.bounds)
        return BatchOrder(rows, shard.examples().y)

    return order_of
