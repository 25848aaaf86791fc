"""Which labels of a set of examples do not fit the others: out-of-fold loss and neighbours' labels (scikit-learn)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FOLDS = 5
_TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class Suspicion:
    """What the other examples say about each label.

    Attributes:
        loss: ``(n,)`` fp64 in [0, 1]: how far the out-of-fold probability of the given label falls short of the mean
            of such probabilities in its class, as a share of that mean.
        neighbours: ``(n,)`` fp64 in [0, 1], share of the nearest neighbours that have another label.
        proposed: ``(n,)`` int64, the label that both together prefer.
    """

    loss: Tensor
    neighbours: Tensor
    proposed: Tensor


def label_suspicion(x: Tensor, y: Tensor, *, neighbours: int, generator: torch.Generator) -> Suspicion:
    """Judge each label by a model that never saw it and by the examples most like it.

    The model is a logistic regression (``C = 1``, standardised inputs) in `FOLDS` folds that are stratified by label
    (Northcutt, Jiang & Chuang 2021 count on such out-of-fold probabilities). A label that no other example has cannot
    be judged and gets no suspicion.

    Args:
        x: ``(n, ...)`` float inputs.
        y: ``(n,)`` int64 labels.
        neighbours: nearest others asked, by Euclidean distance of the standardised inputs.
        generator: deals the folds.

    Raises:
        ValueError: fewer than 2 examples.
    """
    n = len(y)
    if n < 2:
        raise ValueError(f"labels are judged by other examples, which needs n >= 2, got n = {n}")
    labels = y.cpu().numpy()
    classes, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    inputs = _standardised(x)
    chances = _out_of_fold(inputs, codes, len(classes), generator)
    votes = _votes(inputs, codes, len(classes), min(neighbours, n - 1))
    own = chances[np.arange(n), codes]
    # confident learning: a class is as probable as its examples are on average; less than that is suspicious
    usual = np.bincount(codes, weights=own) / counts
    loss = 1.0 - np.minimum(own / np.maximum(usual[codes], _TINY), 1.0)
    other = 1.0 - votes[np.arange(n), codes]
    alone = counts[codes] < 2
    proposed = (chances / np.maximum(usual, _TINY) + votes).argmax(axis=1)
    return Suspicion(
        loss=torch.from_numpy(np.where(alone, 0.0, loss)),
        neighbours=torch.from_numpy(np.where(alone, 0.0, other)),
        proposed=torch.from_numpy(classes[np.where(alone, codes, proposed)]).to(torch.int64),
    )


def mark_suspects(suspicion: Tensor, *, threshold: float, share: float) -> Tensor:
    """Those above the threshold, the worst ``share`` of all at the most: ``(n,)`` to ``(n,)`` bool."""
    n = len(suspicion)
    marked = torch.zeros(n, dtype=torch.bool)
    worst = suspicion.argsort(descending=True, stable=True)[: math.floor(share * n + 1e-9)]
    marked[worst] = suspicion[worst] > threshold
    return marked


def _standardised(x: Tensor) -> NDArray[Any]:
    """Rows for scikit-learn, ``(n, p)``: every input has mean 0 and variance ``1 / p``; constant ones are 0."""
    rows = x.reshape(len(x), -1).cpu().double().numpy()
    spread = rows.std(axis=0)
    varies = spread > _TINY
    scaled = np.where(varies, (rows - rows.mean(axis=0)) / np.where(varies, spread, 1.0), 0.0)
    return np.asarray(scaled / math.sqrt(max(1, int(varies.sum()))))


def _out_of_fold(inputs: NDArray[Any], codes: NDArray[Any], classes: int, generator: torch.Generator) -> NDArray[Any]:
    """Probability of each class by a model that was not trained on the example, ``(n, classes)``."""
    from sklearn.linear_model import LogisticRegression

    n = len(codes)
    order = torch.randperm(n, generator=generator).numpy()
    order = order[np.argsort(codes[order], kind="stable")]
    fold = np.empty(n, dtype=np.int64)
    fold[order] = np.arange(n) % min(FOLDS, n)
    chances = np.zeros((n, classes))
    for number in np.unique(fold):
        held, train = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        there = np.unique(codes[train])
        if len(there) < 2:
            chances[np.ix_(held, there)] = 1.0
            continue
        model = LogisticRegression(C=1.0, max_iter=1000).fit(inputs[train], codes[train])
        chances[np.ix_(held, model.classes_)] = model.predict_proba(inputs[held])
    return chances


def _votes(inputs: NDArray[Any], codes: NDArray[Any], classes: int, count: int) -> NDArray[Any]:
    """Share of the nearest others that have each label, ``(n, classes)``."""
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(inputs)
    found = near.kneighbors(return_distance=False)  # without rows asked, an example is not its own neighbour
    votes = np.zeros((len(codes), classes))
    np.add.at(votes, (np.arange(len(codes))[:, None], codes[found]), 1.0 / count)
    return votes
