"""What the tabular datasets share: rows before and after scaling, and one way to load them."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from fedsec.data.build import build_dataset, stratified_rows
from fedsec.data.examples import Attribute, Dataset, Examples, Feature
from fedsec.data.source import DatasetSource
from fedsec.data.tables import Column, Scaling, input_names, scale

_AGE_LIMITS = (25, 40, 60)
AGE_BAND = Attribute(
    name="age-band",
    values=("under 25", "25 to 39", "40 to 59", "60 and over"),
    description="derived: the age in years, in four bands",
)


@dataclass(frozen=True)
class Part:
    """Rows of a file before they are scaled.

    Attributes:
        x: ``(n, inputs)`` as `fedsec.data.tables.encode` gives them.
        y: ``(n,)`` classes.
        attributes: name to ``(n,)`` codes.
    """

    x: NDArray[np.float64]
    y: NDArray[np.int64]
    attributes: dict[str, NDArray[np.int64]]

    def take(self, rows: NDArray[np.int64]) -> Part:
        """Some of the rows."""
        return Part(self.x[rows], self.y[rows], {name: value[rows] for name, value in self.attributes.items()})


@dataclass(frozen=True, kw_only=True)
class TabularSource(DatasetSource):
    """What the four tables share.

    Attributes:
        columns: that the model sees, in the order of its inputs.
    """

    family: ClassVar[str] = "tabular"
    columns: ClassVar[tuple[Column, ...]]

    scaling: Annotated[
        Scaling,
        Field(description="numbers to [0, 1], or to mean 0 and deviation 1; fitted on the train rows"),
    ] = "min-max"

    def load(self, root: Path | None = None) -> Dataset:
        """Load the table.

        Raises:
            DataError: a file is missing or damaged.
        """
        train, test = self._parts(root)
        x_train, x_test, bounds = scale(train.x, test.x, self.columns, self.scaling)
        return build_dataset(
            dataclasses.replace(self.info, bounds=bounds, features=features(self.columns, x_train)),
            train=Examples(x_train, torch.from_numpy(train.y), _tensors(train.attributes)),
            test=Examples(x_test, torch.from_numpy(test.y), _tensors(test.attributes)),
        )

    @classmethod
    def inputs(cls) -> tuple[str, ...]:
        """The name of every input of the model, as in ``age`` and ``sex=Female``."""
        return input_names(cls.columns)

    @abstractmethod
    def _parts(self, root: Path | None) -> tuple[Part, Part]:
        """Train and test rows."""


def features(columns: Sequence[Column], train: torch.Tensor) -> tuple[Feature, ...]:
    """What the columns of a table are to whoever alters a row.

    Args:
        columns: in the order of the inputs.
        train: ``(n, inputs)`` scaled train rows, whose extremes bound each number.
    """
    found, at = [], 0
    for column in columns:
        low, high = (0.0, 1.0) if column.values else (float(train[:, at].min()), float(train[:, at].max()))
        found.append(Feature(name=column.name, values=column.values, low=low, high=high, attribute=column.attribute))
        at += len(column.values) or 1
    return tuple(found)


def _tensors(arrays: dict[str, NDArray[np.int64]]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in arrays.items()}


def age_band(age: NDArray[np.float64]) -> NDArray[np.int64]:
    """Codes of `AGE_BAND` for ages in years, ``(n,)``."""
    return np.digitize(age, _AGE_LIMITS).astype(np.int64)


def split_part(part: Part, test: int, *, purpose: str) -> tuple[Part, Part]:
    """Train and test rows of a table without an official split; every class keeps its share."""
    train_rows, test_rows = stratified_rows(part.y, test, purpose=purpose)
    return part.take(train_rows), part.take(test_rows)
