"""One class per client: the most skewed partition by label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedsec.data.allocation import equal_sizes, gather, labels_of, refuse, require_rows
from fedsec.data.examples import Examples
from fedsec.data.source import ClientIndex, Partition
from fedsec.threat import Paper


@dataclass(frozen=True, kw_only=True)
class ByClass(Partition):
    """Client ``i`` holds examples of class ``i mod C`` alone; clients of one class share its examples equally.

    With fewer clients than classes, the examples of the classes that nobody holds are not used.
    """

    name: ClassVar[str] = "by-class"
    summary: ClassVar[str] = "Each client holds examples of a single class, client 0 of the first class and so on"
    family: ClassVar[str] = "label skew"
    paper: ClassVar[Paper | None] = Paper(
        "The Limitations of Federated Learning in Sybil Settings",
        "Fung, Yoon, Beschastnikh",
        "RAID 2020",
        "section 7, honest clients of one class each",
    )

    def assign(self, pool: Examples, clients: int, *, generator: np.random.Generator) -> ClientIndex:
        """Spread the pool.

        Raises:
            ConfigurationError: a class has fewer examples than clients, or the targets are not classes.
        """
        require_rows(pool, clients, minimum=1)
        labels = labels_of(pool)
        classes = np.unique(labels)
        client, row = [], []
        for place, label in enumerate(classes):
            holders = np.arange(place, clients, len(classes))
            held = generator.permutation(np.flatnonzero(labels == label))
            if len(holders) > len(held):
                found = f"{len(holders)} clients of a class with {len(held)} examples"
                raise refuse(found, "every client needs an example of its own", f"Use at most {len(classes)} clients")
            if len(holders):
                client.append(np.repeat(holders, equal_sizes(len(held), len(holders))))
                row.append(held)
        return gather(np.concatenate(client), np.concatenate(row), clients, generator=generator)
