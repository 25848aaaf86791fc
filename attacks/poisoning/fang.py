"""The attacks of Fang et al. 2020 on Krum and on the coordinate-wise rules.

Rows are updates, so the paper's ``w_Re``, the model that clients were sent, is zero here. ``s`` are the signs in
which the model would change without the attack; the malicious updates go the other way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec import geometry
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import CoalitionView
from fedsec.threat import Paper, ThreatModel

from .model import SharedVector, known_updates, strength
from .texts import model_threat
from .vectors import check_honest, deviation_of, mean_of

Reference = Literal["krum", "mean"]

_FANG = Paper(
    title="Local Model Poisoning Attacks to Byzantine-Robust Federated Learning",
    authors="Fang, Cao, Jia, Gong",
    venue="USENIX Security 2020",
    where="section 4",
)


def fang_krum(
    H: Tensor,
    *,
    f: int,
    n: int,
    direction: Reference = "krum",
    partial: bool = False,
    threshold: float = 1e-5,
) -> Tensor:
    """The attack on Krum (Fang et al. 2020, section 4.2): ``-lambda s``, as long as Krum takes it.

    ``lambda`` starts at the paper's bound (theorem 1), ``min_i sum_l D(x_l, x_i) / ((m - 2c - 1) sqrt(d)) +
    max_i |x_i| / sqrt(d)`` with the ``m - c - 2`` nearest ``l``, and is halved until Krum (squared distances,
    ``m - c - 2`` neighbours) takes one of the malicious copies or it falls below ``threshold``. The attacked round is
    simulated on the Gram matrix: a trial costs ``m^2``. All copies are equal; the paper's others differ by
    at most 0.01.

    Args:
        H: ``(h, d)`` updates that are known, ``h >= 3``.
        f: the adversary's updates ``c``.
        n: updates in the round.
        direction: ``s`` are the signs of the row that Krum takes of ``H`` (the rule's result before the attack), or of
            the mean (the paper's estimate from own updates).
        partial: ``H`` are the adversary's own updates before the attack. The round is then simulated with these
            and first 1, then up to ``f`` copies (section 4.2, partial knowledge), ``c`` being the copies. Otherwise
            ``m = h + f`` and ``c = f``.
        threshold: smallest ``lambda``, in the unit of a coordinate of the updates.

    Raises:
        ValueError: ``threshold`` is not positive, not ``n >= 2f + 3`` and ``h >= f + 3`` (without ``partial``), fewer
            than three rows, not finite, or not ``0 < f < n``.
    """
    check_honest(H, f, n, least=3)
    h, d = H.shape
    if not threshold > 0:
        raise ValueError(f"threshold must be positive, got {threshold}")
    if not partial and (n < 2 * f + 3 or h < f + 3):
        raise ValueError(f"Krum needs n >= 2f + 3 and h >= f + 3, got n = {n}, h = {h} and f = {f}")
    distances = geometry.squared_distances(geometry.centred_gram(H))
    before = H[_krum(distances, neighbours=max(h - f - 2, 1))] if direction == "krum" else mean_of(H)
    signs = torch.sign(before)
    squares, along, size = geometry.row_norms(H).square(), geometry.dots(H, signs), float(signs.abs().sum())
    strength = 0.0
    for copies in range(1, f + 1) if partial else (f,):
        count = h - 2  # m - c - 2 with m = h + c
        nearest = distances.sort(dim=1).values[:, 1 : count + 1].sqrt().sum(dim=1)
        bound = float(nearest.min()) / max(h - copies - 1, 1) + float(squares.max().sqrt())
        strength = bound / math.sqrt(d)
        while strength >= threshold:
            off = (squares + 2.0 * strength * along + strength**2 * size).clamp_min(0.0)
            if _krum(_with_copies(distances, off, copies), neighbours=count) >= h:
                return (-strength * signs).to(H.dtype)
            strength /= 2.0
    return (-strength * signs).to(H.dtype)


def fang_trim(
    H: Tensor,
    *,
    f: int,
    n: int,
    b: float = 2.0,
    partial: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The attack on trimmed mean and median (Fang et al. 2020, section 4.3), ``(h, d)`` to ``(d,)``.

    Where the mean of ``H`` falls, a value above all of ``H``: uniform between the largest and ``b`` times it (its
    ``b``-th part, if it is negative); where it grows, one below all of ``H`` in the same manner. With ``partial``,
    ``H`` are the adversary's own updates, and the value lies 3 to 4 standard deviations above or below
    their mean. The paper takes these intervals of models; of updates they do not depend on where the model is.

    Args:
        H: ``(h, d)``; with ``partial`` ``h >= 2``.
        f: the adversary's updates.
        n: updates in the round.
        b: the paper's ``b``, above 1.
        partial: see above.
        generator: of the uniform draws, on the CPU; ``None`` takes the middle of each interval.

    Raises:
        ValueError: not ``b > 1``, too few rows, not finite, or not ``0 < f < n``.
    """
    check_honest(H, f, n, least=2 if partial else 1)
    if not b > 1.0:
        raise ValueError(f"b must be above 1, got {b}")
    mean = mean_of(H)
    falls = mean < 0
    if generator is None:
        where = torch.full_like(mean, 0.5)
    else:
        where = torch.rand(H.shape[1], generator=generator, dtype=torch.float32).to(device=H.device, dtype=H.dtype)
    if partial:
        away = (3.0 + where) * deviation_of(H)
        return torch.where(falls, mean + away, mean - away)
    highest, lowest = H.max(dim=0).values, H.min(dim=0).values
    above = highest * torch.where(highest > 0, 1.0 + where * (b - 1.0), 1.0 - where * (1.0 - 1.0 / b))
    below = lowest * torch.where(lowest > 0, 1.0 - where * (1.0 - 1.0 / b), 1.0 + where * (b - 1.0))
    return torch.where(falls, above, below)


def _krum(distances: Tensor, *, neighbours: int) -> int:
    """The row with the smallest sum of squared distances to its nearest others; the first of equals."""
    others = distances.clone().fill_diagonal_(-1.0).sort(dim=1).values[:, 1 : neighbours + 1]
    return int(others.sum(dim=1).argmin())


def _with_copies(distances: Tensor, off: Tensor, copies: int) -> Tensor:
    """Squared distances ``(h + c, h + c)`` of ``h`` rows and ``c`` equal ones that are ``off (h,)`` away from them."""
    block = off.unsqueeze(1).expand(-1, copies)
    return torch.cat([torch.cat([distances, block], dim=1), torch.cat([block.t(), off.new_zeros(copies, copies)], 1)])


@dataclass(frozen=True, kw_only=True)
class FangKrum(SharedVector):
    """The attack on Krum; by default with the paper's partial knowledge.

    A Krum for ``f`` withstands ``n >= 2f + 3``; an adversary with more updates counts as the largest ``f`` that
    fits. With fewer than three known updates, or a round of fewer than five, its clients send what their training gave.
    """

    threshold: Annotated[float, Field(gt=0.0, description="Smallest lambda tried (units of a coordinate)")] = 1e-5

    name: ClassVar[str] = "fang-krum"
    summary: ClassVar[str] = "Sends the reversed signs of the update, as large as Krum still selects"
    paper: ClassVar[Paper | None] = _FANG
    threat: ClassVar[ThreatModel] = model_threat(
        "Some participants agree on an update against what the others learn, as long as Krum takes it for the best one",
        may_be_omniscient=True,
    )
    _least: ClassVar[int] = 3

    def vector(self, known: Tensor, *, f: int, n: int) -> Tensor:
        """`fang_krum` of the known updates."""
        if self.omniscient:
            fits = min(f, (n - 3) // 2, len(known) - 3)
            if fits < 1:
                return mean_of(known)
            return fang_krum(known, f=fits, n=n, threshold=self.threshold)
        return fang_krum(known, f=f, n=n, direction="mean", partial=True, threshold=self.threshold)


@dataclass(frozen=True, kw_only=True)
class FangTrim(SharedVector):
    """The attack on trimmed mean and median; each controlled client draws its own values."""

    b: Annotated[float, Field(gt=1.0, description="Values lie between the extreme honest one and b times it")] = 2.0

    name: ClassVar[str] = "fang-trim"
    summary: ClassVar[str] = (
        "Sends values just beyond the honest ones in each coordinate, on the side that undoes learning"
    )
    paper: ClassVar[Paper | None] = _FANG
    threat: ClassVar[ThreatModel] = model_threat(
        "Some participants send values a little beyond everybody else's, so that trimmed averages shift their way",
        may_be_omniscient=True,
    )
    cost: ClassVar[str] = "honest training of the controlled clients, then h d"

    def vector(self, known: Tensor, *, f: int, n: int) -> Tensor:
        """`fang_trim` of the known updates, without randomness."""
        return fang_trim(known, f=f, n=n, b=self.b, partial=not self.omniscient)

    def craft(self, coalition: CoalitionView, facts: PublicFacts, *, generator: torch.Generator) -> Tensor:
        """One draw per controlled client, ``(k, d)``; their own updates while too few are known."""
        known = known_updates(coalition, omniscient=self.omniscient)
        if len(known) < self._least:
            return coalition.own
        f, n = strength(coalition)
        partial = not self.omniscient
        rows = [fang_trim(known, f=f, n=n, b=self.b, partial=partial, generator=generator) for _ in coalition.clients]
        return torch.stack(rows).to(coalition.own)
