"""Worker processes that run tasks: one thread each, a crash costs one task, and none outlives its parent."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import ModuleType, TracebackType
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


def _serve(pipe: Connection, parent: int) -> None:
    _die_with_parent(parent)
    # Ctrl-C reaches the whole process group; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    bench: Bench | None = None
    broken = ""
    try:
        # What takes long to import comes only now, after a death of the parent can be noticed.
        make, arguments = pipe.recv()
        import torch

        torch.set_num_threads(1)
        bench = make(*arguments)
    except EOFError:
        return
    except Exception:
        broken = traceback.format_exc()
    while True:
        try:
            number, task = pipe.recv()
        except EOFError:
            return
        if bench is None:
            pipe.send((number, "failed", broken))
            continue

        def progress(done: int, total: int, number: int = number) -> None:
            pipe.send((number, "progress", (done, total)))

        try:
            pipe.send((number, "done", bench.run(task, progress)))
        except Exception:
            pipe.send((number, "failed", traceback.format_exc()))


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """While a worker starts: it inherits a blocked Ctrl-C, and does not run the parent's main program again."""
    resource_tracker.ensure_running()  # it unblocks signals when it starts
    main = sys.modules["__main__"]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


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
        for idle in [w for w in self._workers if w.task is None and not w.process.is_alive()]:
            idle.pipe.close()
            self._workers.remove(idle)
        worker = next((w for w in self._workers if w.task is None), None)
        if worker is None:
            if len(self._workers) >= self._jobs:
                raise RuntimeError("no worker is free")
            worker = self._start()
        worker.task = number
        with contextlib.suppress(OSError):  # it died just now, which `messages` tells
            worker.pipe.send((number, task))

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, os.getpid()), daemon=False)
        with _starting():
            process.start()
            worker = _Worker(process, ours)
            self._workers.append(worker)
        theirs.close()
        with contextlib.suppress(OSError):
            ours.send((self._make, self._arguments))
        return worker

    def messages(self, timeout: float) -> Iterator[Message]:
        """What workers said within ``timeout`` seconds."""
        busy = {worker.pipe: worker for worker in self._workers if worker.task is not None}
        for ready in wait(list(busy), timeout):
            worker = busy[ready]  # type: ignore[index]
            try:
                number, event, value = worker.pipe.recv()
            except (EOFError, OSError):  # an OSError where it died in the middle of a message
                worker.process.join()
                worker.pipe.close()
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
