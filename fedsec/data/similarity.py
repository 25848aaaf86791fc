"""The similarity partition: a share of the examples dealt at random, the rest by label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedsec.data.allocation import equal_sizes, gather, labels_of, require_rows
from fedsec.data.examples import Examples
from fedsec.data.source import ClientIndex, Partition
from fedsec.threat import Paper


@dataclass(frozen=True, kw_only=True)
class Similarity(Partition):
    """Clients that share a part of their distribution.

    A share ``gamma`` of the examples is dealt at random, the others are sorted by label and dealt in one block each.

    Client ``i`` holds the ``i``-th block in the order of the labels, so with ``gamma = 0`` and as many clients as
    classes of equal size each client is one class. ``gamma = 1`` is `shuffle`. Sizes differ by at most 1.
    """

    name: ClassVar[str] = "similarity"
    summary: ClassVar[str] = "Deal a share of the examples at random and the rest in blocks sorted by label"
    family: ClassVar[str] = "label skew"
    paper: ClassVar[Paper | None] = Paper(
        "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning",
        "Karimireddy, Kale, Mohri, Reddi, Stich, Suresh",
        "ICML 2020",
        "section 7, data with s % similarity",
    )

    gamma: Annotated[float, Field(ge=0, le=1, description="share of the examples that is dealt at random")] = 0.5

    def assign(self, pool: Examples, clients: int, *, generator: np.random.Generator) -> ClientIndex:
        """Spread the pool; every example has one client.

        Raises:
            ConfigurationError: there are fewer examples than clients, or the targets are not classes.
        """
        require_rows(pool, clients, minimum=1)
        labels = labels_of(pool)
        shuffled = generator.permutation(len(pool))
        common = int(len(pool) * self.gamma)
        blocks = shuffled[common:][np.argsort(labels[shuffled[common:]], kind="stable")]
        # one more of the common ones for the first clients, one more of the sorted ones for the last: sizes stay even
        sizes = np.sort(equal_sizes(common, clients))[::-1], np.sort(equal_sizes(len(pool) - common, clients))
        client = np.concatenate([np.repeat(np.arange(clients), size) for size in sizes])
        return gather(client, np.concatenate([shuffled[:common], blocks]), clients, generator=generator)
