"""From a configuration and a seed to a federation that can train."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedsec.config.schema import AuditConfig
from fedsec.data.examples import Dataset
from fedsec.data.source import DatasetSource, Partition
from fedsec.data.split import split
from fedsec.data.user import load_dataset, load_model, load_object
from fedsec.errors import ConfigurationError, Problem
from fedsec.federation.population import Participation
from fedsec.federation.setup import FederationSetup, ServerStep
from fedsec.models.flat import FlatModel
from fedsec.models.source import ModelSource
from fedsec.parameters import rebuild
from fedsec.plugin import Plugin
from fedsec.randomness import derive_seed, numpy_generator


def pick_device(name: str) -> torch.device:
    """The device that ``auto``, ``cpu``, ``cuda`` or ``cuda:n`` means here.

    Raises:
        ConfigurationError: a GPU is asked for and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigurationError(
            [
                Problem(
                    path="device",
                    found=name,
                    expected="this machine has no GPU that torch can use",
                    hint="Use `device: auto`, which takes a GPU where there is one.",
                )
            ]
        )
    return torch.device(name)


class Builder:
    """Builds setups for one configuration; the dataset is loaded once."""

    def __init__(self, config: AuditConfig, *, device: str | None = None) -> None:
        """Build for a configuration.

        Args:
            config: the configuration.
            device: instead of the configured one.
        """
        self.config = config
        self.device = pick_device(device or config.device)
        self._dataset: Dataset | None = None

    @property
    def dataset(self) -> Dataset:
        """The configured dataset."""
        if self._dataset is None:
            spec = self.config.federation.dataset
            if spec.load is not None:
                self._dataset = load_dataset(spec.load, base=self.config.folder, parameters=dict(spec.parameters))
            else:
                source: Any = rebuild("datasets", {"name": spec.name, **spec.parameters})
                if not isinstance(source, DatasetSource):
                    raise TypeError(f"{spec.name} is not a DatasetSource")
                self._dataset = source.load(_root())
        return self._dataset

    def model(self, seed: int) -> FlatModel:
        """The architecture, with initial parameters drawn for this seed."""
        spec, info = self.config.federation.model, self.dataset.info
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed(seed, "initial"))
            if spec.build is not None:
                module: nn.Module = load_model(
                    spec.build, info=info, base=self.config.folder, parameters=dict(spec.parameters)
                )
                return FlatModel.of(module, task=info.task, name=spec.build)
            source: Any = rebuild("models", {"name": spec.name, **spec.parameters})
            if not isinstance(source, ModelSource):
                raise TypeError(f"{spec.name} is not a ModelSource")
            return FlatModel.of(source.build(info), task=info.task, name=spec.name)

    def setup(self, seed: int) -> FederationSetup:
        """The federation of one seed: its split, partition and initial model derive from the seed alone.

        Raises:
            ConfigurationError: the data cannot be split or spread as configured.
            DataError: the dataset is missing.
        """
        try:
            return self._setup(seed)
        except ConfigurationError as error:
            raise ConfigurationError([self._placed(problem) for problem in error.problems]) from error

    def _placed(self, problem: Problem) -> Problem:
        """A problem of a part of the federation, under its path in the configuration file."""
        head, _, rest = problem.path.partition(".")
        places = {"data": "dataset", "partition": "partition", "model": "model"}
        if head not in places:
            return problem
        path = ".".join(part for part in ("federation", places[head], rest) if part)
        return dataclasses.replace(problem, path=path, file=self.config.source)

    def _setup(self, seed: int) -> FederationSetup:
        federation = self.config.federation
        spec = federation.dataset
        parts = split(
            self.dataset,
            train=spec.train,
            holdout=spec.holdout,
            auxiliary=spec.auxiliary,
            test=spec.test,
            generator=numpy_generator(seed, "split"),
        )
        partition: Any = rebuild("partitions", {"name": federation.partition.name, **federation.partition.parameters})
        if not isinstance(partition, Partition):
            raise TypeError(f"{federation.partition.name} is not a Partition")
        index = partition.assign(parts.clients, federation.clients, generator=numpy_generator(seed, "partition"))
        dtype = torch.float64 if federation.precision == "float64" else torch.float32
        model = self.model(seed)
        server = federation.algorithm.server
        return FederationSetup(
            info=self.dataset.info,
            fingerprint=self.dataset.fingerprint,
            split=parts.to(self.device),
            index=index,
            partition=partition,
            model=model,
            initial=model.vector().to(device=self.device, dtype=dtype),
            participation=Participation(
                clients_per_round=federation.clients_per_round,
                sampling=federation.sampling,
                availability=federation.availability,
                dropouts=federation.dropouts,
                stragglers=federation.stragglers,
            ),
            local=federation.local,
            weighting=federation.algorithm.weighting,
            server=ServerStep(
                optimizer=server.optimizer,
                learning_rate=server.learning_rate,
                momentum=server.momentum,
                beta1=server.beta1,
                beta2=server.beta2,
                tau=server.tau,
            ),
            rounds=federation.rounds,
            evaluate_every=federation.evaluate_every,
            seed=seed,
        )

    def plugins(self) -> list[Plugin]:
        """The registered dataset, partition and model that the federation uses."""
        federation = self.config.federation
        specs = [("partitions", federation.partition.name, federation.partition.parameters)]
        if federation.dataset.load is None:
            specs.append(("datasets", federation.dataset.name, federation.dataset.parameters))
        if federation.model.build is None:
            specs.append(("models", federation.model.name, federation.model.parameters))
        built = [rebuild(group, {"name": name, **parameters}) for group, name, parameters in specs]
        return [plugin for plugin in built if isinstance(plugin, Plugin)]

    def source_fingerprint(self, target: str) -> str:
        """Digest of the source file of a user's own ``module:function``."""
        loaded = load_object(target, base=self.config.folder)
        return hashlib.sha256(Path(inspect.getfile(loaded)).read_bytes()).hexdigest()


def _root() -> Path | None:
    from fedsec.data.cache import data_root

    return data_root()
