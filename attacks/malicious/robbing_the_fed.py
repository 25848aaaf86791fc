"""Robbing the Fed: bins on a linear query of the input, so that examples alone in their bin can be read off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec.protocol.evidence import Reconstructions
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.parties import Planted
from fedsec.protocol.view import View
from fedsec.threat import Knowledge, Paper

from ..inversion.layers import first_layer
from ..inversion.victims import choose
from .base import Malicious, gathered, planting, real_inputs
from .imprint import Rows, in_front, in_place
from .queries import brightness, cosine_mode, gaussian_quantiles, shares_below, smoothed_quantiles

ROUNDING = 4.0
"""Units of rounding of a bias up to which its change counts as zero."""


def cumulative_rows(query: Tensor, edges: Tensor, *, lowest: float, scale: float) -> Rows:
    """Rows that are active above each bin's lower edge: one query, ``k`` biases (Fowl et al. 2022, section 3.2).

    Args:
        query: ``(f,)``.
        edges: ``(k - 1,)`` between the bins, ascending.
        lowest: below every query of an input; the lower edge of the first bin.
        scale: multiplies weights and biases.
    """
    lower = torch.cat([edges.new_tensor([lowest]), edges])
    return scale * query.expand(len(lower), -1), -scale * lower


def step_rows(query: Tensor, edges: Tensor, *, lowest: float, highest: float, scale: float) -> tuple[Rows, float]:
    """Rows whose step activation is between its ends inside one bin only (Fowl et al. 2022, the sparse variant).

    Returns:
        The rows, and the height of the step: a row rises from 0 to it over the width of its bin. It is ``scale`` times
        the median width, so that the median row is ``scale`` times the query.
    """
    ends = torch.cat([edges.new_tensor([lowest]), edges, edges.new_tensor([highest])])
    width = (ends[1:] - ends[:-1]).clamp_min(1e-12)
    height = scale * float(width.median())
    return (height * query / width.unsqueeze(1), -height * ends[:-1] / width), height


def per_bin(weight: Tensor, bias: Tensor, *, cumulative: bool) -> Rows:
    """What the examples of each bin did to its row.

    Args:
        weight: ``(k, f)`` update or gradient of the rows, lowest bin first.
        bias: ``(k,)`` that of their biases.
        cumulative: neighbouring rows are differenced; the last bin has no row above it and stays.
    """
    if not cumulative:
        return weight, bias
    none = torch.zeros_like(bias[:1])
    return weight - torch.cat([weight[1:], torch.zeros_like(weight[:1])]), bias - torch.cat([bias[1:], none])


def read_bins(weight: Tensor, bias: Tensor, *, rounding: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Inputs of occupied bins, ``weight_i / bias_i``.

    Divides only where the bias changed by more than rounding. If more bins changed than there are examples (under
    noise all do) the largest weight changes are taken: rows near zero would explode.

    Args:
        weight: ``(k, f)`` from `per_bin`.
        bias: ``(k,)``.
        rounding: ``(k,)`` changes of the bias up to this count as zero.
        most: bins that are taken at most.

    Returns:
        Inputs ``(r, f)`` and the bins ``(r,)`` they are from, largest weight change first.
    """
    length = torch.where(bias.abs() > rounding, weight.norm(dim=1), torch.zeros_like(bias))
    taken = length.argsort(descending=True, stable=True)[:most]
    taken = taken[length[taken] > 0]
    return weight[taken] / bias[taken].unsqueeze(1), taken


