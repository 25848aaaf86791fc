"""A federation before its first round: data, partition, model, initial parameters, all derived from one seed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedsec.data.examples import DatasetInfo, Examples
from fedsec.data.source import ClientIndex, Partition
from fedsec.data.split import Split
from fedsec.federation.cohort import Shard
from fedsec.federation.population import Participation
from fedsec.federation.training import LocalTraining
from fedsec.models.flat import FlatModel
from fedsec.protocol.stage import Defense, Setting
from fedsec.randomness import derive_seed, generator


@dataclass(frozen=True, kw_only=True)
class ServerStep:
    """What the server does with the aggregate.

    Attributes:
        optimizer: ``sgd``, ``adagrad``, ``adam`` or ``yogi`` (Reddi et al. 2021).
        learning_rate: 1.0 with ``sgd`` and no momentum is plain averaging.
        momentum: of ``sgd``.
        beta1: first-moment decay.
        beta2: second-moment decay.
        tau: adaptivity.
    """

    optimizer: str = "sgd"
    learning_rate: float = 1.0
    momentum: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    @property
    def name(self) -> str:
        """``mean`` for plain averaging, else the optimizer's name."""
        plain = self.optimizer == "sgd" and self.momentum == 0.0 and self.learning_rate == 1.0
        return "mean" if plain else self.optimizer


@dataclass(frozen=True, kw_only=True)
class FederationSetup:
    """Everything that a training starts from.

    Attributes:
        info: what the dataset says about itself.
        fingerprint: of the dataset.
        split: client data, hold-out, auxiliary and test examples.
        index: which rows of ``split.clients`` each client holds.
        partition: how they were spread (it may also transform a client's examples).
        model: the architecture.
        initial: ``(d,)`` initial global model.
        participation: how cohorts are formed.
        local: local training.
        weighting: ``examples`` (n_k / n) or ``uniform``.
        server: the server's step.
        rounds: number of rounds.
        evaluate_every: rounds between evaluations; the last round is always evaluated.
        seed: of the federation; the same for every stack and attack, so that comparisons are paired.
        composed: the defenses whose architecture the model has already.
    """

    info: DatasetInfo
    fingerprint: str
    split: Split
    index: ClientIndex
    partition: Partition
    model: FlatModel
    initial: Tensor
    participation: Participation
    local: LocalTraining
    weighting: str
    server: ServerStep
    rounds: int
    evaluate_every: int
    seed: int
    composed: tuple[Defense, ...] = ()

    @property
    def device(self) -> torch.device:
        """Where the federation trains."""
        return self.initial.device

    @property
    def transforms(self) -> bool:
        """Whether clients see their examples through an environment of their own."""
        return type(self.partition).transform is not Partition.transform

    def of_stack(self, stack: tuple[Defense, ...]) -> FederationSetup:
        """The federation with the architecture that a stack makes of its model; itself if none does, or did already.

        The parameters of the model stay as they are, and new ones derive from the seed.
        """
        hooks = tuple(d for d in stack if d.implements("architecture"))
        if not hooks or hooks == self.composed:
            return self
        module = self.model.instance(self.initial.cpu()).train()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed(self.seed, "architecture"))
            for hook in hooks:
                module = hook.architecture(module, self.info)
        name = "+".join((*(hook.name for hook in reversed(hooks)), self.model.name))
        model = FlatModel.of(module, task=self.model.task, name=name)
        return replace(self, model=model, initial=model.vector().to(self.initial), composed=hooks)

    def shard(self, client: int, hooks: tuple[Defense, ...] = ()) -> Shard:
        """A client's data, after its environment and the ``data`` hooks of the stack."""
        rows = torch.from_numpy(np.ascontiguousarray(self.index.rows(client)))
        if not self.transforms and not hooks:
            return Shard(self.split.clients, rows)
        examples = self.split.clients.take(rows)
        if self.transforms:
            own = generator(self.seed, "environment", client)
            examples = self.partition.transform(client, len(self.index), examples, generator=own)
        return self.hooked(client, whole(examples), hooks)

    def class_mix(self) -> Tensor | None:
        """How many examples of each class a client holds, ``(clients, C)``; ``None`` if there are no classes."""
        if self.info.task != "classification":
            return None
        y, count = self.split.clients.y.cpu(), len(self.info.classes)
        rows = (torch.from_numpy(np.ascontiguousarray(self.index.rows(k))) for k in range(len(self.index)))
        return torch.stack([torch.bincount(y[some], minlength=count) for some in rows])

    def hooked(self, client: int, shard: Shard, hooks: tuple[Defense, ...]) -> Shard:
        """A client's examples after the ``data`` hooks of the stack."""
        if not hooks:
            return shard
        examples = shard.examples()
        for number, hook in enumerate(hooks):
            examples = hook.data(examples, generator=generator(self.seed, "data", number, client))
        return whole(examples)

    def setting(self, stack: tuple[Defense, ...]) -> Setting:
        """The federation as a defense must know it."""
        model = self.of_stack(stack).model
        largest = int(self.index.sizes().max()) if len(self.index) else 0
        counts_travel = self.weighting == "examples" and not any(defense.unit_weights for defense in stack)
        how = self.participation
        everyone = how.sampling == "fixed" and how.clients_per_round >= len(self.index)
        return Setting(
            population=len(self.index),
            cohort=float(min(how.clients_per_round, len(self.index))),
            rounds=self.rounds,
            sampling="all" if everyone else how.sampling,
            layout=model.layout,
            local_steps=self.local.steps(largest),
            batch_size=self.local.batch_size,
            has_batch_norm=model.has_batch_norm,
            task=self.info.task,
            bounds=self.info.bounds,
            stack=tuple(defense.name for defense in stack),
            public=len(self.split.auxiliary),
            input_shape=self.info.input_shape,
            holdings=tuple(self.index.sizes().tolist()),
            largest_weight=float(largest if counts_travel else 1),
        )


def whole(examples: Examples) -> Shard:
    """A shard that holds all of these examples."""
    return Shard(examples, torch.arange(len(examples)))
