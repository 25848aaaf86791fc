"""Two ways to train a cohort in one process: one client after another, or many side by side."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from fedsec.federation.hooks import LocalHook, LocalHooks, Way, Ways
from fedsec.federation.optimizers import initial_state, local_step, penalised
from fedsec.federation.shards import Order, Shard, batch, gathered, local_order
from fedsec.federation.training import LocalTraining
from fedsec.models.dense_step import TASKS, folded_sgd_step
from fedsec.models.flat import FlatModel
from fedsec.models.lanes import Step, gradient_step
from fedsec.models.memory import LaneMemory, Report
from fedsec.models.single import SingleLane
from fedsec.models.stacked import DenseLanes, StackedLanes, stacked_lanes

Limits = Sequence[int | None]
Rows = Sequence[Tensor]

_LANE_BYTES = {"cpu": 64 << 20, "cuda": 4 << 30}
"""Memory that the states of the lanes of one call may take; activations and gradients come on top."""


class Engine(ABC):
    """Trains the clients of a cohort from one start."""

    name: str

    @abstractmethod
    def train(
        self,
        start: Tensor,
        shards: Sequence[Shard],
        seeds: Sequence[int],
        limits: Limits,
        out: Rows,
        *,
        round_index: int = 0,
        standings: Sequence[float] | None = None,
    ) -> list[Report]:
        """Write each client's update to its row of ``out``, ``n`` of ``(d,)``; what the clients' steps reported."""

    def close(self) -> None:
        """Give back what it holds."""
        return


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU, one thread per process: sums keep one order, and processes do not fight over cores."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Sequential(Engine):
    """One client after another, on one reused module."""

    name = "sequential"

    def __init__(self, model: FlatModel, local: LocalTraining, around: LocalHooks) -> None:
        self._model, self._local, self._ways = model, local, Ways(around)
        self._lane: SingleLane | None = None

    def train(
        self,
        start: Tensor,
        shards: Sequence[Shard],
        seeds: Sequence[int],
        limits: Limits,
        out: Rows,
        *,
        round_index: int = 0,
        standings: Sequence[float] | None = None,
    ) -> list[Report]:
        """See `Engine.train`."""
        lane = self._lane
        if lane is None or lane.state.dtype != start.dtype or lane.state.device != start.device:
            lane = self._lane = SingleLane(self._model, device=start.device, dtype=start.dtype)
        lane.round = round_index
        reports: list[Report] = []
        ways = self._ways.of(standings, len(shards))
        for shard, seed, limit, row, way in zip(shards, seeds, limits, out, ways, strict=True):
            order = local_order(
                shard, self._local, seed=seed, max_steps=limit, replays=way.replays, poisson=way.poisson
            )
            lane.memory, lane.steps, lane.expected = LaneMemory(1), (len(order.bounds),), (order.expected,)
            if order.bounds:
                lane.load(start)
                self._client(lane, shard, order, start, way.step)
                lane.subtract_into(row, start)
            else:
                row.zero_()
            reports.extend(lane.memory.reports())
        lane.memory = LaneMemory(1)
        return reports

    def _client(self, lane: SingleLane, shard: Shard, order: Order, start: Tensor, step: Step) -> None:
        local = self._local.in_round(lane.round)
        plain = local.optimizer == "sgd" and not local.weight_decay and not local.proximal
        state = initial_state(local.optimizer, lane.state)
        origin = lane.arranged(start) if local.proximal else lane.state
        flat = lane.state.new_empty(0 if plain else lane.state.shape[0])
        keys = order.keys.to(start.device)
        for index, (first, last) in enumerate(order.bounds):
            x, y = batch((shard,), (order.rows[first:last],), lane.state)
            lane.begin_step(keys[index : index + 1])
            lane.step = index
            gradients = step(lane, x, y)
            with torch.no_grad():
                if plain:
                    torch._foreach_add_(lane.weights, list(gradients), alpha=-local.learning_rate)
                    continue
                gradient = penalised(local, lane.gather(gradients, flat), lane.state, origin)
                new, state = local_step(local, lane.state, gradient, state, step=index)
                lane.state.copy_(new)


class Stacked(Engine):
    """Many clients side by side. Lanes with equally large batches and one way share a call, so nothing is padded."""

    name = "stacked"

    def __init__(self, model: FlatModel, local: LocalTraining, around: LocalHooks, *, lanes: int) -> None:
        self._model, self._local, self._lanes = model, local, lanes
        self._ways = Ways(around)

    def train(
        self,
        start: Tensor,
        shards: Sequence[Shard],
        seeds: Sequence[int],
        limits: Limits,
        out: Rows,
        *,
        round_index: int = 0,
        standings: Sequence[float] | None = None,
    ) -> list[Report]:
        """See `Engine.train`."""
        ways = self._ways.of(standings, len(shards))
        orders = [
            local_order(shard, self._local, seed=seed, max_steps=limit, replays=way.replays, poisson=way.poisson)
            for shard, seed, limit, way in zip(shards, seeds, limits, ways, strict=True)
        ]
        # Clients with equally many steps go together, so that few lanes idle and groups are runs of rows.
        ranked = sorted(range(len(shards)), key=lambda i: (ways[i].number, -len(orders[i].bounds), -len(shards[i])))
        reports: list[Report] = [{} for _ in shards]
        for begin in range(0, len(ranked), self._lanes):
            chunk = ranked[begin : begin + self._lanes]
            state = start.expand(len(chunk), -1).clone()
            of_chunk = ([shards[i] for i in chunk], [orders[i] for i in chunk], [ways[i] for i in chunk])
            told = self._chunk(state, start, *of_chunk, round_index)
            state.sub_(start)
            torch._foreach_copy_([out[i] for i in chunk], list(state))
            for client, report in zip(chunk, told, strict=True):
                reports[client] = report
        return reports

    def _chunk(
        self,
        state: Tensor,
        start: Tensor,
        shards: list[Shard],
        orders: list[Order],
        ways: list[Way],
        round_index: int,
    ) -> list[Report]:
        lanes = stacked_lanes(self._model, state)
        lanes.round, lanes.steps = round_index, tuple(len(order.bounds) for order in orders)
        lanes.expected = tuple(order.expected for order in orders)
        memory = initial_state(self._local.optimizer, state[:, : self._model.layout.trainable])
        steps = max(len(order.bounds) for order in orders)
        keys = torch.zeros(len(orders), steps, dtype=torch.int64)
        for row, order in enumerate(orders):
            keys[row, : len(order.bounds)] = order.keys
        keys = keys.to(state.device)
        whole = {(0, len(orders)): lanes}
        table = _table(shards, orders)
        for index in range(steps):
            groups: dict[tuple[Way, int], list[int]] = {}
            for row, order in enumerate(orders):
                if index < len(order.bounds):
                    first, last = order.bounds[index]
                    # batches drawn example by example all differ in size: they are filled up instead
                    groups.setdefault((ways[row], -1 if ways[row].poisson else last - first), []).append(row)
            for (way, _), rows in groups.items():
                spans = {orders[row].bounds[index] for row in rows}
                present = None
                if way.poisson:
                    picked, present = _filled_up([shards[r] for r in rows], [orders[r] for r in rows], index)
                    x, y = batch([shards[row] for row in rows], picked, state)
                    present = present.to(state.device)
                elif table is not None and len(spans) == 1:
                    first, last = spans.pop()
                    some = table if len(rows) == len(orders) else table[rows]
                    x, y = gathered(shards[0].pool, some[:, first:last], state)
                else:
                    picked = [orders[row].rows[slice(*orders[row].bounds[index])] for row in rows]
                    x, y = batch([shards[row] for row in rows], picked, state)
                self._group(
                    lanes,
                    whole,
                    rows,
                    x,
                    y,
                    step=way.step,
                    keys=keys[:, index],
                    memory=memory,
                    start=start,
                    index=index,
                    present=present,
                )
        return lanes.memory.reports()

    def _group(
        self,
        lanes: StackedLanes,
        whole: dict[tuple[int, int], StackedLanes],
        rows: list[int],
        x: Tensor,
        y: Tensor,
        *,
        step: Step,
        keys: Tensor,
        memory: dict[str, Tensor],
        start: Tensor,
        index: int,
        present: Tensor | None,
    ) -> None:
        """One step of the lanes ``rows``: in place if they are a run of rows, else on a copy that is put back."""
        low, high = rows[0], rows[-1] + 1
        if high - low == len(rows):
            span = (low, high)
            if span not in whole:
                whole[span] = lanes.part(lanes.state[low:high], slice(low, high))
            part = {key: value[low:high] for key, value in memory.items()}
            lanes = whole[span]
            new = self._advance(
                lanes, x, y, step=step, keys=keys[low:high], memory=part, start=start, index=index, present=present
            )
            for key, value in new.items():
                memory[key][low:high] = value
            return
        where = torch.tensor(rows, device=x.device)
        some = lanes.part(lanes.state[where], where)
        part = {key: value[where] for key, value in memory.items()}
        new = self._advance(
            some, x, y, step=step, keys=keys[where], memory=part, start=start, index=index, present=present
        )
        lanes.state[where] = some.state
        for key, value in new.items():
            memory[key][where] = value

    def _advance(
        self,
        lanes: StackedLanes,
        x: Tensor,
        y: Tensor,
        *,
        step: Step,
        keys: Tensor,
        memory: dict[str, Tensor],
        start: Tensor,
        index: int,
        present: Tensor | None,
    ) -> dict[str, Tensor]:
        local = self._local.in_round(lanes.round)
        lanes.begin_step(keys)
        lanes.step, lanes.present = index, present
        trainable = self._model.layout.trainable
        fold = step is gradient_step and local.optimizer == "sgd" and self._model.task in TASKS
        if isinstance(lanes, DenseLanes) and fold:
            with torch.no_grad():
                folded_sgd_step(
                    self._model,
                    lanes.plan,
                    tuple(parameter.detach() for parameter in lanes.parameters),
                    x,
                    y,
                    keys=keys,
                    rate=local.learning_rate,
                    weight_decay=local.weight_decay,
                    proximal=local.proximal,
                    start=tuple(start[s.start : s.stop].view(s.shape) for s in self._model.layout.parameters),
                )
            return {}
        gradients = step(lanes, x, y)
        with torch.no_grad():
            lanes.end_step()
            vectors = lanes.state[:, :trainable]
            gradient = penalised(local, lanes.gather(gradients), vectors, start[:trainable])
            new, memory = local_step(local, vectors, gradient, memory, step=index)
            vectors.copy_(new)
        return memory


def _filled_up(shards: Sequence[Shard], orders: Sequence[Order], index: int) -> tuple[list[Tensor], Tensor]:
    """Batches of one step, the shorter ones filled up with an own example; and ``(l, b)`` what is no filler."""
    parts = [order.rows[slice(*order.bounds[index])] for order in orders]
    widest = max(len(part) for part in parts)
    present = torch.arange(widest) < torch.tensor([len(part) for part in parts])[:, None]
    fillers = [shard.rows[:1].cpu().expand(widest - len(part)) for shard, part in zip(shards, parts, strict=True)]
    return [torch.cat(both) for both in zip(parts, fillers, strict=True)], present


def _table(shards: Sequence[Shard], orders: Sequence[Order]) -> Tensor | None:
    """The orders as one matrix on the pool's device, padded with row 0; ``None`` if the pools differ."""
    pool = shards[0].pool
    if any(shard.pool is not pool for shard in shards):
        return None
    table = torch.zeros(len(orders), max(order.rows.shape[0] for order in orders), dtype=torch.int64)
    for row, order in enumerate(orders):
        table[row, : order.rows.shape[0]] = order.rows
    return table.to(pool.x.device)


def in_process(
    name: str, model: FlatModel, local: LocalTraining, hooks: tuple[LocalHook, ...], *, device: torch.device
) -> Engine:
    """The engine ``sequential`` or ``stacked``."""
    around = LocalHooks(hooks)
    if name == "sequential":
        return Sequential(model, local, around)
    budget = _LANE_BYTES["cpu" if device.type == "cpu" else "cuda"]
    lanes = max(1, min(512, math.floor(budget / (4 * max(model.layout.size, 1)))))
    return Stacked(model, local, around, lanes=lanes)
