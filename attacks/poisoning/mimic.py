"""Mimic: all malicious clients send what one honest client sends, which buries the others' data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec import geometry
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import CoalitionView
from fedsec.threat import Paper, ThreatModel

from .model import SharedVector, known_updates
from .texts import model_threat
from .vectors import check_honest, mean_of


def mimic(H: Tensor, *, f: int, n: int, target: int | None = None) -> Tensor:
    """A copy of one row of ``H`` (Karimireddy et al. 2022, section 4.2 and appendix B), ``(h, d)`` to ``(d,)``.

    Args:
        H: ``(h, d)``.
        f: the adversary's updates.
        n: updates in the round.
        target: the row; ``None`` is the one that reaches furthest along the direction of largest variance,
            ``argmax_i |z . x_i|`` with the first principal axis ``z`` of the rows (the smallest index of equals).

    Raises:
        ValueError: no row ``target``, the matrix is empty or not finite, or not ``0 < f < n``.
    """
    check_honest(H, f, n)
    h = H.shape[0]
    if target is not None and not 0 <= target < h:
        raise ValueError(f"target must be one of the rows 0..{h - 1}, got {target}")
    if target is None:
        target = int(reaches(H, principal_axis(H)).abs().argmax())
    return H[target].clone()


def principal_axis(H: Tensor) -> Tensor:
    """The unit vector ``z (d,)`` along which the rows vary most; zero if they do not vary.

    Its sign is the one with a non-negative ``z . mean``.
    """
    mean = mean_of(H)
    products = geometry.gram(H, centre=mean)
    values, vectors = torch.linalg.eigh(products)
    largest = float(values[-1])
    if largest <= 0.0:
        return torch.zeros_like(mean)
    shares = vectors[:, -1] / largest**0.5
    # z = sum_i s_i (x_i - mean): as one sum of rows, so that no centred copy is made
    axis = geometry.combine(H, shares - shares.mean())
    return -axis if float(geometry.dots(mean.unsqueeze(0), axis)) < 0 else axis


def oja_step(H: Tensor, mean: Tensor, axis: Tensor, *, step: int) -> tuple[Tensor, Tensor]:
    """One round of the paper's streaming estimate of mean and principal axis (appendix B).

    ``mean <- (t mean + mean(H)) / (t + 1)`` and ``z <- (t z + g / |g|) / (t + 1)``, scaled to norm 1, with
    ``g = sum_i (x_i - mean) (x_i - mean) . z``.

    Args:
        H: ``(h, d)`` rows of this round.
        mean: ``(d,)`` of the rounds before.
        axis: ``(d,)`` ``z`` of the rounds before.
        step: ``t >= 1``, the rounds before.
    """
    mean = (step * mean + mean_of(H)) / (step + 1)
    along = reaches(H, axis) - geometry.dots(mean.unsqueeze(0), axis)
    pulled = geometry.combine(H, along).double() - float(along.sum()) * mean.double()
    length = float(torch.linalg.vector_norm(pulled))
    if length == 0.0:
        return mean, axis
    moved = (step * axis.double() + pulled / length) / (step + 1)
    norm = float(torch.linalg.vector_norm(moved))
    return mean, (moved / norm).to(axis.dtype) if norm > 0 else axis


def reaches(H: Tensor, axis: Tensor) -> Tensor:
    """``z . x_i`` of each row, ``(h,)`` fp64."""
    return geometry.dots(H, axis)


@dataclass(frozen=True, kw_only=True)
class Mimic(SharedVector):
    """Mimic.

    For ``warmup`` rounds it learns the direction of largest variance of the honest updates and copies the client that
    so far reached furthest along it; then it stays with that client. That needs the same clients in every
    round. Where a round is a sample of the population, rows have no names: it learns the direction all the same
    and in each round copies the row that reaches furthest. Without ``omniscient`` it copies one of its own clients'
    honest updates.
    """

    warmup: Annotated[int, Field(ge=1, description="Rounds in which it looks for the client to copy")] = 10
    target: Annotated[
        int | None, Field(ge=0, description="Row that it copies (counted modulo the rows it knows); empty: it chooses")
    ] = None

    name: ClassVar[str] = "mimic"
    summary: ClassVar[str] = "Sends copies of one honest update, so that the others' data count for less"
    paper: ClassVar[Paper | None] = Paper(
        title="Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing",
        authors="Karimireddy, He, Jaggi",
        venue="ICLR 2022",
        where="section 4.2 and appendix B",
    )
    threat: ClassVar[ThreatModel] = model_threat(
        "Some participants copy one honest participant, so that nobody looks suspicious and the others are outvoted",
        may_be_omniscient=True,
    )
    cost: ClassVar[str] = "honest training of the controlled clients, then h d"
    _least: ClassVar[int] = 1

    def vector(self, known: Tensor, *, f: int, n: int) -> Tensor:
        """`mimic` of the known updates."""
        return mimic(known, f=f, n=n, target=None if self.target is None else self.target % len(known))

    def craft(self, coalition: CoalitionView, facts: PublicFacts, *, generator: torch.Generator) -> Tensor:
        """Copies of one known update, ``(k, d)``."""
        if self.target is not None:
            return super().craft(coalition, facts, generator=generator)
        known = known_updates(coalition, omniscient=self.omniscient)
        everybody = facts.cohort >= facts.population
        row = known[self._chosen(known, coalition.state, everybody=everybody)]
        return row.expand_as(coalition.own).clone()

    def _chosen(self, known: Tensor, state: dict[str, Tensor], *, everybody: bool) -> int:
        """The row to copy; keeps mean, axis, reaches so far and the number of rounds in the coalition's state."""
        seen = int(state.get("mimic rounds", torch.zeros(())))
        total = state.get("mimic reaches")
        same = everybody and total is not None and len(total) == len(known)
        if seen >= self.warmup and same and total is not None:
            return int(total.abs().argmax())
        if seen == 0:
            mean, axis = mean_of(known), principal_axis(known)
        elif seen < self.warmup:
            mean, axis = oja_step(known, state["mimic mean"], state["mimic axis"], step=seen)
        else:
            mean, axis = state["mimic mean"], state["mimic axis"]
        now = reaches(known, axis)
        total = total + now if same and total is not None else now
        state.update(
            {"mimic mean": mean, "mimic axis": axis, "mimic reaches": total, "mimic rounds": torch.tensor(seen + 1)}
        )
        return int(total.abs().argmax())
