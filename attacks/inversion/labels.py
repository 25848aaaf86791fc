"""Labels read from the gradient of the last layer, before any image is reconstructed.

For cross-entropy the gradient of the head's bias is ``mean_i (p_i - y_i)`` and that of its weight
``mean_i (p_i - y_i) h_i^T``, with softmax ``p``, one-hot label ``y`` and features ``h``. Callers pass gradients:
an update has the opposite sign. Counts of a batch are estimated in `counts`; here the model is known too, so its
softmax need not be guessed, and the gradient's scale is inferred where clipping or several steps changed it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedsec.models.flat import FlatModel

from .counts import amounts_by_embeddings, class_sums, counts_by_impact, mean_softmax, rounded
from .layers import LinearSlots

ONE_SIGN = 0.99
"""Share of a row's absolute sum that its sum must keep for the features to count as of one sign."""
WHOLE = 0.15
"""Root-mean-square distance to integers up to which amounts count as counts (amounts at random have 0.29)."""
SCALES = 1000
"""Scales that are tried, evenly on a log axis."""
SLACK = 0.8
"""Times the lowest scale from which scales are tried: the softmax that gives it is an estimate."""
TOO_EVEN = 0.05
"""Share of the variation that chance gives the counts of drawn labels; a scale that leaves less is not believed."""


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


def unwhole(amounts: Tensor) -> Tensor:
    """Root-mean-square distance of ``(..., C)`` amounts to integers, ``inf`` where one is negative; ``(...,)``."""
    distance = (amounts - amounts.round()).square().mean(-1).sqrt()
    return torch.where((amounts > -0.5).all(-1), distance, torch.inf)


def scale_bounds(sums: Tensor, softmax: Tensor, examples: int) -> tuple[float, float]:
    """Between which factors a gradient's scale must lie, ``sums = scale (softmax - n_c / n)``.

    At least such that the classes with positive sums have no fewer examples than none together. At most such
    that the counts still differ from what the model predicts by `TOO_EVEN` of what chance gives.

    Args:
        sums: ``(C,)`` what the counts are read from.
        softmax: ``(C,)`` mean prediction.
        examples: examples behind the gradient.
    """
    positive = sums > 0
    lowest = float(sums[positive].sum() / softmax[positive].sum().clamp_min(1e-12))
    chance = TOO_EVEN * (1 - 1 / len(sums)) / examples
    return lowest, max(lowest, float((sums.square().sum() / chance).sqrt()))


def best_scale(sums: Tensor, softmax: Tensor, examples: int) -> float:
    """What a gradient was multiplied by, if not by 1.

    A gradient that was clipped or summed over steps has lost its length. 1 is kept if it makes the counts whole
    numbers; else it is the factor between `scale_bounds` that does; and where none does, 1 if it is within the
    bounds and else the lowest.

    Args:
        sums: ``(C,)`` what the counts are read from.
        softmax: ``(C,)`` mean prediction.
        examples: examples behind the gradient.
    """
    lowest, highest = scale_bounds(sums, softmax, examples)
    if not lowest > 0:
        return 1.0
    within = SLACK * lowest <= 1 <= highest
    if within and float(unwhole(examples * (softmax - sums))) <= WHOLE:
        return 1.0
    first, last = math.log10(SLACK * lowest), math.log10(highest)
    scales = torch.logspace(first, last, SCALES, dtype=torch.float64)
    distance = unwhole(examples * (softmax - sums / scales.unsqueeze(1)))
    if float(distance.min()) <= WHOLE:
        return float(scales[distance.argmin()])
    return 1.0 if within else lowest


def counts(
    weight: Tensor, bias: Tensor | None, head: tuple[Tensor, Tensor | None], mean: tuple[Tensor, float], examples: int
) -> Tensor:
    """How many examples of each class are behind a gradient of unknown scale (`best_scale`), with the model known.

    With a bias, class embeddings give the softmax (`counts.amounts_by_embeddings`), unless they lead to negative
    counts, as on a trained model, whose features differ within a class: then the softmax is taken as uniform. Without a
    bias it is the model's mean on other inputs (`counts.counts_by_moments`), or impact if features sum to
    nothing positive.

    Args:
        weight: ``(C, f)`` gradient of the head's weight, up to a positive factor.
        bias: ``(C,)`` that of its bias, or ``None``.
        head: the head's weight and bias.
        mean: softmax ``(C,)`` and feature sum of the model on some inputs.
        examples: examples behind the gradient.
    """
    sums, softmax, features = class_sums(weight, bias).double(), mean[0].double(), mean[1]
    if bias is None or head[1] is None:
        if features <= 0:
            return counts_by_impact(sums, examples)
        sums = sums / features
        return rounded(examples * (softmax - sums / best_scale(sums, softmax, examples)), examples)
    parameters = head[0], head[1]
    scale = best_scale(sums, mean_softmax(weight, bias, parameters), examples)
    found = amounts_by_embeddings(weight, bias, parameters, examples, scale=scale)
    if not bool((found > -0.5).all()):
        found = examples * (1 / len(sums) - sums / scale)
    return rounded(found, examples)


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

    The sign rule for one example, `counts` for more. Counts of other than as many examples as are wanted are scaled in
    proportion.

    Args:
        model: the architecture.
        state: ``(d,)`` the global model.
        gradient: ``(p,)`` gradient, up to a positive factor.
        slots: the head (`fedsec.attacks.inversion.layers.head`).
        examples: examples behind the gradient.
        wanted: labels to return.
        inputs: ``(m, *input_shape)`` where the model's mean prediction is taken; only for heads without bias.

    Returns:
        ``(wanted,)`` int64.
    """
    weight, bias = slots.read(gradient)
    if examples == 1:
        return torch.full((wanted,), sign_rule(weight, bias))
    weight, bias = weight.cpu().double(), None if bias is None else bias.cpu().double()
    softmax, feature_sum = moments(model, slots, state, inputs)
    found = counts(weight, bias, _on_cpu(slots.read(state)), (softmax.cpu(), feature_sum), examples)
    if wanted != examples:
        found = rounded(found, wanted)
    return torch.repeat_interleave(torch.arange(found.numel()), found)


def _on_cpu(head: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
    return head[0].cpu().double(), None if head[1] is None else head[1].cpu().double()


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
