"""How many examples of each class are behind a gradient, read off the last layer alone.

For cross-entropy the gradient of the head's bias is ``g_c = mean_i (p_ic - y_ic)`` and that of its weight
``G_c = mean_i (p_ic - y_ic) h_i``, with softmax ``p``, one-hot label ``y`` and features ``h``. So
``n_c = n (mean_i p_ic - g_c)``: what is missing is the mean softmax, and the estimators differ in where they take it
from. Counts work for any number of repeats and for more examples than classes.
"""

from __future__ import annotations

from operator import index
from typing import Literal

import torch
from torch import Tensor

STEPS = 5
"""Rounds of the fixed point between class embeddings and counts."""
SMALLEST = 1e-2
"""Singular values below this share of the largest say nothing about the class embeddings."""


def class_sums(weight: Tensor, bias: Tensor | None) -> Tensor:
    """``(C,)`` what the count estimators read: the bias gradient, or the row sums of the weight's."""
    return weight.sum(1) if bias is None else bias


def counts_by_impact(sums: Tensor, examples: int, *, offset: Tensor | None = None) -> Tensor:
    """How many examples each class has (Wainakh et al. 2022, LLG, algorithm 1).

    Each example of a class pulls its sum down by the same *impact*, estimated from the negative sums. Without an offset
    only ratios are used, so that clipping by norm and the unknown scale of several local steps do not matter; but where
    every class is behind the gradient many sums are near 0 and the impact is far too small. With an offset, which is
    what the sum of an absent class would be, one example's impact is the offset's sum over the number of examples.

    Args:
        sums: ``(C,)`` from `class_sums`.
        examples: examples behind the gradient, at least 1.
        offset: ``(C,)`` positive sums that absent classes would have, on the scale of ``sums``.

    Returns:
        ``(C,)`` int64 counts that add up to ``examples``.
    """
    left = sums.double().clone()
    classes = left.numel()
    counts = torch.zeros(classes, dtype=torch.int64)
    negative = torch.nonzero(left < 0).flatten()
    if offset is None:
        impact = float(left[negative].sum()) * (1 + 1 / classes) / examples
    else:
        impact = -float(offset.double().sum()) / examples
    if not impact < 0:
        counts[int(left.argmin())] = examples
        return counts
    for label in negative[left[negative].argsort()][:examples].tolist():
        counts[label] += 1
        left[label] -= impact
    if offset is not None:
        left -= offset.double()
    while int(counts.sum()) < examples:
        label = int(left.argmin())
        counts[label] += 1
        left[label] -= impact
    return counts


def counts_by_moments(sums: Tensor, softmax: Tensor, feature_sum: float, examples: int) -> Tensor:
    """How many examples each class has, from mean softmax and mean feature sum (Geng et al. 2021, section 3.2).

    ``sums_c = mean_i (p_ic - y_ic) o_i``, so ``n_c = n (p_c - sums_c / o)``. Needs the gradient's true scale.

    Args:
        sums: ``(C,)`` from `class_sums`.
        softmax: ``(C,)`` the model's mean prediction on inputs like the victim's.
        feature_sum: mean sum of the head's inputs; 1 if ``sums`` is the bias gradient.
        examples: examples behind the gradient.
    """
    return rounded(examples * (softmax.double() - sums.double() / feature_sum), examples)


def mean_embedding(weight: Tensor, bias: Tensor) -> Tensor:
    """``(f,)`` the features that explain most of all rows at once: least squares over ``G_c = g_c h``."""
    return bias @ weight / bias.square().sum().clamp_min(1e-300)


def mean_softmax(weight: Tensor, bias: Tensor, head: tuple[Tensor, Tensor]) -> Tensor:
    """``(C,)`` the head's prediction at the mean embedding; needs the gradient up to a factor only."""
    return (head[0].double() @ mean_embedding(weight.double(), bias.double()) + head[1].double()).softmax(0)


def amounts_by_embeddings(
    weight: Tensor, bias: Tensor, head: tuple[Tensor, Tensor], examples: int, *, scale: float = 1.0
) -> Tensor:
    """Real-valued counts ``(C,)`` from class embeddings that the gradient itself gives.

    Ma et al. 2023 (iLRG, ICLR, section 3) take ``G_c / g_c`` for the embedding of class ``c``, the head's softmax
    there for that of its examples, and solve the linear system ``g = (P^T - I) n / n_all``. The division explodes
    where ``g_c`` is near 0, as it is for every class of a balanced batch. Here the same equations are solved by a
    fixed point: one mean embedding by least squares over all rows, ``h = sum g_c G_c / sum g_c^2``, and from it
    counts; with them the deviation of each class from ``h`` as the least solution of ``(P^T - I) diag(n) D = G - g h``;
    then counts again. Exact where all examples of a class have one softmax.

    Args:
        weight: ``(C, f)`` gradient of the head's weight.
        bias: ``(C,)`` gradient of its bias.
        head: the head's weight ``(C, f)`` and bias ``(C,)`` that the gradient was taken at.
        examples: examples behind the gradient.
        scale: what both gradients were multiplied by.
    """
    g, sums = weight.double(), bias.double()
    w, b = (part.double() for part in head)
    centre = mean_embedding(g, sums)
    softmax = (w @ centre + b).softmax(0).expand(len(b), -1)
    amounts = examples * (softmax[0] - sums / scale)
    deviation = (g - torch.outer(sums, centre)) / scale
    identity = torch.eye(len(b), dtype=g.dtype, device=g.device)
    for _ in range(STEPS):
        share = amounts.clamp_min(0)
        share = share / share.sum().clamp_min(1e-300)
        system = (softmax.T - identity) * share
        embeddings = centre + torch.linalg.pinv(system, rtol=SMALLEST) @ deviation
        softmax = (embeddings @ w.T + b).softmax(1)
        amounts = examples * (share @ softmax - sums / scale)
    return amounts


