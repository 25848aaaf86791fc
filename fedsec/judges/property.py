"""How well updates from data with a property are told from updates without it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from fedsec.judges.base import Exposure, Judge, Judgement, Measurement, Truth
from fedsec.protocol.evidence import Evidence, PropertyScores, SeveralProperties
from fedsec.protocol.outcome import NotApplicable
from fedsec.statistics.intervals import auc, roc

MOSTLY = 0.5
"""Share of an update's examples above which the property holds for it."""

TIE = 0.02
"""Shares this near to `MOSTLY` are neither: a mean over as many clients with the property as without."""

PUBLIC = "public"
"""The sender of scores that are about the data of all clients together, read from the released model."""


class PropertyJudge(Judge):
    """The floor is the same attack trained on permuted properties, and at least one half."""

    name: ClassVar[str] = "property"
    summary: ClassVar[str] = (
        "Area under the ROC curve of updates from data mostly with the property against the others (of the most "
        "exposed property of several); full success is 1, the floor is the attack trained on permuted properties and "
        "at least one half"
    )

    def measure(self, evidence: Evidence, truth: Truth) -> Judgement:
        """See `Judge.measure`; updates of one client in several rounds are one cluster.

        Raises:
            TypeError: the evidence is of another kind.
            ValueError: it has not one score and one control per source, or is about a property of which nothing is
                known.
            NotApplicable: all the observed updates are of one kind, in every property.
        """
        if isinstance(evidence, PropertyScores):
            scores: Mapping[str, PropertyScores] = {truth.property_name: evidence}
            shares = {truth.property_name: truth.property_share}
        elif isinstance(evidence, SeveralProperties):
            scores, shares = evidence.scores, dict(truth.property_shares)
            if missing := sorted(scores.keys() - shares.keys()):
                raise ValueError(f"nothing is known of the property {missing[0]!r}")
        else:
            raise TypeError(f"the judge property measures property scores, not {type(evidence).__name__}")
        for given in scores.values():
            count = len(given.sources)
            if given.scores.shape != (count,) or given.control.shape != (count,):
                raise ValueError(f"expected {count} scores and controls, one per source")
        if all(source[1] == PUBLIC for given in scores.values() for source in given.sources):
            return _of_released_models(scores, shares)
        sides, reasons = {}, []
        for name, given in scores.items():
            found = _Side.of(name, given, shares[name], truth)
            if isinstance(found, _Side):
                sides[name] = found
            else:
                reasons.append(found)
        if not sides:
            raise NotApplicable("; ".join(reasons))
        notes = [f"Not measured: {reason}." for reason in reasons]
        return _judgement(sides, notes, several=isinstance(evidence, SeveralProperties))


class _Side:
    """The scores of one property that can be judged, with the truth."""

    def __init__(self, name: str, rows: list[int], given: PropertyScores, truths: Tensor, truth: Truth) -> None:
        self.name = name
        self.sources = [given.sources[i] for i in rows]
        self.scores, self.control, self.truths = given.scores[rows].double(), given.control[rows].double(), truths
        # an aggregate's sender is the server in every round: rounds are then the independent units
        senders = [f"round:{r}" if who == "server" else who for r, who in self.sources]
        names = {who: number for number, who in enumerate(dict.fromkeys(senders))}
        self.clusters = torch.tensor([names[who] for who in senders])
        self.labels = _labels(given, rows, truths, self.clusters, truth)
        self.unknown, self.tied = 0, 0

    @classmethod
    def of(cls, name: str, given: PropertyScores, share: Mapping[tuple[int, str], float], truth: Truth) -> _Side | str:
        """One property, or why it cannot be judged."""
        known = [i for i, source in enumerate(given.sources) if source in share]
        of = {i: share[given.sources[i]] for i in known}
        # an exact half counts as not mostly where updates are of single clients; means of cohorts tie by construction
        tied = [i for i in known if given.sources[i][1] == "server" and abs(of[i] - MOSTLY) < TIE]
        rows = [i for i in known if i not in set(tied)]
        truths = torch.tensor([of[i] > MOSTLY for i in rows], dtype=torch.bool)
        if tied and not len(truths):
            return (
                f"only aggregates could be read, and half of the data behind each of them has the property {name!r}, "
                "so there is nothing to tell apart"
            )
        if not len(truths) or truths.all() or not truths.any():
            which = "none of them" if not truths.any() else "all of them"
            return (
                f"{len(truths)} updates were observed and {which} came from data that mostly has the property "
                f"{name!r}, so there is nothing to tell apart"
            )
        side = cls(name, rows, given, truths, truth)
        side.unknown, side.tied = len(given.sources) - len(known), len(tied)
        return side

    @property
    def area(self) -> float:
        """Of the attack."""
        return auc(self.scores.cpu().numpy(), self.truths.numpy())

    @property
    def control_area(self) -> float:
        """Of the attack trained on permuted properties."""
        return auc(self.control.cpu().numpy(), self.truths.numpy())


