"""The input of a linear layer read off its gradient, in closed form.

The algebra is in `closed_form`; here are the attack, and what it takes to tell examples from mixtures in a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from scipy.optimize import nnls
from torch import Tensor

from fedsec.protocol.evidence import Reconstructions
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.view import View
from fedsec.threat import Knowledge, Paper

from .base import Inversion, claimed_labels, threat_of
from .closed_form import leading_direction, rows_alone, scaled_to_bounds, single_input
from .layers import first_layer
from .observed import saturated
from .victims import Victim, choose

MOST_ROWS = 512
"""Rows that are compared with each other at most."""
MOST_COMPARED = 64
"""Candidates that are tested for being mixtures at most."""
MIXTURE = 3.0
"""Error of a mixture's weights against that of one row."""
ROUNDING = 8.0
"""Units of rounding of the layer's largest weight up to which a difference counts as zero."""


@dataclass(frozen=True)
class Candidates:
    """Inputs read off one layer, best first.

    Attributes:
        inputs: ``(k, f)``.
        agreeing: ``(k,)`` rows that gave this input.
        inside: ``(k,)`` share of its values within the bounds.
    """

    inputs: Tensor
    agreeing: Tensor
    inside: Tensor


def is_mixture(point: Tensor, others: Tensor, *, tolerance: float) -> bool:
    """Whether a point ``(f,)`` is a convex combination of others ``(k, f)``, up to a root-mean-square error.

    Rows in which several examples are active with one sign give convex combinations of them, so examples are the
    corners of what all rows give.
    """
    size = others.shape[1]
    system = torch.cat([others.T, torch.full((1, len(others)), float(size)).to(others)]).double().cpu().numpy()
    goal = torch.cat([point, torch.full((1,), float(size)).to(point)]).double().cpu().numpy()
    _, residual = nnls(system, goal)
    return bool(residual <= tolerance * size**0.5)


def distinct_inputs(inputs: Tensor, weights: Tensor, *, bounds: tuple[Tensor, Tensor], agreement: float) -> Candidates:
    """Cluster the rows that give equal inputs, and rank the clusters by self-consistency.

    A mixture of several examples is in general given by one row only and often leaves the bounds; an example that is
    alone in two rows is given twice. So clusters are ranked by the number of rows that agree, then by the share of
    values inside the bounds, then by weight; rows are visited in the order of how many others they agree with.
    Agreement is no proof: early in training examples of one class pull all rows alike, and a mixture of them is given
    more than once. So a candidate that is a convex combination of others comes after all that are not (`is_mixture`).

    Args:
        inputs: ``(m, f)`` what each row gives.
        weights: ``(m,)`` inverse variance of each up to a factor, positive; the heaviest `MOST_ROWS` are used.
        bounds: lowest and highest value of each of the layer's inputs, ``(f,)`` each.
        agreement: largest root-mean-square difference of equal inputs, as a share of the width of the bounds.
    """
    low, high = bounds
    width = (high - low).clamp_min(1e-30)
    heaviest = weights.argsort(descending=True)[:MOST_ROWS]
    inputs, weights = inputs[heaviest], weights[heaviest]
    unit = inputs / width
    apart = torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist") / unit.shape[1] ** 0.5
    near = apart <= agreement
    free = torch.ones(len(inputs), dtype=torch.bool, device=inputs.device)
    found: list[Tensor] = []
    rank: list[tuple[int, float, float]] = []
    for row in near.sum(1).argsort(descending=True, stable=True).tolist():
        members = near[row] & free
        if not bool(free[row]):
            continue
        share = weights[members].unsqueeze(1)
        centre = (inputs[members] * share).sum(0) / share.sum()
        margin = agreement * width
        inside = float(((centre >= low - margin) & (centre <= high + margin)).double().mean())
        found.append(centre)
        rank.append((int(members.sum()), inside, float(share.sum())))
        free &= ~members
    best = sorted(range(len(found)), key=lambda k: rank[k], reverse=True)
    plausible = [k for k in best if rank[k][1] == 1.0][:MOST_COMPARED]
    mixtures: list[int] = []
    for k in reversed(plausible):
        others = [found[j] / width for j in plausible if j != k and j not in mixtures]
        if others and is_mixture(found[k] / width, torch.stack(others), tolerance=MIXTURE * agreement):
            mixtures.append(k)
    best = [k for k in best if k not in mixtures] + mixtures[::-1]
    stacked = torch.stack(found)[best] if found else inputs
    return Candidates(
        stacked,
        torch.tensor([rank[k][0] for k in best]).to(inputs),
        torch.tensor([rank[k][1] for k in best]).to(inputs),
    )


