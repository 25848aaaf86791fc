"""Examples, and what a dataset says about itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Examples:
    """Some examples of a dataset.

    Attributes:
        x: ``(n, *input_shape)`` float32 inputs in the dataset's bounds, or int64 token ids.
        y: ``(n,)`` int64 classes, ``(n,)`` float32 targets of a regression, or ``(n, t)`` int64 next tokens.
        attributes: name to ``(n,)`` int64 values, ``-1`` for unknown; never a model input by themselves.
    """

    x: Tensor
    y: Tensor
    attributes: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.x.shape[0]

    def take(self, index: Sequence[int] | Tensor) -> Examples:
        """Some of the examples, in the order of ``index``."""
        rows = torch.as_tensor(index, dtype=torch.long, device=self.x.device)
        return Examples(self.x[rows], self.y[rows], {k: v[rows] for k, v in self.attributes.items()})

    def to(self, device: str | torch.device) -> Examples:
        """The examples on a device."""
        moved = {k: v.to(device) for k, v in self.attributes.items()}
        return Examples(self.x.to(device), self.y.to(device), moved)


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """A sensitive attribute of a dataset.

    Attributes:
        name: as in ``sex``.
        values: names of its values, in the order of their codes.
        description: one sentence; says how it was derived if it was.
    """

    name: str
    values: tuple[str, ...]
    description: str


@dataclass(frozen=True, kw_only=True)
class Feature:
    """A column of a table, which is one input of the model or, for a category, one per value (one-hot).

    Attributes:
        name: in the file.
        values: categories in the order of their inputs; empty for a number.
        low: lowest value of a number in the train rows, in units of the inputs; 0 for a category.
        high: highest value; 1 for a category.
        attribute: name of the sensitive attribute that the column states, or empty.
    """

    name: str
    values: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 1.0
    attribute: str = ""

    @property
    def width(self) -> int:
        """How many inputs it takes."""
        return len(self.values) or 1


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What a dataset says about itself.

    Attributes:
        name: as typed in a configuration.
        summary: one sentence.
        task: ``classification``, ``regression`` or ``next-token``.
        input_shape: of one example, as in ``(1, 28, 28)``.
        classes: names, in the order of their codes; empty for a regression.
        bounds: lowest and highest value of an input; ``None`` for tokens.
        modality: ``image``, ``tabular`` or ``text``.
        attributes: sensitive attributes.
        public: whether originals may be shown in a report.
        source: canonical source with the paper.
        licence: short.
        vocabulary: number of tokens, 0 if the inputs are not tokens.
        words: what the tokens stand for, in the order of their ids; empty if the inputs are not tokens.
        natural_clients: name of an attribute that is a natural client key, or empty.
        features: columns of a table in the order of the inputs, known once it is loaded; empty where inputs have no
            names.
    """

    name: str
    summary: str
    task: str
    input_shape: tuple[int, ...]
    classes: tuple[str, ...]
    bounds: tuple[float, float] | None
    modality: str
    attributes: tuple[Attribute, ...] = ()
    public: bool = False
    source: str = ""
    licence: str = ""
    vocabulary: int = 0
    words: tuple[str, ...] = ()
    natural_clients: str = ""
    features: tuple[Feature, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A loaded dataset.

    Attributes:
        info: what it says about itself.
        train: the pool that clients, public auxiliary data and held-out non-members are drawn from.
        test: examples for measuring utility and robustness.
        fingerprint: hex digest of the contents; part of every cache key.
    """

    info: DatasetInfo
    train: Examples
    test: Examples
    fingerprint: str