def _judgement(sides: Mapping[str, _Side], notes: list[str], *, several: bool) -> Judgement:
    worst = max(sides.values(), key=lambda side: side.area)
    measurements = []
    if several:
        # The highest of several areas is high by chance too; so is the highest of their controls.
        measurements.append(
            Measurement(
                name="auc",
                statistic="auc",
                units=worst.scores,
                truths=worst.truths,
                clusters=worst.clusters,
                floor=max(0.5, *(side.control_area for side in sides.values())),
                headline=True,
                unit="area",
                description="Of the most exposed property: the probability that an update from data mostly with it "
                "scores higher than one from other data. The floor is the highest of the permuted controls.",
            )
        )
    for name, side in sides.items():
        measurements += _areas(name, side, several=several)
        if side.unknown:
            notes.append(f"{side.unknown} scores were left out: the property of the data behind them is not known.")
        if side.tied:
            notes.append(f"{side.tied} aggregates were left out: about half of the data behind them has {name!r}.")
    false, true = roc(worst.scores.cpu().numpy(), worst.truths.numpy())
    exhibits = {"roc/fpr": torch.from_numpy(false), "roc/tpr": torch.from_numpy(true)}
    for name, side in sides.items():
        exhibits |= _curves(name, side)
    return Judgement(
        measurements=tuple(measurements),
        exhibits=exhibits,
        notes=tuple(dict.fromkeys(notes)),
        exposed=_exposed(worst) if worst.area > worst.control_area else (),
    )


def _areas(name: str, side: _Side, *, several: bool) -> list[Measurement]:
    """The area of one property, of its permuted control, and of the labels alone."""

    def area(label: str, units: Tensor, floor_units: Tensor | None, description: str) -> Measurement:
        return Measurement(
            name=label,
            statistic="auc",
            units=units,
            truths=side.truths,
            clusters=side.clusters,
            floor_units=floor_units,
            floor=0.5,
            headline=label == "auc",
            unit="area",
            description=description,
        )

    found = [
        area(
            f"auc:{name}" if several else "auc",
            side.scores,
            side.control,
            f"Probability that an update from data mostly with the property {name!r} scores higher than one from "
            "other data.",
        ),
        area(
            f"permuted:{name}" if several else "permuted",
            side.control,
            None,
            f"The same of the attack trained on permuted values of {name!r}; its interval should include 0.5.",
        ),
    ]
    if side.labels is not None:
        found.append(
            area(
                f"labels:{name}" if several else "labels",
                side.labels,
                None,
                f"How well {name!r} could be told from nothing but the label shares behind an update; 0.5 or less "
                "where labels say nothing about it.",
            )
        )
    return found


def _labels(given: PropertyScores, rows: list[int], truths: Tensor, clusters: Tensor, truth: Truth) -> Tensor | None:
    """What label shares alone say of each source: their projection on the difference of the other clients' means.

    ``None`` where labels are no classes or the data behind a source are not known.
    """
    held = [truth.behind.get(given.sources[i]) for i in rows]
    classes = len(truth.info.classes)
    known = [one for one in held if one is not None and len(one)]
    if truth.info.task != "classification" or not classes or len(known) < len(held):
        return None
    counts = [torch.bincount(one.y.cpu(), minlength=classes).double() / len(one) for one in known]
    share, scores = torch.stack(counts), torch.zeros(len(known), dtype=torch.float64)
    for cluster in sorted(set(clusters.tolist())):
        own = clusters == cluster
        with_it, without = share[~own & truths], share[~own & ~truths]
        if len(with_it) and len(without):
            scores[own] = share[own] @ (with_it.mean(0) - without.mean(0))
    return scores


def _curves(name: str, side: _Side) -> dict[str, Tensor]:
    """Areas over rounds: of each round where every round has both kinds, else of all rounds so far."""
    rounds = torch.tensor([number for number, _ in side.sources])
    numbers = sorted(set(rounds.tolist()))
    alone = all(0 < int(side.truths[rounds == n].sum()) < int((rounds == n).sum()) for n in numbers)
    curves: dict[str, Tensor] = {}
    for label, units in ((name, side.scores), (f"{name} permuted", side.control)):
        x, y = [], []
        for number in numbers:
            chosen = rounds == number if alone else rounds <= number
            truths = side.truths[chosen]
            if bool(truths.any()) and not bool(truths.all()):
                x.append(float(number))
                y.append(auc(units[chosen].cpu().numpy(), truths.numpy()))
        curves |= {f"curve/{label}/x": torch.tensor(x), f"curve/{label}/y": torch.tensor(y)}
    return curves


def _exposed(side: _Side) -> tuple[Exposure, ...]:
    """Clients (or rounds) whose property was read most surely and rightly; scores are log-odds."""
    right = torch.where(side.truths, side.scores, -side.scores)
    found = []
    for cluster in sorted(set(side.clusters.tolist())):
        own = (side.clusters == cluster).nonzero().flatten()
        number, sender = side.sources[int(own[0])]
        unit = f"the aggregate of round {number}" if sender == "server" else sender
        hits = int((right[own] > 0).sum())
        text = f"{side.name} read rightly from {hits} of {len(own)} updates"
        found.append((hits, Exposure(unit, float(right[own].mean()), text)))
    ranked = sorted((one for hits, one in found if hits), key=lambda one: -one.score)
    return tuple(ranked[:10])


def _of_released_models(
    scores: Mapping[str, PropertyScores], shares: Mapping[str, Mapping[tuple[int, str], float]]
) -> Judgement:
    """Whether it was guessed of which side of one half all training data together are, property by property."""
    right, control = [], []
    for name, given in scores.items():
        for place, source in enumerate(given.sources):
            if source in shares[name]:
                is_so = shares[name][source] > MOSTLY
                right.append(float((float(given.scores[place]) > 0) == is_so))
                control.append(float((float(given.control[place]) > 0) == is_so))
    if not right:
        raise NotApplicable("it is not known which of these properties the training data have")
    guessed = Measurement(
        name="guessed",
        statistic="mean",
        units=torch.tensor(right),
        clusters=torch.zeros(len(right), dtype=torch.long),
        floor_units=torch.tensor(control),
        floor=0.5,
        headline=True,
        description="Share of the properties of which it was told rightly whether most of the training data have them.",
    )
    return Judgement(measurements=(guessed,))
