"""A client's data, and the order in which local training reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

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
        expected: examples expected per batch, if batches are drawn by `poisson_order`; else 0.
    """

    rows: Tensor
    bounds: tuple[tuple[int, int], ...]
    keys: Tensor
    expected: float = 0.0


def local_order(
    shard: Shard,
    local: LocalTraining,
    *,
    seed: int,
    max_steps: int | None = None,
    replays: int = 1,
    poisson: bool = False,
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
        poisson: draw batches by `poisson_order` instead.

    Raises:
        ValueError: batches are to be drawn and to be read several times.
    """
    examples = len(shard)
    total = local.steps(examples) if max_steps is None else min(local.steps(examples), max_steps)
    if poisson:
        if replays > 1:
            raise ValueError("a batch drawn for one step cannot be read in several")
        return poisson_order(shard, local, seed=seed, steps=total)
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


def poisson_order(shard: Shard, local: LocalTraining, *, seed: int, steps: int) -> Order:
    """Batches into which each example comes by a coin of its own, at rate ``batch_size / examples``, step after step.

    This is the sampling that privacy accountants assume (Abadi et al. 2016, section 3.1). Batches differ in size and
    may be empty; the steps are as many as a shuffled pass would take. Coins are drawn from
    ``generator(seed, "poisson")``. Without a batch size, or with one that is no smaller than the shard, every batch is
    the shard.
    """
    examples = len(shard)
    size = examples if local.batch_size is None else min(local.batch_size, examples)
    rows, random = shard.rows.cpu(), generator(seed, "poisson")
    drawn = [rows[:0]]
    for _ in range(steps):
        coins = torch.rand(examples, generator=random, dtype=torch.float64)
        drawn.append(rows[coins * examples < size])
    ends = torch.tensor([len(part) for part in drawn]).cumsum(0).tolist()
    bounds = tuple(pairwise(ends))
    return Order(torch.cat(drawn), bounds, step_keys(seed, steps), expected=float(size))


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
