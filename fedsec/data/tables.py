"""Tables to tensors: one-hot categories from a fixed list, numbers scaled by the train rows alone."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsec.data.cache import damaged

Table = Mapping[str, NDArray[np.str_]]
Scaling = Literal["min-max", "standard"]


@dataclass(frozen=True)
class Column:
    """One column that the model sees.

    Attributes:
        name: in the file.
        values: categories in the order of their inputs; empty for a number.
        attribute: the sensitive attribute that it states or is derived into, or empty.
    """

    name: str
    values: tuple[str, ...] = ()
    attribute: str = ""


def read_table(
    path: Path, *, dataset: str, columns: Sequence[str], separator: str, header: bool, comment: str = ""
) -> Table:
    """The cells of a delimited text file as text, column by column.

    Args:
        path: the file.
        dataset: whose it is, for messages.
        columns: names of all columns, in the order of the file.
        separator: one character; blanks beside it are dropped.
        header: whether the first line names the columns.
        comment: lines that begin so are left out.

    Raises:
        DataError: the file is not text, a row has another number of cells, or the header has other names.
    """
    rows: list[list[str]] = []
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.reader(stream, delimiter=separator, skipinitialspace=True)
            for row in reader:
                if not row or (comment and row[0].startswith(comment)):
                    continue
                if len(row) != len(columns):
                    raise damaged(dataset, path, f"line {reader.line_num} has {len(row)} cells, not {len(columns)}")
                rows.append(row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise damaged(dataset, path, str(error)) from error
    if header and (not rows or rows.pop(0) != list(columns)):
        raise damaged(dataset, path, f"the first line does not name the columns {', '.join(columns)}")
    if not rows:
        raise damaged(dataset, path, "there are no rows")
    cells = np.asarray(rows, dtype=np.str_)
    return {name: np.char.strip(cells[:, number]) for number, name in enumerate(columns)}


def numbers(table: Table, name: str, *, dataset: str, path: Path) -> NDArray[np.float64]:
    """A column of numbers, ``(n,)``.

    Raises:
        DataError: a cell is not a finite number.
    """
    try:
        value = table[name].astype(np.float64)
    except ValueError as error:
        raise damaged(dataset, path, f"column {name!r}: {error}") from error
    if not np.isfinite(value).all():
        raise damaged(dataset, path, f"column {name!r} has a cell that is not a finite number")
    return value


def codes(table: Table, name: str, values: Sequence[str], *, dataset: str, path: Path) -> NDArray[np.int64]:
    """The position in ``values`` of every cell of a column, ``(n,)``.

    Raises:
        DataError: a cell holds another value.
    """
    found, inverse = np.unique(table[name], return_inverse=True)
    position = {value: code for code, value in enumerate(values)}
    strange = [str(value) for value in found if value not in position]
    if strange:
        raise damaged(dataset, path, f"column {name!r} holds {strange[0]!r}, expected one of {', '.join(values)}")
    return np.asarray([position[str(value)] for value in found], dtype=np.int64)[inverse]


def encode(table: Table, columns: Sequence[Column], *, dataset: str, path: Path) -> NDArray[np.float64]:
    """Numbers as they are and categories one-hot, side by side, ``(n, inputs)``.

    Raises:
        DataError: a cell does not fit its column.
    """
    blocks = []
    for column in columns:
        if column.values:
            code = codes(table, column.name, column.values, dataset=dataset, path=path)
            blocks.append(np.eye(len(column.values))[code])
        else:
            blocks.append(numbers(table, column.name, dataset=dataset, path=path)[:, None])
    return np.concatenate(blocks, axis=1)


def input_names(columns: Sequence[Column]) -> tuple[str, ...]:
    """The name of every input: ``age`` for a number, ``sex=Female`` for a category."""
    names = (
        (column.name,) if not column.values else (f"{column.name}={v}" for v in column.values) for column in columns
    )
    return tuple(name for group in names for name in group)


def scale(
    train: NDArray[np.float64], test: NDArray[np.float64], columns: Sequence[Column], scaling: Scaling
) -> tuple[Tensor, Tensor, tuple[float, float]]:
    """Scale the numbers by the train rows and leave the one-hot inputs; test values beyond the bounds are moved there.

    Args:
        train: ``(n, inputs)`` as `encode` gives them.
        test: ``(m, inputs)``.
        columns: that `encode` was given.
        scaling: ``min-max`` to [0, 1], or ``standard`` to mean 0 and deviation 1 (a constant column becomes 0).

    Returns:
        train and test, float32, and the bounds: (0, 1), or the lowest and highest train input.
    """
    numeric = np.asarray([not column.values for column in columns for _ in (column.values or ("number",))])
    if scaling == "min-max":
        shift, width = train.min(axis=0), np.ptp(train, axis=0)
    else:
        shift, width = train.mean(axis=0), train.std(axis=0)
    shift = np.where(numeric, shift, 0.0)
    width = np.where(numeric & (width > 0), width, 1.0)
    scaled = ((train - shift) / width).astype(np.float32)
    bounds = (0.0, 1.0) if scaling == "min-max" else (min(0.0, float(scaled.min())), max(1.0, float(scaled.max())))
    tests = np.clip(((test - shift) / width).astype(np.float32), *bounds)
    return torch.from_numpy(scaled), torch.from_numpy(tests), bounds
