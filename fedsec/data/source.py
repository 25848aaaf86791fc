"""Datasets and partitions as plugins."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from fedsec.data.examples import Dataset, DatasetInfo, Examples
from fedsec.plugin import Plugin


class DatasetSource(Plugin):
    """Where a dataset comes from; its parameters may choose a variant of it.

    Attributes:
        info: what the dataset says about itself.
        family: ``image``, ``tabular`` or ``text``.
    """

    info: ClassVar[DatasetInfo]

    @abstractmethod
    def load(self, root: Path | None) -> Dataset:
        """Load it.

        Args:
            root: folder of the public datasets; unused by embedded datasets.

        Raises:
            DataError: files are missing or damaged; says which, and the command that fetches them.
        """


@dataclass(frozen=True)
class ClientIndex:
    """Which examples each client of a population holds: two index arrays, never an object per client.

    Attributes:
        order: ``(t,)`` int64 rows of the pool, client after client.
        offsets: ``(clients + 1,)`` int64; client ``c`` holds ``order[offsets[c]:offsets[c + 1]]``.
    """

    order: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def rows(self, client: int) -> NDArray[np.int64]:
        """The pool rows of one client."""
        return self.order[self.offsets[client] : self.offsets[client + 1]]

    def sizes(self) -> NDArray[np.int64]:
        """Examples per client, ``(clients,)``."""
        return np.diff(self.offsets)


class Partition(Plugin):
    """How a pool of examples is spread over a population."""

    @abstractmethod
    def assign(self, pool: Examples, clients: int, *, generator: np.random.Generator) -> ClientIndex:
        """Spread the pool over the clients.

        Raises:
            ConfigurationError: the pool cannot be spread so (too few examples, a missing attribute).
        """

    def transform(self, client: int, clients: int, shard: Examples, *, generator: torch.Generator) -> Examples:
        """What the client's environment does to its examples (feature skew, concept shift), the same every round."""
        return shard
