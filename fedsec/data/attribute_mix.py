"""Clients that differ in several attributes at once and in nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from fedsec.data.allocation import gather, labels_of, refuse, require_rows
from fedsec.data.examples import Attribute, DatasetInfo, Examples
from fedsec.data.properties import Property, combinations, mix, resolve
from fedsec.data.source import ClientIndex, Partition


@dataclass(frozen=True, kw_only=True)
class AttributeMix(Partition):
    """Each client is, for each property, mostly of it or mostly not, independently; classes are alike everywhere.

    For every property half of the clients (drawn at random) have a part ``purity`` of examples with it, the others a
    part ``1 - purity``. Every client has the classes in the proportions of the pool, so that what an update says about
    a property it does not say through the labels (a label-matched control); ``match_labels: false`` lets the classes
    follow from the properties as they do in the pool. No example has two clients.
    """

    name: ClassVar[str] = "attribute-mix"
    summary: ClassVar[str] = "Clients differ in the shares of several properties, independently, and have equal labels"
    family: ClassVar[str] = "attribute skew"

    properties: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        Field(
            max_length=5, description="attribute, or attribute=code with the value's position from 0; empty: the first"
        ),
    ] = ()
    purity: Annotated[float, Field(ge=0.5, lt=1, description="part of a client's examples of its own kind")] = 0.9
    size: Annotated[int, Field(ge=1, description="examples of each client")] = 100
    match_labels: Annotated[bool, Field(description="whether every client has the classes of the pool")] = True

    def assign(self, pool: Examples, clients: int, *, generator: np.random.Generator) -> ClientIndex:
        """Spread the pool.

        Raises:
            ConfigurationError: there is no such attribute, or a client's kind of example runs out.
        """
        require_rows(pool, clients, minimum=self.size, field="size")
        asked = self._asked(pool)
        # without matching, classes come as the examples of a kind are drawn
        labels = torch.from_numpy(labels_of(pool)) if self.match_labels else torch.zeros(len(pool), dtype=torch.long)
        code, width = combinations(asked, pool), 2 ** len(asked)
        kinds, label = torch.unique(labels, return_inverse=True)
        cell = torch.where(code < 0, -1, label * width + code).numpy()
        supply = np.bincount(cell[cell >= 0], minlength=len(kinds) * width)
        counts = torch.from_numpy(supply).view(-1, width)
        classes = counts.sum(1).double() / counts.sum()
        major = np.stack([generator.permutation(clients) < round(clients / 2) for _ in asked], axis=1)
        demand = np.stack([self._demand(counts, classes, row, generator) for row in major])
        short = np.flatnonzero(demand.sum(0) > supply)
        if len(short):
            worst = int(short[np.argmax((demand.sum(0) - supply)[short])])
            of_class = f" of class {int(kinds[worst // width])}" if self.match_labels else ""
            raise refuse(
                f"{clients} clients of {self.size} examples",
                f"{int(demand.sum(0)[worst])} examples{of_class} with "
                f"{_described(asked, worst % width)} are needed and there are {int(supply[worst])}",
                "Use fewer or smaller clients, fewer properties, a lower purity, or match_labels: false",
            )
        client, rows = [], []
        for number in np.flatnonzero(demand.sum(0)):
            rows.append(generator.permutation(np.flatnonzero(cell == number))[: demand[:, number].sum()])
            client.append(np.repeat(np.arange(clients), demand[:, number]))
        return gather(np.concatenate(client), np.concatenate(rows), clients, generator=generator)

    def _asked(self, pool: Examples) -> tuple[Property, ...]:
        """The properties; a pool knows the codes of an attribute's values and not their names."""
        attributes = []
        for name, value in pool.attributes.items():
            known = tuple(str(number) for number in range(int(value.max()) + 1)) if len(value) else ()
            attributes.append(Attribute(name=name, values=known, description=""))
        info = DatasetInfo(
            name="of the federation",
            summary="",
            task="",
            input_shape=(),
            classes=(),
            bounds=None,
            modality="",
            attributes=tuple(attributes),
        )
        try:
            return resolve(self.properties, info)
        except ValueError as error:
            raise refuse(", ".join(self.properties), str(error), field="properties") from error

    def _demand(
        self, counts: Tensor, classes: Tensor, major: NDArray[np.bool_], generator: np.random.Generator
    ) -> NDArray[np.int64]:
        """How many examples of each cell one client gets: its table, rounded systematically."""
        try:
            table = mix(counts, [self.purity if yes else 1 - self.purity for yes in major.tolist()], classes)
        except ValueError as error:
            raise refuse(", ".join(self.properties), str(error), field="properties") from error
        edges = np.concatenate(([0.0], np.cumsum(table.flatten().numpy() * self.size)))
        edges[-1] = self.size
        return np.diff(np.floor(edges + generator.random())).astype(np.int64)


def _described(asked: tuple[Property, ...], code: int) -> str:
    return ", ".join(f"{'' if code >> number & 1 else 'no '}{one.name}" for number, one in enumerate(asked))