def rounded(amounts: Tensor, total: int) -> Tensor:
    """Non-negative integers that add up to ``total``, in proportion to ``(C,)`` amounts (largest remainder)."""
    share = amounts.double().clamp_min(0)
    whole = float(share.sum())
    share = torch.full_like(share, total / share.numel()) if whole <= 0 else share * (total / whole)
    counts = share.floor().to(torch.int64)
    rest = total - int(counts.sum())
    counts[(share - counts).argsort(descending=True, stable=True)[:rest]] += 1
    return counts


def label_counts(
    weight_grad: Tensor,
    bias_grad: Tensor | None,
    *,
    batch_size: int,
    method: Literal["moments", "impact", "embeddings"] = "moments",
    scale: float = 1.0,
    softmax: Tensor | None = None,
    feature_sum: float | None = None,
    head: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """How many examples of each class are behind the gradient of a classifier's last layer under cross-entropy.

    A FedAvg delta (local minus global model) has the opposite sign and, after ``s`` local steps at rate ``r``, about
    ``r s`` times the length of a gradient: pass it with ``scale=-r * s``.

    ``moments`` (Geng et al. 2021) needs the mean softmax and, for a head without bias, the mean sum of the head's
    inputs. Where they are not given, the softmax is taken as uniform, which an untrained network's nearly is, and the
    feature sum as the least that makes no count negative, which is right if some class is absent from the batch.
    ``impact`` (Wainakh et al. 2022) uses the length of the gradient only if it is told the softmax; without, its counts
    are poor where every class is present. ``embeddings`` (after Ma et al. 2023) reads the softmax off the
    gradient itself with the head's parameters, and is the most accurate where it can be used.

    Args:
        weight_grad: ``(C, f)`` mean gradient of the head's weight over the batch.
        bias_grad: ``(C,)`` that of its bias, or ``None`` if it has none.
        batch_size: examples behind the gradient, at least 1.
        method: the estimator.
        scale: what the gradients were multiplied by; negative for a delta.
        softmax: ``(C,)`` mean prediction of the model on inputs like the victim's.
        feature_sum: mean sum of the head's inputs, for ``moments`` and ``impact`` without a bias.
        head: weight ``(C, f)`` and bias ``(C,)`` of the head at the model the gradient was taken at (``embeddings``).

    Returns:
        ``(C,)`` int64, none negative, which add up to ``batch_size``.

    Raises:
        ValueError: a shape, the batch size, the scale or the method is impossible; says what was found.
    """
    _check(weight_grad, bias_grad, batch_size, scale, softmax, head)
    examples = index(batch_size)
    weight = weight_grad.detach().cpu().double() / scale
    bias = None if bias_grad is None else bias_grad.detach().cpu().double() / scale
    sums = class_sums(weight, bias)
    given = None if softmax is None else softmax.detach().cpu().double()
    if method == "embeddings":
        if bias is None or head is None:
            lacking = "bias_grad" if bias is None else "head=(weight, bias)"
            raise ValueError(f"the method 'embeddings' needs bias_grad and head=(weight, bias); {lacking} is missing")
        parameters = head[0].detach().cpu(), head[1].detach().cpu()
        return rounded(amounts_by_embeddings(weight, bias, parameters, examples), examples)
    if method == "impact":
        if given is None or (bias is None and feature_sum is None):
            return counts_by_impact(sums, examples)
        features = 1.0 if feature_sum is None or bias is not None else feature_sum
        return counts_by_impact(sums, batch_size, offset=given * features)
    if method != "moments":
        raise ValueError(f"method must be 'moments', 'impact' or 'embeddings', found {method!r}")
    expected = torch.full_like(sums, 1 / len(sums)) if given is None else given
    if bias is not None:
        features = 1.0
    elif feature_sum is not None:
        features = feature_sum
    else:
        features = float((sums / expected.clamp_min(1e-12)).max())
    if features == 0:
        # all rows sum to zero: nothing tells the classes apart
        return rounded(expected, examples)
    return counts_by_moments(sums, expected, features, examples)


def _check(
    weight: Tensor,
    bias: Tensor | None,
    batch_size: int,
    scale: float,
    softmax: Tensor | None,
    head: tuple[Tensor, Tensor] | None,
) -> None:
    if weight.ndim != 2 or weight.shape[0] < 2 or not weight.shape[1]:
        raise ValueError(f"weight_grad must be (classes, features) of 2 classes or more, found {tuple(weight.shape)}")
    classes = weight.shape[0]
    for name, vector in (("bias_grad", bias), ("softmax", softmax)):
        if vector is not None and vector.shape != (classes,):
            raise ValueError(f"{name} must be ({classes},) like weight_grad's rows, found {tuple(vector.shape)}")
    if head is not None and (head[0].shape != weight.shape or head[1].shape != (classes,)):
        found = tuple(head[0].shape), tuple(head[1].shape)
        raise ValueError(f"head must be {tuple(weight.shape)} and ({classes},), found {found[0]} and {found[1]}")
    if isinstance(batch_size, bool) or not hasattr(batch_size, "__index__") or index(batch_size) < 1:
        raise ValueError(f"batch_size must be an integer of at least 1, found {batch_size!r}")
    if not scale:
        raise ValueError(f"scale must not be 0, found {scale!r}")
    if not bool(weight.isfinite().all()) or (bias is not None and not bool(bias.isfinite().all())):
        raise ValueError("weight_grad and bias_grad must be finite, found inf or nan")