@dataclass(frozen=True, kw_only=True)
class LinearLayerInversion(Inversion):
    """Reads inputs off the first linear layer if it sees the raw input (up to the model's own normalisation).

    One example behind the update: least squares over all rows, exact whatever the number of local steps. Several:
    clusters of rows (`distinct_inputs`); exact for examples that are alone in a row. A layer without a bias gives the
    direction of the input only, scaled to the bounds. Labels are read from the head where the model has one
    (a multiset: which image has which label is not claimed). Where a part of the update is sealed, one example is read
    off the open entries of all rows, several off rows that are open as a whole. Updates that carry weight decay,
    momentum or adaptive scaling of coordinates blur the ratio for batches; nothing is undone.
    """

    name: ClassVar[str] = "linear-layer-inversion"
    summary: ClassVar[str] = "Reads training inputs off the update of the first linear layer in closed form"
    paper: ClassVar[Paper | None] = Paper(
        title="Privacy-Preserving Deep Learning via Additively Homomorphic Encryption",
        authors="Phong, Aono, Hayashi, Wang, Moriai",
        venue="IEEE TIFS 2018",
        where="section 3; Geiping et al., NeurIPS 2020, proposition 3.1",
    )
    threat = threat_of("A curious server divides two numbers of an update and reads the input.", Knowledge.COUNTS)
    cost: ClassVar[str] = "one comparison of all rows of a layer per victim"

    targets: Annotated[int, Field(ge=1, description="Updates attacked, those with the fewest examples first")] = 32
    max_examples: Annotated[int, Field(ge=1, description="Inputs per update at most, by default")] = 16
    per_update: Annotated[
        int, Field(ge=0, description="Inputs returned per update; 0: as many as examples, up to max_examples")
    ] = 0
    agreement: Annotated[
        float, Field(gt=0, description="Largest rms difference of equal inputs, as a share of their range")
    ] = 0.001

    def run(self, view: View, facts: PublicFacts, *, generator: torch.Generator) -> Reconstructions:
        """Attack the view.

        Raises:
            NotApplicable: tokens, or no linear layer reads the raw input.
        """
        victims = choose(view, facts, targets=self.targets)
        return self.collect(victims, facts, generator=generator)

    def wanted(self, victim: Victim) -> int:
        """Inputs that are returned for one update."""
        return self.per_update or min(victim.examples, self.max_examples)

    def attack(
        self, victims: tuple[Victim, ...], size: int, facts: PublicFacts, *, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Read ``size`` inputs off each of some victims."""
        inputs, confidence = zip(*(self.read(victim, size, facts) for victim in victims), strict=True)
        return torch.stack(inputs), self.claims(victims, size, facts, generator), torch.stack(confidence)

    def claims(
        self, victims: tuple[Victim, ...], size: int, facts: PublicFacts, generator: torch.Generator
    ) -> Tensor | None:
        """Labels where the model has a head to read them from."""
        if facts.model.task != "classification":
            return None
        try:
            return claimed_labels(victims, [-victim.update for victim in victims], size, facts, generator=generator)
        except NotApplicable:
            return None

    def read(self, victim: Victim, size: int, facts: PublicFacts) -> tuple[Tensor, Tensor]:
        """Inputs ``(size, *input_shape)`` and their confidence ``(size,)``."""
        shape = facts.info.input_shape
        low, high = facts.info.bounds or (0.0, 1.0)
        layer = first_layer(facts.model, victim.model, shape)
        weight, bias = layer.slots.read(victim.update)
        # entries that clipping by value cut off, or that are sealed, say nothing; a row without its bias nothing at all
        cut = saturated(victim.update.unsqueeze(0))[0]
        cut_weight, cut_bias = layer.slots.read(cut if victim.where is None else cut | ~victim.where)
        keep_entries = ~cut_weight if cut_bias is None else ~(cut_weight | cut_bias.unsqueeze(1))
        ends = torch.stack([low * layer.scale + layer.shift, high * layer.scale + layer.shift])
        bounds = ends.amin(0), ends.amax(0)
        if victim.examples == 1:
            seen = (
                scaled_to_bounds(leading_direction(weight), *bounds)
                if bias is None
                else single_input(weight, bias, keep_entries)
            )
            found, scores = seen.view(1, -1), weight.new_full((1,), float(len(weight)))
        else:
            share = weight.norm(dim=1) if bias is None else bias.abs()
            parameters, _ = layer.slots.read(victim.model)
            rounding = ROUNDING * torch.finfo(share.dtype).eps * float(parameters.abs().max())
            keep = (share > rounding) & keep_entries.all(1)
            rows = weight[keep]
            rows = scaled_to_bounds(rows, *bounds) if bias is None else rows_alone(rows, bias[keep])
            candidates = distinct_inputs(rows, share[keep].square(), bounds=bounds, agreement=self.agreement)
            found, scores = candidates.inputs, candidates.agreeing + candidates.inside - 1
        flat = (found - layer.shift) / layer.scale
        centre = (low + high) / 2
        filled = flat.new_full((size, flat.shape[1]), centre)
        confidence = flat.new_full((size,), -1.0)
        many = min(size, len(flat))
        filled[:many], confidence[:many] = flat[:many].clamp(low, high), scores[:many]
        return filled.view(size, *shape), confidence
