"""The local training of a cohort in persistent worker processes of one thread each.

The global model and the updates lie in files that all processes map, so a round sends a few integers per client
through a pipe. A worker ends when its parent does, however that ends.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
import threading
import traceback
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsec.data.examples import Examples
from fedsec.errors import FedsecError
from fedsec.federation.engines import Engine, Limits, Rows, in_process
from fedsec.federation.hooks import LocalHook
from fedsec.federation.shards import Shard
from fedsec.federation.training import LocalTraining
from fedsec.models.flat import FlatModel
from fedsec.models.memory import Report

Array = NDArray[np.generic]


class WorkerError(FedsecError):
    """A worker process failed; carries its traceback."""


@dataclass(frozen=True)
class Mapped:
    """A tensor in a file that several processes map.

    Attributes:
        path: of the file.
        shape: of the tensor.
        dtype: of the tensor, as in ``float32``.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str

    def open(self) -> Tensor:
        """The tensor; writes are seen by everyone who maps it."""
        size = int(np.prod(self.shape))
        dtype = getattr(torch, self.dtype)
        return torch.from_file(self.path, shared=True, size=size, dtype=dtype).view(self.shape)


@dataclass(frozen=True)
class Job:
    """One client of one round.

    Attributes:
        row: its row among the updates.
        rows: rows of the shared pool, or of ``own``.
        own: inputs and targets by value, if the client does not read the shared pool.
        seed: of this client in this round.
        limit: most steps.
        standing: where it stands among all clients.
    """

    row: int
    rows: Array
    own: tuple[Array, Array] | None
    seed: int
    limit: int | None
    standing: float = 0.0


@dataclass(frozen=True)
class Task:
    """What one worker does in one round: the jobs, and where start and updates lie."""

    start: Mapped
    updates: Mapped
    jobs: tuple[Job, ...]
    round_index: int


@dataclass(frozen=True)
class Setup:
    """What a worker is told once."""

    model: FlatModel
    local: LocalTraining
    hooks: tuple[LocalHook, ...]
    inner: str
    pool: tuple[Mapped, Mapped] | None


class Workers(Engine):
    """Clients are given to persistent processes, the longest first."""

    name = "workers"

    def __init__(
        self,
        model: FlatModel,
        local: LocalTraining,
        hooks: tuple[LocalHook, ...],
        *,
        inner: str,
        workers: int,
        pool: Examples | None,
    ) -> None:
        self._local, self._pool, self._inner = local, pool, inner
        self._folder = _folder(0 if pool is None else pool.x.nbytes + pool.y.nbytes)
        shared = None
        if pool is not None:
            shared = (self._map("x", pool.x), self._map("y", pool.y))
        context = multiprocessing.get_context("spawn")
        self._connections: list[Connection] = []
        self._processes: list[BaseProcess] = []
        for _ in range(workers):
            mine, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, Setup(model, local, hooks, inner, shared)), daemon=True
            )
            process.start()
            theirs.close()
            self._connections.append(mine)
            self._processes.append(process)
        self._buffers: dict[str, tuple[Mapped, Tensor]] = {}
        self._serial = 0
        self._closed = weakref.finalize(self, _end, self._connections, self._processes, self._folder)

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
        """See `Engine.train`.

        Raises:
            WorkerError: a worker failed or died, or the engine is closed.
        """
        if not self._closed.alive:
            raise WorkerError("the worker processes of this trainer have been closed")
        start_map, start_shared = self._buffer("start", 1, start)
        updates_map, updates = self._buffer("updates", len(out), start)
        start_shared[0].copy_(start)
        places = [0.0] * len(shards) if standings is None else standings
        jobs = [self._job(row, *given) for row, given in enumerate(zip(shards, seeds, limits, places, strict=True))]
        busy: list[Connection] = []
        reports: list[Report] = [{} for _ in shards]
        try:
            waiting = self._tasks(shards, jobs)
            free = list(self._connections)
            while waiting or busy:
                while waiting and free:
                    busy.append(free.pop())
                    busy[-1].send(Task(start_map, updates_map, tuple(waiting.pop(0)), round_index))
                ready = wait(busy)
                for connection in [c for c in busy if c in ready]:
                    answer: str | dict[int, Report] = connection.recv()
                    if isinstance(answer, str):
                        raise WorkerError(f"a worker process failed:\n{answer}")
                    for row, report in answer.items():
                        reports[row] = report
                    busy.remove(connection)
                    free.append(connection)
        except (EOFError, OSError) as error:
            gone = wait([process.sentinel for process in self._processes], timeout=10)
            for process in self._processes:
                if process.sentinel in gone:  # its end of the pipe closes a moment before it can be reaped
                    process.join(timeout=10)
            codes = [str(process.exitcode) for process in self._processes if not process.is_alive()]
            raise WorkerError(f"a worker process died (exit code {', '.join(codes) or 'unknown'})") from error
        finally:
            if busy:  # what is still running would write into the next round's rows
                self.close()
        torch._foreach_copy_(list(out), list(updates[: len(out)]))
        return reports

    def close(self) -> None:
        """End the processes and remove the shared files."""
        self._closed()

    def _tasks(self, shards: Sequence[Shard], jobs: Sequence[Job]) -> list[list[Job]]:
        """What is handed out, the longest first (Graham 1969); the cost of a client is the examples it reads.

        One client at a time to whoever is free; but clients that train side by side go out as one group per process.
        """
        costs = []
        for shard, job in zip(shards, jobs, strict=True):
            steps = self._local.steps(len(shard))
            size = min(self._local.batch_size or len(shard), len(shard))
            costs.append(size * (steps if job.limit is None else min(steps, job.limit)))
        ranked = sorted(range(len(jobs)), key=lambda i: -costs[i])
        if self._inner == "sequential":
            return [[jobs[index]] for index in ranked]
        loads = [0] * len(self._processes)
        groups: list[list[Job]] = [[] for _ in loads]
        for index in ranked:
            least = loads.index(min(loads))
            loads[least] += costs[index]
            groups[least].append(jobs[index])
        return [group for group in groups if group]

    def _job(self, row: int, shard: Shard, seed: int, limit: int | None, standing: float) -> Job:
        if shard.pool is self._pool:
            return Job(row, shard.rows.numpy(), None, seed, limit, standing)
        own = shard.examples()
        return Job(row, np.arange(len(own)), (own.x.cpu().numpy(), own.y.cpu().numpy()), seed, limit, standing)

    def _map(self, name: str, values: Tensor) -> Mapped:
        mapped = Mapped(str(self._folder / name), tuple(values.shape), str(values.dtype).removeprefix("torch."))
        _allocate(mapped.path, values.nbytes)
        if values.numel():
            mapped.open().copy_(values)
        return mapped

    def _buffer(self, name: str, rows: int, like: Tensor) -> tuple[Mapped, Tensor]:
        """A shared matrix of at least so many rows, kept between rounds: fresh pages cost as much as a copy."""
        kept = self._buffers.get(name)
        kind = str(like.dtype).removeprefix("torch.")
        if kept is None or kept[0].shape[0] < rows or kept[0].dtype != kind:
            if kept is not None:
                Path(kept[0].path).unlink()
            self._serial += 1
            mapped = Mapped(str(self._folder / f"{name}.{self._serial}"), (rows, like.shape[0]), kind)
            _allocate(mapped.path, rows * like.nbytes)
            kept = self._buffers[name] = (mapped, mapped.open())
        return kept


