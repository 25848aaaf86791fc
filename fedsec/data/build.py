"""Put a dataset together: check it, split it where it has no official split, and name its contents by a hash."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsec.data.examples import Dataset, DatasetInfo, Examples
from fedsec.errors import DataError
from fedsec.randomness import numpy_generator

_TASKS = ("classification", "regression", "next-token")
_ROUNDING = 1e-5  # float32 scaling may step over a bound by this much


def build_dataset(info: DatasetInfo, *, train: Examples, test: Examples) -> Dataset:
    """A dataset whose examples are what its info says, with the fingerprint of its contents.

    Raises:
        DataError: shapes, types, labels, attributes or bounds differ from ``info``; names the first difference.
    """
    if info.task not in _TASKS:
        raise DataError(f"dataset {info.name!r}: the task is {info.task!r}, not one of {', '.join(_TASKS)}")
    for part, examples in (("train", train), ("test", test)):
        fault = _fault(info, examples)
        if fault:
            raise DataError(f"dataset {info.name!r}, {part} examples: {fault}")
    return Dataset(info=info, train=train, test=test, fingerprint=fingerprint(train, test))


def fingerprint(train: Examples, test: Examples) -> str:
    """SHA-256 hex digest over names, types, shapes and bytes of everything the two hold."""
    digest = hashlib.sha256()
    for part, examples in (("train", train), ("test", test)):
        named = [("x", examples.x), ("y", examples.y)]
        named += [(f"attributes.{name}", examples.attributes[name]) for name in sorted(examples.attributes)]
        for name, tensor in named:
            digest.update(f"{part}.{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
            array = tensor.detach().cpu().contiguous().numpy()
            digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def stratified_rows(
    strata: NDArray[np.int64], test: int, *, purpose: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of a train and a test part with the same shares of every stratum (largest remainders), each shuffled.

    Args:
        strata: ``(n,)`` stratum of each row.
        test: rows of the test part, at most n.
        purpose: what the split is for; with the sizes it fixes the draw, whatever the seed of an audit.

    Returns:
        train rows ``(n - test,)`` and test rows ``(test,)``, disjoint.
    """
    draw = numpy_generator("dataset-split", purpose, len(strata), test)
    _, codes, counts = np.unique(strata, return_inverse=True, return_counts=True)
    quota = counts * (test / len(strata))
    taken = np.floor(quota).astype(np.int64)
    taken[np.argsort(taken - quota, kind="stable")[: test - int(taken.sum())]] += 1
    shuffled = draw.permutation(len(strata))
    by_stratum = shuffled[np.argsort(codes[shuffled], kind="stable")]
    rank = np.arange(len(strata)) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = rank < np.repeat(taken, counts)
    return draw.permutation(by_stratum[~chosen]), draw.permutation(by_stratum[chosen])


def above_class_median(value: Tensor, y: Tensor, *, reference_value: Tensor, reference_y: Tensor) -> Tensor:
    """1 where an example's value exceeds the median of its class: an attribute that says nothing about the label.

    Args:
        value: ``(n,)`` a scalar of each example, such as its mean ink.
        y: ``(n,)`` classes.
        reference_value: ``(m,)`` values that the medians are taken over (the train examples).
        reference_y: ``(m,)`` their classes; every class of ``y`` must occur.

    Returns:
        ``(n,)`` int64 of 0 and 1.
    """
    threshold = torch.zeros(int(max(y.max(), reference_y.max())) + 1, dtype=torch.float64)
    for label in torch.unique(reference_y).tolist():
        threshold[label] = reference_value[reference_y == label].double().quantile(0.5)
    return (value.double() > threshold[y]).long()


def _fault(info: DatasetInfo, examples: Examples) -> str:
    """What is wrong with the examples, or nothing."""
    x, y = examples.x, examples.y
    tokens = info.bounds is None
    if tuple(x.shape[1:]) != tuple(info.input_shape):
        return f"inputs have shape {tuple(x.shape[1:])}, expected {tuple(info.input_shape)}"
    wanted = torch.int64 if tokens else torch.float32
    if x.dtype != wanted:
        return f"inputs are {x.dtype}, expected {wanted} ({'no bounds: token ids' if tokens else 'inputs with bounds'})"
    if len(y) != len(x):
        return f"{len(x)} inputs and {len(y)} targets"
    for name, value in examples.attributes.items():
        if value.dtype != torch.int64 or tuple(value.shape) != (len(x),):
            return f"attribute {name!r} is {value.dtype} {tuple(value.shape)}, expected torch.int64 ({len(x)},)"
    if len(x) == 0:
        return "there are none"
    return _target_fault(info, y) or _input_fault(info, x)


def _target_fault(info: DatasetInfo, y: Tensor) -> str:
    shape = (len(y), *info.input_shape) if info.task == "next-token" else (len(y),)
    wanted = torch.float32 if info.task == "regression" else torch.int64
    if y.dtype != wanted or tuple(y.shape) != shape:
        return f"targets are {y.dtype} {tuple(y.shape)}, expected {wanted} {shape} for {info.task}"
    if info.task == "regression":
        return "" if bool(torch.isfinite(y).all()) else "some targets are not finite"
    limit = len(info.classes) if info.task == "classification" else info.vocabulary
    low, high = int(y.min()), int(y.max())
    return "" if low >= 0 and high < limit else f"targets run from {low} to {high}, expected 0 to {limit - 1}"


def _input_fault(info: DatasetInfo, x: Tensor) -> str:
    low, high = float(x.min()), float(x.max())
    if info.bounds is None:
        fine = low >= 0 and high < info.vocabulary
        return "" if fine else f"tokens run from {low:g} to {high:g}, expected 0 to {info.vocabulary - 1}"
    if not bool(torch.isfinite(x).all()):
        return "some inputs are not finite"
    if low < info.bounds[0] - _ROUNDING or high > info.bounds[1] + _ROUNDING:
        return f"inputs run from {low:g} to {high:g}, expected {info.bounds[0]:g} to {info.bounds[1]:g}"
    return ""
