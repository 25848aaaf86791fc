"""Malicious updates as pure functions of honest updates: ``(H (h, d), f, n) -> (d,)``.

``H`` are the updates that the adversary knows: those of its own clients, or all honest ones. ``f`` of the ``n``
updates of the round are its own. Updates point downhill (local minus global model); a sign that a paper gives for
gradients is the same here, because both the mean and the deviation change sign.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Literal

import torch
from torch import Tensor

from fedsec import geometry

Direction = Literal["std", "unit", "sign"]


def sign_flip(H: Tensor, *, f: int, n: int, scale: float = 1.0) -> Tensor:
    """``-scale * mean(H)``.

    This is the form for an adversary that sends one vector for all its clients; the plugin flips each client's own
    update, which is the attack of Karimireddy et al. 2021 (scale 1) and Li et al. 2019 (scale 4).

    Raises:
        ValueError: the matrix is empty or not finite, or not ``0 < f < n``.
    """
    check_honest(H, f, n)
    return -scale * mean_of(H)


def ipm(H: Tensor, *, f: int, n: int, epsilon: float | None = None) -> Tensor:
    """Inner-product manipulation (Xie et al. 2020, section 4): ``-epsilon * mean(H)``.

    Small values (0.1 to 0.5) evade distance-based rules. The plain mean's inner product with the honest mean turns
    negative only beyond ``(n - f) / f``.

    Args:
        H: ``(h, d)``.
        f: the adversary's updates.
        n: updates in the round.
        epsilon: ``None`` is ``2 (n - f) / f``, which makes the plain mean ``-(n - f) / n`` times the honest one.

    Raises:
        ValueError: the matrix is empty or not finite, or not ``0 < f < n``.
    """
    check_honest(H, f, n)
    return -(2.0 * (n - f) / f if epsilon is None else epsilon) * mean_of(H)


def alie_z(*, f: int, n: int) -> float:
    """The largest deviation that enough honest clients exceed (Baruch et al. 2019, algorithm 3).

    ``s = floor(n / 2 + 1) - f`` honest clients must be further out than the attackers for these to be in
    the majority; ``z = Phi^-1((n - f - s) / (n - f))``. It is 0 for ``n = 12, f = 2`` and negative for smaller shares:
    there the attack has no room.

    Raises:
        ValueError: not ``0 < f < floor(n / 2 + 1)``; a majority needs no stealth and has no finite ``z``.
    """
    supporters = n // 2 + 1 - f
    if f < 1 or supporters < 1:
        raise ValueError(f"alie needs 1 <= f <= floor(n / 2) = {n // 2}, got f = {f} and n = {n}")
    share = (n - f - supporters) / (n - f)
    return NormalDist().inv_cdf(share) if share > 0 else -math.inf


def alie(H: Tensor, *, f: int, n: int, z: float | None = None) -> Tensor:
    """A Little Is Enough (Baruch et al. 2019, algorithm 3): ``mean(H) + z * std(H)`` per coordinate.

    Args:
        H: ``(h, d)``, ``h >= 2``; the standard deviation is the sample's (divisor ``h - 1``).
        f: the adversary's updates.
        n: updates in the round.
        z: standard deviations; ``None`` is `alie_z`.

    Raises:
        ValueError: fewer than two rows, not finite, or ``f`` and ``n`` without a finite ``z``.
    """
    check_honest(H, f, n, least=2)
    deviation = alie_z(f=f, n=n) if z is None else z
    if not math.isfinite(deviation):
        raise ValueError(f"n = {n} and f = {f} have no finite z; give one")
    return mean_of(H) + deviation * deviation_of(H)


def gaussian(H: Tensor, *, f: int, n: int, generator: torch.Generator, mean: float = 0.0, sigma: float = 1.0) -> Tensor:
    """Independent coordinates from ``N(mean, sigma^2)``, in the unit of the updates (Blanchard et al. 2017, section 6).

    Args:
        H: ``(h, d)``; gives size, dtype and device, its values do not matter.
        f: the adversary's updates.
        n: updates in the round.
        generator: on the CPU; the numbers are drawn there, so that they are the same on every device.
        mean: of a coordinate.
        sigma: standard deviation of a coordinate.

    Raises:
        ValueError: ``sigma`` is negative or not finite, the matrix is empty or not finite, or not ``0 < f < n``.
    """
    check_honest(H, f, n)
    if not (0.0 <= sigma < math.inf and math.isfinite(mean)):
        raise ValueError(f"needs a finite mean and a finite sigma >= 0, got mean = {mean} and sigma = {sigma}")
    draw = torch.randn(H.shape[1], generator=generator, dtype=torch.float32)
    return (mean + sigma * draw).to(device=H.device, dtype=H.dtype)


def min_max(H: Tensor, *, f: int, n: int, direction: Direction = "std") -> Tensor:
    """Min-Max (Shejwalkar & Houmansadr 2021, section 4.3): ``mean(H) + gamma * p``, in closed form.

    ``gamma`` is the largest for which no distance to a row of ``H`` exceeds the largest distance between two of
    them. ``|mean + gamma p - x_i|^2`` is quadratic in gamma, so it is the smallest of the positive roots;
    the paper searches for it.

    Args:
        H: ``(h, d)``, ``h >= 2``.
        f: the adversary's updates.
        n: updates in the round.
        direction: ``p``: ``std`` is ``-std(H)``, ``unit`` is ``-mean / |mean|``, ``sign`` is ``-sign(mean)``.

    Raises:
        ValueError: fewer than two rows, not finite, or not ``0 < f < n``.
    """
    mean, push, to_mean, along, squared = _frame(H, f, n, direction)
    if squared == 0.0:
        return mean
    limit = geometry.squared_distances(geometry.centred_gram(H)).max()
    # g^2 |p|^2 + 2 g p.(mean - x_i) + |mean - x_i|^2 = limit; the constant term is never above the limit
    roots = (-along + (along.square() + squared * (limit - to_mean).clamp_min(0.0)).sqrt()) / squared
    return mean + float(roots.min().clamp_min(0.0)) * push


def min_sum(H: Tensor, *, f: int, n: int, direction: Direction = "std") -> Tensor:
    """Min-Sum (Shejwalkar & Houmansadr 2021, section 4.3): ``mean(H) + gamma * p``, in closed form.

    ``gamma`` is the largest for which the sum of squared distances to the rows of ``H`` does not exceed that of any
    row. The cross terms cancel about the mean: ``gamma = sqrt((S - sum_i |mean - x_i|^2) / (h |p|^2))``.

    Args:
        H: ``(h, d)``, ``h >= 2``.
        f: the adversary's updates.
        n: updates in the round.
        direction: as for `min_max`.

    Raises:
        ValueError: fewer than two rows, not finite, or not ``0 < f < n``.
    """
    mean, push, to_mean, _, squared = _frame(H, f, n, direction)
    if squared == 0.0:
        return mean
    limit = geometry.squared_distances(geometry.centred_gram(H)).sum(dim=1).max()
    gamma = ((limit - to_mean.sum()).clamp_min(0.0) / (len(H) * squared)).sqrt()
    return mean + float(gamma) * push


def _frame(H: Tensor, f: int, n: int, direction: Direction) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    """Mean, push, ``|mean - x_i|^2 (h,)``, ``p.(mean - x_i) (h,)`` and ``|p|^2``."""
    check_honest(H, f, n, least=2)
    mean = mean_of(H)
    push = push_along(H, mean, direction)
    to_mean = geometry.row_norms(H, centre=mean).square()
    along = geometry.dots(mean.unsqueeze(0), push) - geometry.dots(H, push)
    return mean, push, to_mean, along, float(geometry.row_norms(push.unsqueeze(0)).square())


def push_along(H: Tensor, mean: Tensor, direction: Direction) -> Tensor:
    """``p (d,)``, by which updates are pushed off their mean: ``-std(H)``, ``-mean / |mean|`` or ``-sign(mean)``.

    A mean of zero has no direction; there the last two are zero. For ``std`` the matrix needs two rows.
    """
    if direction == "std":
        return -deviation_of(H)
    if direction == "sign":
        return -torch.sign(mean)
    norm = float(torch.linalg.vector_norm(mean.double()))
    return -mean / norm if norm > 0 else torch.zeros_like(mean)


def mean_of(H: Tensor) -> Tensor:
    """Mean of the rows with fp64 sums, ``(h, d)`` to ``(d,)``."""
    return geometry.combine(H, torch.full((H.shape[0],), 1.0 / H.shape[0], dtype=torch.float64))


def deviation_of(H: Tensor) -> Tensor:
    """Sample standard deviation of each coordinate (divisor ``h - 1``) with fp64 sums, ``(h, d)`` to ``(d,)``."""
    result = torch.empty_like(H[0])
    for span in geometry.spans(H.shape[1]):
        block = H[:, span].double()
        spread = (block - block.mean(dim=0)).square().sum(dim=0) / (H.shape[0] - 1)
        result[span] = spread.sqrt().to(H.dtype)
    return result


def check_honest(H: Tensor, f: int, n: int, *, least: int = 1) -> None:
    """Refuse what no attack can work with.

    Raises:
        ValueError: fewer than ``least`` rows, rows that are not finite (they are named), or not ``0 < f < n``.
    """
    geometry.check_rows(H, least=least)
    if not 0 < f < n:
        raise ValueError(f"needs 0 < f < n, got f = {f} and n = {n}")