def _allocate(path: str, size: int) -> None:
    with open(path, "wb") as file:
        file.truncate(max(size, 1))


def _folder(size: int) -> Path:
    """A folder in memory (``/dev/shm``) if there is room for twice this size and some more, else on disk."""
    memory = Path("/dev/shm")  # noqa: S108 -- a private folder is made inside
    room = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2 * size + (1 << 30)
    return Path(tempfile.mkdtemp(prefix="fedsec-", dir=memory if room else None))


def _end(connections: list[Connection], processes: list[BaseProcess], folder: Path) -> None:
    for connection in connections:
        connection.close()  # a worker that waits for work reads the end of the pipe and leaves
    for process in processes:
        process.join(timeout=2)
        if process.is_alive():
            process.terminate()
            process.join()
        process.close()
    shutil.rmtree(folder, ignore_errors=True)


def _serve(connection: Connection, told: Setup) -> None:
    """A worker's life: train what comes, until the pipe or the parent ends."""
    threading.Thread(target=_watch_parent, daemon=True).start()
    torch.set_num_threads(1)
    engine = in_process(told.inner, told.model, told.local, told.hooks, device=torch.device("cpu"))
    pool = None if told.pool is None else Examples(told.pool[0].open(), told.pool[1].open())
    opened: dict[str, tuple[Mapped, Tensor]] = {}
    while True:
        try:
            task: Task = connection.recv()
        except (EOFError, OSError):
            return
        answer: str | dict[int, Report]
        try:
            answer = _work(task, engine, pool, opened)
        except Exception:  # the parent raises it
            answer = traceback.format_exc()
        try:
            connection.send(answer)
        except OSError:
            return


def _work(
    task: Task, engine: Engine, pool: Examples | None, opened: dict[str, tuple[Mapped, Tensor]]
) -> dict[int, Report]:
    """Train the jobs; what their steps reported, by row."""
    for name, mapped in (("start", task.start), ("updates", task.updates)):
        if name not in opened or opened[name][0] != mapped:
            opened[name] = (mapped, mapped.open())
    start, updates = opened["start"][1], opened["updates"][1]
    shards = []
    for job in task.jobs:
        held = pool if job.own is None else Examples(torch.from_numpy(job.own[0]), torch.from_numpy(job.own[1]))
        if held is None:
            raise WorkerError("a job names the shared pool, and there is none")
        shards.append(Shard(held, torch.from_numpy(job.rows)))
    seeds, limits = [job.seed for job in task.jobs], [job.limit for job in task.jobs]
    rows = [updates[job.row] for job in task.jobs]
    places = [job.standing for job in task.jobs]
    reports = engine.train(start[0], shards, seeds, limits, rows, round_index=task.round_index, standings=places)
    return {job.row: report for job, report in zip(task.jobs, reports, strict=True) if report}


def _watch_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
