"""Labels read from the gradient of the last layer, before any image is reconstructed.

For cross-entropy the gradient of the head's bias is ``mean_i (p_i - y_i)`` and that of its weight
``mean_i (p_i - y_i) h_i^T``, with softmax ``p``, one-hot label ``y`` and features ``h``. Callers pass gradients:
an update has the opposite sign.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedsec.models.flat import FlatModel

from .layers import LinearSlots

ONE_SIGN = 0.99
"""Share of a row's absolute sum that its sum must keep for the features to count as of one sign."""


def sign_rule(weight: Tensor, bias: Tensor | None) -> int:
    """The label of a single example (Zhao, Mopuri, Bilen 2020, iDLG, section 3).

    With a bias: the class of the only negative entry. Without: rows are ``(p_c - y_c) h``, so with features of
    one sign (ReLU, sigmoid) the label's row has the only negative sum, and with features of both signs it is the
    longest row, since ``1 - p_y`` is the sum of all other ``p_c`` (two classes then tie and cannot be told apart).

    Args:
        weight: ``(C, f)`` gradient of the head's weight.
        bias: ``(C,)`` gradient of its bias, or ``None``.
    """
    if bias is not None:
        return int(bias.argmin())
    sums, absolute = weight.sum(1), weight.abs().sum(1)
    if bool((sums.abs().sum() >= ONE_SIGN * absolute.sum()).item()):
        return int(sums.argmin())
    return int(weight.norm(dim=1).argmax())


def class_sums(weight: Tensor, bias: Tensor | None) -> Tensor:
    """``(C,)`` what the count estimators read: the bias gradient, or the row sums of the weight's."""
    return weight.sum(1) if bias is None else bias


def counts_by_impact(sums: Tensor, examples: int) -> Tensor:
    """How many examples each class has (Wainakh et al. 2022, LLG, algorithm 1).

    Each example of a class pulls its sum down by the same *impact*, estimated from the negative sums. Uses ratios
    only, so that clipping by norm and the unknown scale of several local steps do not matter.

    Args:
        sums: ``(C,)`` from `class_sums`.
        examples: examples behind the gradient, at least 1.

    Returns:
        ``(C,)`` int64 counts that add up to ``examples``.
    """
    left = sums.double().clone()
    classes = left.numel()
    counts = torch.zeros(classes, dtype=torch.int64)
    impact = float(left[left < 0].sum()) * (1 + 1 / classes) / examples
    if not impact < 0:
        counts[int(left.argmin())] = examples
        return counts
    negative = torch.nonzero(left < 0).flatten()
    for label in negative[left[negative].argsort()][:examples].tolist():
        counts[label] += 1
        left[label] -= impact
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


def rounded(amounts: Tensor, total: int) -> Tensor:
    """Non-negative integers that add up to ``total``, in proportion to ``(C,)`` amounts (largest remainder)."""
    share = amounts.double().clamp_min(0)
    whole = float(share.sum())
    share = torch.full_like(share, total / share.numel()) if whole <= 0 else share * (total / whole)
    counts = share.floor().to(torch.int64)
    rest = total - int(counts.sum())
    counts[(share - counts).argsort(descending=True, stable=True)[:rest]] += 1
    return counts


def recover(
    model: FlatModel,
    state: Tensor,
    gradient: Tensor,
    slots: LinearSlots,
    *,
    examples: int,
    wanted: int,
    inputs: Tensor,
) -> Tensor:
    """Labels of the ``wanted`` reconstructions of one update, as a sorted multiset.

    The sign rule for one example. Up to as many examples as classes, counts by impact, which is the more accurate
    there; beyond, impact finds no offset to start from and counts by moments takes over. Counts of other than
    as many examples as are wanted are scaled in proportion.

    Args:
        model: the architecture.
        state: ``(d,)`` the global model.
        gradient: ``(p,)`` gradient, up to a positive factor.
        slots: the head (`fedsec.attacks.inversion.layers.head`).
        examples: examples behind the gradient.
        wanted: labels to return.
        inputs: ``(m, *input_shape)`` where the model's mean prediction is taken; only for counts by moments.

    Returns:
        ``(wanted,)`` int64.
    """
    weight, bias = slots.read(gradient)
    if examples == 1:
        return torch.full((wanted,), sign_rule(weight, bias))
    sums = class_sums(weight, bias).cpu()
    counts = None
    if examples > sums.numel():
        softmax, feature_sum = moments(model, slots, state, inputs)
        if feature_sum > 0:
            counts = counts_by_moments(sums, softmax.cpu(), feature_sum, examples)
    if counts is None:
        counts = counts_by_impact(sums, examples)
    if wanted != examples:
        counts = rounded(counts, wanted)
    return torch.repeat_interleave(torch.arange(counts.numel()), counts)


def moments(model: FlatModel, slots: LinearSlots, vector: Tensor, inputs: Tensor) -> tuple[Tensor, float]:
    """Mean softmax ``(C,)`` and mean feature sum of the model on some inputs (1 if the head has a bias)."""
    module = model.instance(vector)
    sums: list[float] = []
    layer = module.get_submodule(slots.weight.layer)
    handle = layer.register_forward_hook(lambda _, args, __: sums.append(float(args[0].sum(-1).mean())))
    with torch.no_grad():
        softmax = module(inputs).softmax(-1).mean(0)
    handle.remove()
    return softmax, 1.0 if slots.bias is not None else sums[-1]
