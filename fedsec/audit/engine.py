"""Running a plan: what is finished is taken, what can run runs, what fails is isolated."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from fedsec.audit.bench import Workbench
from fedsec.audit.plan import Cell, Plan, Training
from fedsec.audit.pool import Message, Pool
from fedsec.audit.progress import Display
from fedsec.audit.store import Store
from fedsec.config.schema import AuditConfig

Task = Training | Cell


@dataclass
class Run:
    """What became of a plan.

    Attributes:
        failures: why a result is missing, by key: the traceback of the task that failed.
        reused: results that were there already.
        computed: results that were computed now.
        interrupted: whether Ctrl-C stopped it.
        seconds: wall-clock time.
    """

    failures: dict[str, str] = field(default_factory=dict)
    reused: int = 0
    computed: int = 0
    interrupted: bool = False
    seconds: float = 0.0


class _Graph:
    """Which tasks are ready: those whose needs are finished."""

    def __init__(self, plan: Plan, store: Store, run: Run) -> None:
        self._store, self._run = store, run
        self._done: set[str] = set()
        self._waiting: list[Task] = []
        self._provider: dict[str, Training] = {}
        for training in plan.trainings:
            self._provider[training.key] = training
            if training.transcript:
                self._provider[training.transcript] = training
        unique: dict[str, Task] = {}
        tasks: list[Task] = [*plan.trainings, *plan.cells]
        for task in tasks:
            unique.setdefault(task.key, task)  # the same thing under two labels is computed once
        for task in unique.values():
            if self._finished(task):
                run.reused += 1
            else:
                self._waiting.append(task)

    def _finished(self, task: Task) -> bool:
        keys = [task.key, *([task.transcript] if isinstance(task, Training) and task.transcript else [])]
        there = [key for key in keys if self._store.has(key)]
        self._done.update(there)
        return len(there) == len(keys)

    def __len__(self) -> int:
        return len(self._waiting)

    def remaining(self) -> dict[str, int]:
        """Tasks that still wait, by kind."""
        counts: dict[str, int] = {}
        for task in self._waiting:
            counts[kind_of(task)] = counts.get(kind_of(task), 0) + 1
        return counts

    def take(self) -> Task | None:
        """A task whose needs are finished: cells first, so that results come early."""
        ready = [t for t in self._waiting if isinstance(t, Training) or all(k in self._done for k in t.needs)]
        if not ready:
            return None
        task = next((t for t in ready if isinstance(t, Cell)), ready[0])
        self._waiting.remove(task)
        return task

    def finished(self, task: Task) -> None:
        """The results of a task are there."""
        self._done.add(task.key)
        if isinstance(task, Training) and task.transcript:
            self._done.add(task.transcript)

    def failed(self, task: Task, reason: str) -> list[Cell]:
        """A task failed: so do the cells that need it."""
        self._run.failures[task.key] = reason
        if isinstance(task, Cell):
            return []
        lost = {task.key, task.transcript} - {""} - self._done
        orphans = [t for t in self._waiting if isinstance(t, Cell) and lost & set(t.needs)]
        for cell in orphans:
            self._waiting.remove(cell)
            self._run.failures[cell.key] = f"{task.label} failed:\n{reason}"
        return orphans


def kind_of(task: Task) -> str:
    """``training`` or ``cell``."""
    return "training" if isinstance(task, Training) else "cell"


def execute(config: AuditConfig, plan: Plan, store: Store, *, jobs: int, display: Display) -> Run:
    """Run what is missing of a plan.

    Args:
        config: the configuration.
        plan: the graph.
        store: where results go.
        jobs: worker processes; 0 runs everything in this process.
        display: where progress goes.
    """
    run = Run()
    started = time.perf_counter()
    graph = _Graph(plan, store, run)
    display.begin(run.reused + len(graph), run.reused, graph.remaining(), store.seconds(), max(jobs, 1))
    try:
        if len(graph):
            (_inline if jobs == 0 else _parallel)(config, graph, store, run, jobs, display)
    except KeyboardInterrupt:
        run.interrupted = True
    run.seconds = time.perf_counter() - started
    display.end(run.computed, run.reused, len(run.failures), run.seconds, interrupted=run.interrupted)
    return run


def _inline(config: AuditConfig, graph: _Graph, store: Store, run: Run, jobs: int, display: Display) -> None:
    bench = Workbench(config, store.artifacts.folder)
    # One thread, as in a worker: the order of sums, and so the result, must not depend on where it runs.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        while (task := graph.take()) is not None:
            store.started(task.key)
            display.started(task.key, task.label)
            try:
                value = bench.run(task, _reporter(display, task.key))
            except (Exception, SystemExit):
                _lost(task, traceback.format_exc(), graph, store, display)
            else:
                _kept(task, value, graph, store, run, display)
    finally:
        torch.set_num_threads(threads)


def _reporter(display: Display, key: str) -> Callable[[int, int], None]:
    return lambda done, total: display.moved(key, done, total)


def _parallel(config: AuditConfig, graph: _Graph, store: Store, run: Run, jobs: int, display: Display) -> None:
    running: dict[int, Task] = {}
    number = 0
    with Pool(jobs, Workbench, config, store.artifacts.folder) as pool:
        while True:
            while pool.free and (task := graph.take()) is not None:
                number += 1
                running[number] = task
                store.started(task.key)
                display.started(task.key, task.label)
                pool.submit(number, task)
            if not running:
                return
            for message in pool.messages(timeout=0.2):
                _handle(message, running, graph, store, run, display)


def _handle(
    message: Message, running: dict[int, Task], graph: _Graph, store: Store, run: Run, display: Display
) -> None:
    task = running[message.task]
    if message.event == "progress":
        display.moved(task.key, *message.value)
        return
    del running[message.task]
    if message.event == "done":
        _kept(task, message.value, graph, store, run, display)
    else:
        _lost(task, str(message.value), graph, store, display)


def _kept(task: Task, value: dict[str, Any], graph: _Graph, store: Store, run: Run, display: Display) -> None:
    seconds = float(value["seconds"])
    store.finished(task.key, kind=kind_of(task), label=task.label, seconds=seconds)
    if isinstance(task, Training) and task.transcript:
        store.finished(task.transcript, kind="transcript", label=task.label, seconds=0.0)
    graph.finished(task)
    run.computed += 1
    display.finished(task.key, kind_of(task), seconds)


def _lost(task: Task, reason: str, graph: _Graph, store: Store, display: Display) -> None:
    store.failed(task.key, kind=kind_of(task), label=task.label, reason=reason)
    display.failed(task.key, kind_of(task), task.label, reason)
    for cell in graph.failed(task, reason):
        store.failed(cell.key, kind="cell", label=cell.label, reason=f"{task.label} failed:\n{reason}")
        display.failed(cell.key, "cell", cell.label, f"{task.label} failed")
