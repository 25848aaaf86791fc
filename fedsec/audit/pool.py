"""Worker processes that run tasks: one thread each, a crash costs one task, and none outlives its parent."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Protocol

PR_SET_PDEATHSIG = 1


class Bench(Protocol):
    """What a worker does its tasks with; made once per worker."""

    def run(self, task: Any, progress: Callable[[int, int], None]) -> Any:
        """Run one task and return what the parent is to know."""


@dataclass(frozen=True)
class Message:
    """What a worker says.

    Attributes:
        task: which task.
        event: ``progress``, ``done``, ``failed`` or ``died``.
        value: ``(done, total)``, the task's return value, or a traceback.
    """

    task: int
    event: str
    value: Any


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    task: int | None = None


def _die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies, however that happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _serve(pipe: Connection, make: Callable[..., Bench], arguments: tuple[Any, ...], parent: int) -> None:
    _die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    torch.set_num_threads(1)
    bench: Bench | None = None
    while True:
        try:
            number, task = pipe.recv()
        except EOFError:
            return
        try:
            if bench is None:
                bench = make(*arguments)

            def progress(done: int, total: int, number: int = number) -> None:
                pipe.send((number, "progress", (done, total)))

            pipe.send((number, "done", bench.run(task, progress)))
        except Exception:
            pipe.send((number, "failed", traceback.format_exc()))


class Pool:
    """``jobs`` worker processes."""

    def __init__(self, jobs: int, make: Callable[..., Bench], *arguments: Any) -> None:
        """Start nothing yet; workers start with their first task.

        Args:
            jobs: processes at the most.
            make: a module-level function or class; called with ``arguments`` in each worker.
            *arguments: sent to each worker once.
        """
        self._context = multiprocessing.get_context("spawn")
        self._jobs, self._make, self._arguments = jobs, make, arguments
        self._workers: list[_Worker] = []

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.process.kill() if kind is not None else worker.pipe.close()
        for worker in self._workers:
            worker.process.join(timeout=5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()

    @property
    def free(self) -> int:
        """How many tasks can be submitted now."""
        return self._jobs - sum(worker.task is not None for worker in self._workers)

    def submit(self, number: int, task: Any) -> None:
        """Give a task to a free worker."""
        worker = next((w for w in self._workers if w.task is None), None)
        if worker is None:
            if len(self._workers) >= self._jobs:
                raise RuntimeError("no worker is free")
            worker = self._start()
        worker.task = number
        worker.pipe.send((number, task))

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        arguments = (theirs, self._make, self._arguments, os.getpid())
        process = self._context.Process(target=_serve, args=arguments, daemon=False)
        process.start()
        theirs.close()
        worker = _Worker(process, ours)
        self._workers.append(worker)
        return worker

    def messages(self, timeout: float) -> Iterator[Message]:
        """What workers said within ``timeout`` seconds."""
        busy = {worker.pipe: worker for worker in self._workers if worker.task is not None}
        for ready in wait(list(busy), timeout):
            worker = busy[ready]  # type: ignore[index]
            try:
                number, event, value = worker.pipe.recv()
            except (EOFError, ConnectionResetError):
                worker.process.join()
                self._workers.remove(worker)
                task, worker.task = worker.task, None
                if task is not None:
                    code = worker.process.exitcode
                    why = f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"
                    yield Message(task, "died", f"the worker process died ({why})")
                continue
            if event != "progress":
                worker.task = None
            yield Message(number, event, value)