@dataclass(frozen=True, kw_only=True)
class RobbingTheFed(Malicious):
    """Fowl et al. 2022: ``k`` rows that read one linear query, with biases at its public quantiles.

    Exact for examples alone in their bin after one local step of plain SGD on the whole shard (the paper's setting). A
    second step finds the rows moved: bins overlap, and what is read decays. Rows are small, so that rounding is; the
    smaller ``scale``, the more exact one step and the more fragile several. Every occupied bin is returned, those with
    several examples (mixtures, hence wrong) included.
    """

    name: ClassVar[str] = "robbing-the-fed"
    summary: ClassVar[str] = "Plants a layer of bins on a linear query and reads off each example that is alone in one"
    paper: ClassVar[Paper | None] = Paper(
        title="Robbing the Fed: Directly Obtaining Private Data in Federated Learning with Modified Models",
        authors="Fowl, Geiping, Czaja, Goldblum, Goldstein",
        venue="ICLR 2022",
        where="section 3.2, equations 3 to 6",
    )
    threat = planting(
        "A malicious server sends a model with a layer that sorts examples into bins, and reads them off the update.",
        Knowledge.COUNTS,
        Knowledge.AUXILIARY_DATA,
    )
    cost: ClassVar[str] = "bins x inputs more parameters to send; one division per bin to read"

    bins: Annotated[int, Field(ge=2, description="Bins k")] = 256
    variant: Annotated[
        Literal["cumulative", "sparse", "one-shot"],
        Field(
            description="cumulative: ReLU rows that are differenced; sparse: step activations, one bin each; one-shot:"
            " only the middle one of these bins"
        ),
    ] = "cumulative"
    placement: Annotated[
        Literal["auto", "block", "first-layer"],
        Field(
            description="block: in front of the model, which changes the architecture; first-layer: in the model's own"
            " rows; auto: those where they can hold the bins"
        ),
    ] = "auto"
    query: Annotated[
        Literal["brightness", "cosine"],
        Field(description="What is sorted by: the mean of all values, or a mode of the discrete cosine transform"),
    ] = "brightness"
    mode: Annotated[
        tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]],
        Field(description="Half periods over height and width of the cosine"),
    ] = (0, 1)
    statistics: Annotated[
        Literal["auxiliary", "gaussian"],
        Field(
            description="Edges of the bins: smoothed quantiles of public examples, or of the normal distribution with"
            " their mean and deviation"
        ),
    ] = "auxiliary"
    scale: Annotated[float, Field(gt=0, description="Length of the rows, in those of the query")] = 0.01
    gain: Annotated[float, Field(gt=0, description="Length of the columns behind the rows")] = 1.0

    def vector(self, facts: PublicFacts) -> Tensor:
        """``(f,)`` the query."""
        shape = facts.info.input_shape
        if self.query == "brightness":
            return brightness(shape)
        try:
            return cosine_mode(shape, self.mode)
        except ValueError as error:
            raise NotApplicable(str(error)) from error

    def edges(self, facts: PublicFacts) -> Tensor:
        """``(bins - 1,)`` between bins of equal public mass."""
        values = facts.auxiliary.x.flatten(1).double().cpu() @ self.vector(facts)
        shares = shares_below(self.bins)
        if self.statistics == "gaussian":
            return gaussian_quantiles(float(values.mean()), float(values.std()), shares)
        return smoothed_quantiles(values, shares)

    def rows(self, facts: PublicFacts) -> tuple[Rows, float | None]:
        """What is planted, on the flattened input, and the height of the steps if they are not ReLUs."""
        low, high = real_inputs(facts)
        query, edges = self.vector(facts), self.edges(facts)
        ends = torch.stack([query * low, query * high])
        lowest, highest = float(ends.amin(0).sum()), float(ends.amax(0).sum())
        margin = 0.01 * (highest - lowest)
        step = None
        if self.variant == "cumulative":
            weight, bias = cumulative_rows(query, edges, lowest=lowest - margin, scale=self.scale)
        else:
            (weight, bias), step = step_rows(
                query, edges, lowest=lowest - margin, highest=highest + margin, scale=self.scale
            )
            if self.variant == "one-shot":
                middle = slice(self.bins // 2, self.bins // 2 + 1)
                weight, bias = weight[middle], bias[middle]
        return (weight.float(), bias.float()), step

    def plant(self, model: Tensor, facts: PublicFacts, *, generator: torch.Generator) -> Planted:
        """See `MaliciousServer.plant`.

        Raises:
            NotApplicable: the inputs are tokens, or the rows do not fit where they are wanted.
        """
        rows, step = self.rows(facts)
        if self.placement != "block" and step is None:
            try:
                shape = facts.info.input_shape
                return in_place(facts.model, model, shape, rows, gain=self.gain, generator=generator)
            except NotApplicable:
                if self.placement == "first-layer":
                    raise
        elif self.placement == "first-layer":
            raise NotApplicable(f"the {self.variant} variant needs step activations, which the model's own layer lacks")
        return in_front(facts.model, model, rows, gain=self.gain, step=step, equal=True, generator=generator)

    def run(self, view: View, facts: PublicFacts, *, generator: torch.Generator) -> Reconstructions:
        """Read every occupied bin of every upload."""
        victims = choose(view, facts, targets=len(view.events))
        count = 1 if self.variant == "one-shot" else self.bins
        found = []
        for victim in victims:
            layer = first_layer(facts.model, victim.model, facts.info.input_shape)
            planted, change = layer.slots.read(victim.model), layer.slots.read(victim.update)
            if planted[1] is None or change[1] is None:
                raise NotApplicable("the planted layer has no bias")
            size = planted[1][:count].abs()
            rounding = ROUNDING * torch.finfo(size.dtype).eps * torch.maximum(size, size.roll(-1))
            cumulative = self.variant == "cumulative"
            weight, bias = per_bin(change[0][:count].double(), change[1][:count].double(), cumulative=cumulative)
            seen, bins = read_bins(weight, bias, rounding=rounding.double(), most=victim.examples)
            inputs = (seen - layer.shift) / layer.scale
            found.append((inputs.to(victim.update), bias[bins].abs().to(victim.update)))
        return gathered(victims, found, facts)
