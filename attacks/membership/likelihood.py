"""The tests of LiRA and RMIA on plain tensors: scores in, scores out."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def likelihood_ratio(target: Tensor, shadows: Tensor, inside: Tensor, *, per_sample: bool) -> Tensor:
    """LiRA's online score: log of the likelihood of the target's confidence if trained on the example, over if not.

    Both likelihoods are Gaussian with each example's own median over its shadows as centre (Carlini et al. 2022,
    algorithm 1, with medians as in the authors' code). The variance is each example's own, or one for all examples:
    the mean of their variances, each of which is estimated from few shadows. (The authors' code takes the variance of
    all values at once there, which adds the spread between examples, and gives the spread of the members to the
    non-members; neither is done here.)

    Args:
        target: ``(m,)`` confidences under the attacked model.
        shadows: ``(s, m)`` confidences under the shadow models.
        inside: ``(s, m)`` bool, whether the shadow was trained on the example; at least two of each kind per example.
        per_sample: whether each example has a variance of its own.

    Returns:
        ``(m,)`` float64, higher means member.
    """
    parts = []
    for kind in (inside, ~inside):
        centre, deviation = _gaussian(shadows, kind, per_sample=per_sample)
        parts.append(-0.5 * ((target.double() - centre) / deviation).square() - deviation.log())
    return parts[0] - parts[1]


def outside_score(target: Tensor, shadows: Tensor, *, per_sample: bool, inside: Tensor | None = None) -> Tensor:
    """LiRA's offline score: in how many deviations the target's confidence exceeds that of models without the example.

    One-sided (Carlini et al. 2022, section IV-D): ``1 - Pr[Z > confidence]`` grows with it, and unlike that
    probability it does not round to 1.

    Args:
        target: ``(m,)``.
        shadows: ``(s, m)`` confidences under the shadow models.
        per_sample: whether each example has a variance of its own.
        inside: ``(s, m)`` bool, shadows that were trained on the example and are not looked at; none by default.
            At least two must be left for each example.
    """
    outside = torch.ones_like(shadows, dtype=torch.bool) if inside is None else ~inside
    centre, deviation = _gaussian(shadows, outside, per_sample=per_sample)
    return (target.double() - centre) / deviation


def _gaussian(shadows: Tensor, chosen: Tensor, *, per_sample: bool) -> tuple[Tensor, Tensor]:
    """Medians ``(m,)`` and deviations ``(m,)`` or ``()`` of the chosen values of each column."""
    counts = chosen.sum(0)
    if int(counts.min()) < 2:
        raise ValueError("each example needs two shadows of each kind at the least")
    values = shadows.double()
    centre = torch.where(chosen, values, torch.nan).nanquantile(0.5, dim=0)
    means = torch.where(chosen, values, 0.0).sum(0) / counts
    squares = torch.where(chosen, (values - means).square(), 0.0).sum(0)
    # One variance for all is the pooled one within examples.
    variance = squares / (counts - 1) if per_sample else squares.sum() / (counts - 1).sum()
    return centre, variance.sqrt().clamp_min(1e-6)


def marginal(shadows: Tensor, inside: Tensor, *, a: float | None = None) -> Tensor:
    """RMIA's log ``p(x)``: the mean over models with and without the example (Zarifzadeh et al. 2024, section 3).

    Args:
        shadows: ``(s, n)`` log-probabilities of the true label.
        inside: ``(s, n)`` bool, whether the model was trained on the example.
        a: if given, models with the example are not looked at and ``a p_out + (1 - a)`` stands for their mean (their
            appendix B.2): 1 says that training on an example changes nothing, 0 that it is then predicted surely.

    Returns:
        ``(n,)`` float64; not a number where a kind of model is missing.
    """
    log_out = _log_mean(shadows, ~inside)
    if a is None:
        return torch.logaddexp(_log_mean(shadows, inside), log_out) - math.log(2)
    sure = log_out.new_tensor(math.log1p(-a) if a < 1 else -math.inf)
    return torch.logaddexp(log_out + math.log1p(a), sure) - math.log(2)


def _log_mean(values: Tensor, chosen: Tensor) -> Tensor:
    counts = chosen.sum(0).double()
    total = torch.logsumexp(values.double().masked_fill(~chosen, -math.inf), 0)
    mean: Tensor = torch.where(counts > 0, total - counts.log(), math.nan)
    return mean


def pairwise_ratio(candidates: Tensor, population: Tensor, *, gamma: float) -> Tensor:
    """RMIA's score: the share of population examples that the candidate's likelihood ratio dominates.

    A candidate dominates ``z`` if ``[p(x|model) / p(x)] / [p(z|model) / p(z)] >= gamma`` (their section 3). With
    few population examples many candidates dominate equally many; among those the one with the larger ratio of its
    own comes first, as it would with more examples.

    Args:
        candidates: ``(m,)`` log of ``p(x|model) / p(x)``.
        population: ``(n,)`` the same of population examples.
        gamma: at least 1.

    Returns:
        ``(m,)`` float64 in ``[0, 1]``.
    """
    ordered = population.double().sort().values
    dominated = torch.searchsorted(ordered, candidates.double() - math.log(gamma), right=True)
    distinct, rank = torch.unique(candidates.double(), return_inverse=True)
    score: Tensor = (dominated + rank.double() / len(distinct)) / (len(ordered) + 1)
    return score
