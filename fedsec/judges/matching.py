"""Which reconstruction stands for which true example: one to one, per update, before anything is measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fedsec.data.examples import Examples
from fedsec.judges.base import Truth
from fedsec.protocol.evidence import Reconstructions


@dataclass(frozen=True)
class Pairs:
    """Reconstructions matched one to one to true examples.

    Attributes:
        found: ``(p, *input_shape)`` reconstructions.
        true: ``(p, *input_shape)`` the examples they are matched to.
        labels: ``(p,)`` true classes or targets.
        clusters: ``(p,)`` int64, the source of each pair.
        unmatched: ``(m,)`` int64, the source of each failure that has no pair: a reconstruction beyond the number of
            examples, or one that this attack owed (see `fedsec.judges.reconstruction`).
        agreement: ``(s,)`` share of each source's claimed labels that its examples have, as multisets; empty if
            there are no claims.
        guess: the same where every claim is the most frequent public class.
        examples: ``(s,)`` int64 examples behind each source.
        sources: the round and sender of each source.
    """

    found: Tensor
    true: Tensor
    labels: Tensor
    clusters: Tensor
    unmatched: Tensor
    agreement: Tensor
    guess: Tensor
    examples: Tensor
    sources: tuple[tuple[int, str], ...]


def match(found: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """One-to-one assignment with the least total squared error (Hungarian algorithm).

    Args:
        found: ``(k, *shape)``.
        true: ``(n, *shape)``.

    Returns:
        Rows of ``found`` and of ``true``, ``(min(k, n),)`` each.
    """
    cost = torch.cdist(found.flatten(1).double(), true.flatten(1).double()).square()
    rows, columns = linear_sum_assignment(cost.cpu().numpy())
    return torch.as_tensor(rows), torch.as_tensor(columns)


def multiset_agreement(claimed: Tensor, true: Tensor) -> float:
    """Share of claimed labels that are among the true ones, each true one used once."""
    classes = int(torch.cat([claimed, true]).max()) + 1
    common = torch.minimum(torch.bincount(claimed, minlength=classes), torch.bincount(true, minlength=classes))
    return float(common.sum()) / len(claimed)


def pair_up(evidence: Reconstructions, truth: Truth) -> Pairs:
    """Match the reconstructions of each source to the examples behind it.

    Raises:
        ValueError: a source is not in the truth, or the inputs are tokens.
    """
    if truth.info.bounds is None:
        raise ValueError("tokens have no squared error; this judge measures real-valued inputs")
    low, high = truth.info.bounds
    inputs = evidence.inputs.nan_to_num(nan=(low + high) / 2, posinf=high, neginf=low).clamp(low, high)
    rows_of: dict[tuple[int, str], list[int]] = {}
    for row, source in enumerate(evidence.sources):
        rows_of.setdefault(source, []).append(row)
    missing = [source for source in rows_of if source not in truth.behind]
    if missing:
        raise ValueError(f"no examples are recorded behind {missing[0]}")
    owed = max((len(rows) for rows in rows_of.values()), default=0)
    found, true, labels, clusters, unmatched, sizes = [], [], [], [], [], []
    agreement: list[float] = []
    guess: list[float] = []
    claims = evidence.labels if truth.info.task == "classification" else None
    common = truth.decoys.y.bincount().argmax() if claims is not None else torch.tensor(0)
    for cluster, (source, rows) in enumerate(rows_of.items()):
        behind = truth.behind[source]
        mine, theirs = match(inputs[rows], behind.x)
        found.append(inputs[rows][mine])
        true.append(behind.x[theirs])
        labels.append(behind.y[theirs])
        clusters += [cluster] * len(mine)
        unmatched += [cluster] * (max(len(rows), min(owed, len(behind))) - len(mine))
        sizes.append(len(behind))
        if claims is not None:
            agreement.append(multiset_agreement(claims[rows], behind.y))
            guess.append(multiset_agreement(common.expand(len(rows)), behind.y))
    empty = inputs[:0]
    return Pairs(
        torch.cat(found) if found else empty,
        torch.cat(true) if true else empty,
        torch.cat(labels) if labels else torch.zeros(0, dtype=torch.int64),
        torch.tensor(clusters, dtype=torch.int64),
        torch.tensor(unmatched, dtype=torch.int64),
        torch.tensor(agreement, dtype=torch.float64),
        torch.tensor(guess, dtype=torch.float64),
        torch.tensor(sizes, dtype=torch.int64),
        tuple(rows_of),
    )


def placebo(evidence: Reconstructions, truth: Truth) -> tuple[Pairs, Examples]:
    """The same reconstructions, matched to public examples that the updates were not computed on.

    Matching picks the nearest of all examples behind an update: with many of them any picture has a near one.
    Against as many other examples of the same population a reconstruction has the same freedom and nothing to
    know, so what it scores here is what matching alone gives. With too few public examples the freedom is smaller.

    Returns:
        The pairs, and the public examples that were not used (the decoys of every contest).
    """
    pool = len(truth.decoys)
    most = max((len(truth.behind[source]) for source in evidence.sources), default=0)
    size = min(most, 4 * pool // 5)
    order = torch.randperm(pool, generator=truth.generator)
    others = truth.decoys.take(order[:size])
    behind = {}
    for source in dict.fromkeys(evidence.sources):
        own = torch.randperm(size, generator=truth.generator)[: len(truth.behind[source])]
        behind[source] = others.take(own)
    return pair_up(evidence, replace(truth, behind=behind)), truth.decoys.take(order[size:])
