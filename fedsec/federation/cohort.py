"""The local training of a cohort: one function with one result, whichever engine does it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from fedsec.data.examples import Examples
from fedsec.errors import ConfigurationError, FedsecError, Problem
from fedsec.federation.engines import Engine, in_process, one_thread
from fedsec.federation.hooks import LocalHook, LocalHooks
from fedsec.federation.optimizers import LOCAL_OPTIMIZERS
from fedsec.federation.shards import Shard
from fedsec.federation.training import SCHEDULES, LocalTraining
from fedsec.federation.workers import Workers
from fedsec.models.dense_plan import dense_plan
from fedsec.models.flat import FlatModel
from fedsec.models.memory import Report
from fedsec.models.stacked import why_not_stackable

__all__ = ["ENGINES", "CohortTrainer", "LocalHooks", "Shard", "choose_engine"]

ENGINES = ("auto", "sequential", "stacked", "workers")


_LONELY = "Expected more than 1 value per channel when training"
"""How torch's batch norm begins its refusal."""


def choose_engine(model: FlatModel, *, device: torch.device, workers: int) -> tuple[str, str]:
    """The rule of ``auto``: the engine, and the one that each worker process runs inside.

    On an accelerator small models are bound by kernel launches: ``stacked``, if the model can be. On a CPU dense
    models are ``stacked`` (batched matrix products with the update folded in), everything else is ``sequential``
    (``vmap`` of convolutions loses there); with more than one worker, both run inside ``workers``. A daemonic
    process may not have children, so there are no workers inside one. The figures are in ``benchmarks/README.md``.
    """
    if device.type == "cpu":
        inner = "stacked" if dense_plan(model) is not None else "sequential"
        alone = workers <= 1 or multiprocessing.current_process().daemon
        return (inner, inner) if alone else ("workers", inner)
    inner = "sequential" if why_not_stackable(model) else "stacked"
    return inner, inner


class CohortTrainer:
    """Trains cohorts of one model; keeps its worker processes between rounds. A context manager.

    Attributes:
        engine: what was chosen: ``sequential``, ``stacked`` or ``workers``.
        inner: what each worker runs; ``engine`` itself if there are no workers.
        reports: what the steps of each client reported in the last call of `train`.
    """

    def __init__(
        self,
        model: FlatModel,
        local: LocalTraining,
        *,
        hooks: tuple[LocalHook, ...] = (),
        engine: str = "auto",
        workers: int = 1,
        device: str | torch.device = "cpu",
        pool: Examples | None = None,
    ) -> None:
        """Set up; worker processes start here.

        Args:
            model: the architecture.
            local: how a client trains.
            hooks: defenses whose ``local`` wraps the step, in the order of the stack; picklable for ``workers``.
            engine: one of `ENGINES`.
            workers: processes, of one thread each.
            device: where ``start`` will be; picks the engine.
            pool: the examples that most shards index; ``workers`` keep one shared copy of them. Shards of other
                pools are sent to the workers by value each round.

        Raises:
            ConfigurationError: the engine cannot train this model, or the optimizer is unknown.
        """
        problems = []
        if engine not in ENGINES:
            problems.append(Problem(path="federation.engine", found=engine, expected=f"one of {', '.join(ENGINES)}"))
        if local.optimizer not in LOCAL_OPTIMIZERS:
            expected = f"one of {', '.join(LOCAL_OPTIMIZERS)}"
            problems.append(Problem(path="federation.local.optimizer", found=local.optimizer, expected=expected))
        if local.schedule not in SCHEDULES:
            expected = f"one of {', '.join(SCHEDULES)}"
            problems.append(Problem(path="federation.local.schedule", found=local.schedule, expected=expected))
        if engine == "stacked" and (reason := why_not_stackable(model)):
            expected = f"a model that can be batched over clients, and {reason}"
            hint = "Use engine auto or sequential."
            problems.append(Problem(path="federation.engine", found=model.name, expected=expected, hint=hint))
        if problems:
            raise ConfigurationError(problems)
        self._model, self._local = model, local
        chosen, inner = choose_engine(model, device=torch.device(device), workers=workers)
        self.engine = chosen if engine == "auto" else engine
        self.inner = inner if engine in {"auto", "workers"} else engine
        self.reports: list[Report] = []
        self._engine: Engine
        if self.engine == "workers":
            self._engine = Workers(model, local, hooks, inner=self.inner, workers=max(workers, 1), pool=pool)
        else:
            self._engine = in_process(self.engine, model, local, hooks, device=torch.device(device))

    def train(
        self,
        start: Tensor,
        shards: Sequence[Shard],
        seeds: Sequence[int],
        *,
        max_steps: Sequence[int | None] | None = None,
        round_index: int = 0,
        standings: Sequence[float] | None = None,
    ) -> Tensor:
        """Train every client of a cohort from ``start``.

        Args:
            start: ``(d,)`` global model; its device and dtype (float32 or float64) are those of the training.
            shards: ``n`` clients' data.
            seeds: ``n``, one per client and round: the order of batches and every draw depend on it alone.
            max_steps: ``n`` limits of stragglers, ``None`` for no limit.
            round_index: of the federation, counted from 0, for local steps that change over rounds.
            standings: ``n``, where each client stands among all (`fedsec.federation.population.standings`): it runs the
                hooks whose ``share`` is above that. ``None``: all run every hook whose share is above 0.

        Returns:
            ``(n, d)`` updates: trained minus start, float buffers (batch-norm statistics) at the tail. A client
            without examples has the update 0.

        Raises:
            ConfigurationError: a batch of one example meets a batch norm that sees one value per channel.
            WorkerError: a worker process failed.
        """
        limits = [None] * len(shards) if max_steps is None else list(max_steps)
        if not len(shards) == len(seeds) == len(limits):
            raise ValueError(f"{len(shards)} shards, {len(seeds)} seeds and {len(limits)} limits do not match")
        if standings is not None and len(standings) != len(shards):
            raise ValueError(f"{len(shards)} shards and {len(standings)} standings do not match")
        if start.shape != (self._model.layout.size,):
            raise ValueError(f"start has shape {tuple(start.shape)}, the model ({self._model.layout.size},)")
        start = start.detach().contiguous()
        updates = start.new_empty(len(shards), start.shape[0])
        self.reports = []
        if len(shards):
            with one_thread(start.device):
                try:
                    self.reports = self._engine.train(
                        start, shards, seeds, limits, list(updates), round_index=round_index, standings=standings
                    )
                except (ValueError, FedsecError) as error:
                    if _LONELY not in str(error):
                        raise
                    raise ConfigurationError([_lonely(shards, self._local)]) from error
        return updates

    def close(self) -> None:
        """End the worker processes; training afterwards is an error for the engine ``workers``."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _lonely(shards: Sequence[Shard], local: LocalTraining) -> Problem:
    """Batch norm has no variance to divide by in a batch of one."""
    sizes = sorted({len(shard) for shard in shards if local.batch_size and len(shard) % local.batch_size == 1})
    found = f"clients with {', '.join(map(str, sizes[:5]))} examples" if sizes else "a batch of one example"
    hint = "Use norm: group in the model, or another batch size."
    expected = "batch norm needs two examples in every batch, the last of an epoch included"
    return Problem(path="federation.local.batch_size", found=found, expected=expected, hint=hint)
