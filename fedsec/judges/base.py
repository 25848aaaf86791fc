"""What a judge is given and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedsec.data.examples import DatasetInfo, Examples
from fedsec.judges.checks import Battery, Check
from fedsec.models.flat import FlatModel
from fedsec.protocol.evidence import Evidence


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One number with the observations behind it, so that seeds can be pooled and intervals made.

    Attributes:
        name: ``snake_case``, as in ``identified`` or ``auc``.
        statistic: ``mean`` of ``units``, or ``auc`` / ``tpr@0.01`` / ``tpr@0.001`` of ``units`` as scores
            against ``truths``, or a lower bound on epsilon (`lower_bound_statistic`) from scores and coins.
        units: ``(n,)`` one observation per independent unit (a target, a test example, a candidate).
        truths: ``(n,)`` bool, for ``auc`` and ``tpr``.
        clusters: ``(n,)`` int64, units that are not independent share a cluster (a client); ``None``: all are.
        floor_units: ``(m,)`` the same observation for the best adversary without the view, measured in the same
            audit (with ``truths`` for ``auc``/``tpr`` if ``m == n``).
        floor: the floor where it is not measured from units (only where theory fixes it).
        ceiling: full success, in the metric's own unit.
        headline: whether severity is judged on it; exactly one measurement of a judgement has it.
        unit: of the value, as in ``share`` or ``dB``.
        description: one sentence for the report: what the number says.
    """

    name: str
    statistic: str
    units: Tensor
    truths: Tensor | None = None
    clusters: Tensor | None = None
    floor_units: Tensor | None = None
    floor: float | None = None
    ceiling: float = 1.0
    headline: bool = False
    unit: str = "share"
    description: str = ""


@dataclass(frozen=True)
class Exposure:
    """How exposed one example or client is.

    Attributes:
        unit: as in ``client:3`` or ``example 17 of client:3``; never the data itself.
        score: higher is more exposed.
        text: what the score says, as in ``identified 4 of 4 times``.
    """

    unit: str
    score: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Measurements, and exhibits for the report.

    Attributes:
        measurements: exactly one is the headline.
        exhibits: arrays by name; the report knows ``gallery/original``, ``gallery/reconstruction`` (``(g, *shape)``),
            ``gallery/score`` (``(g,)``), ``roc/fpr``, ``roc/tpr``, ``curve/<name>/x`` and ``curve/<name>/y``.
        notes: sentences that must stand beside the numbers (caveats).
        exposed: the most exposed examples or clients first, ten at the most.
        checks: whether the numbers can be believed.
    """

    measurements: tuple[Measurement, ...]
    exhibits: Mapping[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    exposed: tuple[Exposure, ...] = ()
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What only judges hold.

    Attributes:
        info: what the dataset says about itself.
        model: the architecture.
        released: ``(d,)`` the released global model.
        initial: ``(d,)`` the initial global model.
        behind: for each recorded ``(round, sender)`` the examples that the sender trained on; the sender
            ``server`` stands for the aggregate, and its examples are those of the whole cohort.
        test: examples for utility and robustness.
        decoys: examples of the population that no client holds (for identifiability and image floors).
        candidates: the membership challenge as the attack got it.
        members: ``(m,)`` bool, the answer to it.
        property_name: the (first) property that property inference is about, or empty.
        property_share: for each ``(round, sender)`` the share of its examples that have the property; the sender
            ``public`` of the last round stands for all clients together.
        generator: for the judge's own draws (decoys, noise floors).
        owners: ``(m,)`` int64, the client that holds each candidate, -1 for non-members.
        participants: ``(c,)`` bool, which of the client candidates took part.
        included: the coin of each canary identity.
        claims: what the defenses of the stack claim (`Defense.claims`, with the key ``defense``).
        property_shares: `property_share` of each property, by name.
        class_mix: ``(clients, C)`` how many examples of each class a client holds.
        masking: runs the masking battery on the released model, or takes its result if that was done before.
    """

    info: DatasetInfo
    model: FlatModel
    released: Tensor
    initial: Tensor
    behind: Mapping[tuple[int, str], Examples]
    test: Examples
    decoys: Examples
    candidates: Examples | None
    members: Tensor | None
    property_name: str
    property_share: Mapping[tuple[int, str], float]
    generator: torch.Generator
    owners: Tensor | None = None
    participants: Tensor | None = None
    included: Mapping[int, bool] = field(default_factory=dict)
    claims: tuple[Mapping[str, float | str], ...] = ()
    property_shares: Mapping[str, Mapping[tuple[int, str], float]] = field(default_factory=dict)
    class_mix: Tensor | None = None
    masking: Callable[[], Battery] | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A finished training as an integrity judge sees it.

    Attributes:
        predictions: ``(n,)`` int64 class of each test example under the released model (real value in a regression).
        accuracy: test accuracy after each evaluated round (or negative mean loss where there are no classes).
        rounds: the evaluated rounds.
        detected: per round, controlled clients dropped or flagged, and honest clients dropped or flagged.
        present: per round, controlled and honest clients in the cohort; without it ``detected`` has no rates.
        probe: ``(m,)`` bool, whether the released model gives the labels that the adversary wants on its probe.
        probes: share of them after each evaluated round (of the attacked federation only).
        watch: columns of `fedsec.federation.watch.Watch`: who was heard, dropped and suspected in which round.
        net: the released model in eval mode, for a judge that asks it more than its predictions.
    """

    predictions: Tensor
    accuracy: tuple[float, ...]
    rounds: tuple[int, ...]
    detected: tuple[tuple[int, int], ...] = ()
    present: tuple[tuple[int, int], ...] = ()
    probe: Tensor | None = None
    probes: tuple[float, ...] = ()
    watch: Mapping[str, Tensor] = field(default_factory=dict)
    net: nn.Module | None = None


class Judge:
    """Measures one kind of harm. Subclasses implement one of the two methods.

    Attributes:
        name: as attacks name it.
        summary: one sentence: what full success and the floor are.
    """

    name: ClassVar[str]
    summary: ClassVar[str]

    def measure(self, evidence: Evidence, truth: Truth) -> Judgement:
        """Measure the evidence of a passive attack."""
        raise NotImplementedError(f"the judge {self.name} measures federations under attack, not evidence")

    def compare(
        self, honest: Outcome, attacked: Outcome, test: Examples, info: DatasetInfo, goal: Mapping[str, int]
    ) -> Judgement:
        """Measure what an adversary did: the attacked federation against the honest one of the same seed."""
        raise NotImplementedError(f"the judge {self.name} measures evidence, not federations under attack")


__all__ = ["Exposure", "Judge", "Judgement", "Measurement", "Outcome", "Truth"]
