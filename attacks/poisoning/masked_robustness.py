"""Feigned robustness: clients that enlarge the model's logits, so that gradients vanish and attacks seem to fail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec.models.flat import Layout, Slot
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import Adversary, CoalitionView
from fedsec.threat import Paper, Taxonomy, ThreatModel

from .model import known_updates, strength
from .texts import ATLAS, NIST, OWASP, Fraction, model_threat

_FIRST = "first length"

FEIGNED = (
    Taxonomy(NIST, "NISTAML.026", "Model Poisoning", "exact"),
    Taxonomy(ATLAS, "AML.T0018.000", "Poison AI Model", "exact"),
    Taxonomy(ATLAS, "AML.T0031", "Erode AI Model Integrity", "partial"),
    Taxonomy(OWASP, "ML10", "Model Poisoning", "exact"),
)


def enlarged(model: Tensor, layout: Layout, factor: float) -> Tensor:
    """A model whose last layer is multiplied, and its logits with it if that layer gives them, ``(d,)`` to ``(d,)``."""
    result = model.clone()
    for slot in last_slots(layout):
        result[slot.start : slot.stop] *= factor
    return result


def last_slots(layout: Layout) -> tuple[Slot, ...]:
    """The parameters of the last layer."""
    last = layout.parameters[-1].layer
    return tuple(slot for slot in layout.parameters if slot.layer == last)


def reach(own: Tensor, toward: Tensor, known: Tensor, *, slack: float) -> Tensor:
    """How far each row may go along a direction before it is farther from a known update than any two of them are.

    The largest ``g`` with ``|own_i + g t - h_j| <= slack max_jk |h_j - h_k|`` for all ``j`` and the unit vector
    ``t`` of the row, as in the Min-Max attack (Shejwalkar and Houmansadr, NDSS 2021, section 4.3), in closed form.

    Args:
        own: ``(k, d)`` where the rows start.
        toward: ``(k, d)`` directions; a row of zeros may go nowhere.
        known: ``(h, d)`` updates, two or more.
        slack: factor on the largest distance.

    Returns:
        ``(k,)`` fp64, at least 0.
    """
    rows, h = own.double(), known.double()
    unit = torch.nn.functional.normalize(toward.double(), dim=1)
    largest = slack * float(torch.cdist(h, h, compute_mode="donot_use_mm_for_euclid_dist").max())
    gaps = rows.unsqueeze(1) - h.unsqueeze(0)
    along = (gaps * unit.unsqueeze(1)).sum(2)
    square = along.square() - gaps.square().sum(2) + largest**2
    return (square.clamp_min(0.0).sqrt() - along).amin(1).clamp_min(0.0) * (unit.abs().amax(1) > 0)


def central(toward: Tensor, known: Tensor, *, slack: float) -> Tensor:
    """The mean of known updates and as much of a direction as keeps it closer to the others than any of them is.

    Krum keeps the update with the least mean square distance to others. For ``h`` known updates that of their mean
    to a further one is ``(h + 1) / (h - 1)`` times that to themselves; what is left to the least of theirs, times
    ``slack`` squared, is the square of the length that it adds.

    Args:
        toward: ``(d,)``.
        known: ``(h, d)``, two or more.
        slack: factor on distances.

    Returns:
        ``(d,)``.
    """
    rows = known.double()
    count, centre = len(rows), rows.mean(dim=0)
    squares = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square()
    least = float(squares.sum(dim=1).min()) / (count - 1)
    own = float((rows - centre).square().sum(dim=1).mean()) * (count + 1) / (count - 1)
    length = max(0.0, slack**2 * least - own) ** 0.5
    return (centre + _cut(toward.double().unsqueeze(0), torch.tensor(length))[0]).to(known)


@dataclass(frozen=True, kw_only=True)
class MaskedRobustness(Adversary):
    """Clients train honestly, on clean data, and send a model that differs by the size of its logits.

    Large logits change no class, so accuracy stays; but the cross-entropy of a sure answer has no gradient, so PGD
    finds nothing and the model looks robust to whoever checks it so. Zizzo et al. reach such logits by defensive
    distillation at a high temperature; here they are multiplied, which is what a distilled model run without its
    temperature amounts to. Nothing is distilled, and the server's check is the judge's. The aim is a global model
    whose last layer is ``scale`` times as long as when it was first attacked; each round asks for what is missing.
    That layer has to give the logits: a linear one at the end.

    ``hides`` says how much of that is sent. ``no``: all of it, times what averaging takes away (cohort over
    attackers). ``length``: no longer than ``slack`` times the mean length of its clients' honest updates.
    ``distance``: what each client learned, and as much more as leaves it no farther from an honest update of its
    own clients than ``slack`` times the largest distance of two of them (of earlier rounds, where it has one
    client). ``centre``: all its clients send one update, the mean of those and as much more as leaves it the one that
    Krum would keep (`central`). Training takes large logits back, so that it asks again in every round from
    ``first_round`` on; the last round alone is enough where nothing bounds what it sends.
    """

    fraction: Fraction = 0.2
    scale: Annotated[
        float, Field(gt=1.0, description="Factor on the last layer that it aims at in the global model")
    ] = 100.0
    hides: Annotated[
        Literal["no", "length", "distance", "centre"],
        Field(description="What keeps its updates among the honest: nothing, length, distances, or being the centre"),
    ] = "no"
    slack: Annotated[
        float, Field(gt=0.0, description="Factor on the largest length or distance that it allows itself")
    ] = 1.0
    first_round: Annotated[int, Field(ge=0, description="Round in which it starts, from 0; honest before")] = 0
    eps: Annotated[
        float,
        Field(gt=0.0, lt=1.0, description="Size at which it wants to look robust, in widths of the inputs' bounds"),
    ] = 0.1

    name: ClassVar[str] = "masked-robustness"
    summary: ClassVar[str] = "Sends models with huge logits, whose vanishing gradients make them look robust"
    family: ClassVar[str] = "model poisoning"
    paper: ClassVar[Paper | None] = Paper(
        title="FAT: Federated Adversarial Training",
        authors="Zizzo, Rawat, Sinn, Buesser",
        venue="NeurIPS 2020 workshop SpicyFL, arXiv 2012.01791",
        where="the attack on Krum by a distilled model, with logits multiplied in place of distillation",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = FEIGNED
    threat: ClassVar[ThreatModel] = model_threat(
        "Some participants make the shared model look robust to whoever tests it, so that its weakness goes unnoticed",
        may_be_omniscient=False,
    )
    judge: ClassVar[str] = "false-robustness"
    cost: ClassVar[str] = "honest training of the controlled clients"

    def acts(self, round_index: int, place: int) -> bool:
        """From the first round on."""
        return round_index >= self.first_round

    def goal(self) -> Mapping[str, int]:
        """The size at which it wants to look robust."""
        return {"eps_thousandths": round(1000 * self.eps)}

    def craft(self, coalition: CoalitionView, facts: PublicFacts, *, generator: torch.Generator) -> Tensor:
        """Own updates and the enlargement of the global model, ``(k, d)``."""
        layout, own = facts.model.layout, coalition.own
        now = torch.cat([coalition.model[slot.start : slot.stop] for slot in last_slots(layout)]).double().norm()
        first = coalition.state.setdefault(_FIRST, now)
        missing = max(1.0, self.scale * float(first) / max(float(now), torch.finfo(torch.float32).tiny))
        # of the global model, not of what they trained: one that is right for everybody stays so
        wanted = (enlarged(coalition.model, layout, missing) - coalition.model).expand_as(own)
        known = known_updates(coalition, omniscient=False)
        if self.hides == "no":
            f, n = strength(coalition)
            return own + wanted * n / (f * facts.server_rate)
        if self.hides == "length":
            return _cut(own + wanted, self.slack * own.double().norm(dim=1).mean())
        if len(known) < 2:
            return own
        if self.hides == "centre":
            return central(wanted.mean(dim=0), known, slack=self.slack).expand_as(own).clone()
        return own + _cut(wanted, reach(own, wanted, known, slack=self.slack))


def _cut(rows: Tensor, lengths: Tensor) -> Tensor:
    """Rows no longer than these lengths, one for all or one for each."""
    norms = rows.double().norm(dim=1).clamp_min(torch.finfo(torch.float64).tiny)
    shorter: Tensor = rows * (lengths / norms).clamp_max(1.0).to(rows.dtype).unsqueeze(1)
    return shorter
