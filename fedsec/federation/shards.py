"""A client's data, and the order in which local training reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedsec.data.examples import Examples
from fedsec.federation.training import LocalTraining
from fedsec.randomness import derive_seed, generator, salted


@dataclass(frozen=True)
class Shard:
    """A client's data: rows of a pool that many clients share, so that a client costs no copy.

    Attributes:
        pool: examples of many clients.
        rows: ``(n,)`` int64 rows of the pool.
    """

    pool: Examples
    rows: Tensor

    @classmethod
    def of(cls, examples: Examples) -> Shard:
        """A client that holds all of these examples."""
        return cls(examples, torch.arange(len(examples)))

    def __len__(self) -> int:
        return self.rows.shape[0]

    def examples(self) -> Examples:
        """A copy of the client's examples."""
        return self.pool.take(self.rows)


@dataclass(frozen=True)
class Order:
    """Which examples of a shard each local step reads.

    Attributes:
        rows: ``(m,)`` int64 rows of the pool, epoch after epoch.
        bounds: ``(first, last + 1)`` positions in ``rows`` of each step's batch.
        keys: ``(steps,)`` int64, what the random draws of each step depend on.
    """

    rows: Tensor
    bounds: tuple[tuple[int, int], ...]
    keys: Tensor


def local_order(
    shard: Shard, local: LocalTraining, *, seed: int, max_steps: int | None = None, replays: int = 1
) -> Order:
    """The batches of one client in one round.

    Each epoch is a permutation drawn from ``generator(seed, "order", epoch)``; the last batch of an epoch holds
    what is left. Keys are a SplitMix64 stream of ``derive_seed(seed, "steps")``.

    Args:
        shard: the client's data; without examples there are no steps.
        local: how it trains.
        seed: of this client in this round.
        max_steps: a straggler's limit, besides ``local.max_steps``.
        replays: consecutive steps on each batch. The number of steps stays, so fewer batches are read.
    """
    examples = len(shard)
    total = local.steps(examples) if max_steps is None else min(local.steps(examples), max_steps)
    steps = -(-total // replays)
    size = examples if local.batch_size is None else min(local.batch_size, examples)
    bounds: list[tuple[int, int]] = []
    orders: list[Tensor] = []
    for epoch in range(local.epochs):
        if len(bounds) >= steps:
            break
        orders.append(torch.randperm(examples, generator=generator(seed, "order", epoch)))
        first = epoch * examples
        starts = range(0, examples, size)[: steps - len(bounds)]
        bounds.extend((first + i, first + min(i + size, examples)) for i in starts)
    rows = shard.rows.cpu()
    order = rows[torch.cat(orders)] if orders else rows[:0]
    if replays > 1:
        bounds = [bound for bound in bounds for _ in range(replays)][:total]
    return Order(order, tuple(bounds), step_keys(seed, total))


def step_keys(seed: int, steps: int) -> Tensor:
    """One int64 key per local step, ``(steps,)``."""
    origin = torch.tensor(derive_seed(seed, "steps"), dtype=torch.int64)
    return salted(origin + torch.arange(steps, dtype=torch.int64) * -7046029254386353131, 0)


def batch(shards: Sequence[Shard], rows: Sequence[Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
    """One batch of equal size per lane.

    Args:
        shards: ``l`` shards.
        rows: ``l`` index tensors ``(b,)`` into their pools.
        like: floating inputs and targets get its dtype; everything its device.

    Returns:
        ``x (l, b, *input_shape)`` and ``y (l, b, *)``.
    """
    pool = shards[0].pool
    if all(shard.pool is pool for shard in shards):
        return gathered(pool, torch.stack(tuple(rows)).to(pool.x.device), like)
    parts = [
        gathered(shard.pool, index.unsqueeze(0).to(shard.pool.x.device), like)
        for shard, index in zip(shards, rows, strict=True)
    ]
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def gathered(pool: Examples, index: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and targets at ``index (l, b)``, with these leading axes; see `batch`."""
    flat = index.reshape(-1)
    x, y = pool.x.index_select(0, flat), pool.y.index_select(0, flat)
    return as_input(x, like).view(*index.shape, *x.shape[1:]), as_input(y, like).view(*index.shape, *y.shape[1:])


def as_input(values: Tensor, like: Tensor) -> Tensor:
    """On the device of ``like``; floating values in its dtype, token ids and classes as they are."""
    return values.to(device=like.device, dtype=like.dtype if values.is_floating_point() else values.dtype)
