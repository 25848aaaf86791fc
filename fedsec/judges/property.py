"""How well updates from data with a property are told from updates without it."""

from __future__ import annotations

from typing import ClassVar

import torch

from fedsec.judges.base import Judge, Judgement, Measurement, Truth
from fedsec.protocol.evidence import Evidence, PropertyScores
from fedsec.protocol.outcome import NotApplicable
from fedsec.statistics.intervals import roc

MOSTLY = 0.5
"""Share of an update's examples above which the property holds for it."""


class PropertyJudge(Judge):
    """The floor is the same attack trained on permuted properties, and at least one half."""

    name: ClassVar[str] = "property"
    summary: ClassVar[str] = (
        "Area under the ROC curve of updates from data mostly with the property against the others; full success is 1, "
        "the floor is the attack trained on permuted properties and at least one half"
    )

    def measure(self, evidence: Evidence, truth: Truth) -> Judgement:
        """See `Judge.measure`; updates of one client in several rounds are one cluster.

        Raises:
            TypeError: the evidence is of another kind.
            ValueError: it has not one score and one control per source.
            NotApplicable: all the observed updates are of one kind.
        """
        if not isinstance(evidence, PropertyScores):
            raise TypeError(f"the judge property measures property scores, not {type(evidence).__name__}")
        count = len(evidence.sources)
        if evidence.scores.shape != (count,) or evidence.control.shape != (count,):
            raise ValueError(f"expected {count} scores and controls, one per source")
        known = [i for i, source in enumerate(evidence.sources) if source in truth.property_share]
        sources = [evidence.sources[i] for i in known]
        truths = torch.tensor([truth.property_share[source] > MOSTLY for source in sources], dtype=torch.bool)
        if not len(truths) or truths.all() or not truths.any():
            which = "none of them" if not truths.any() else "all of them"
            raise NotApplicable(
                f"{len(truths)} updates were observed and {which} came from data that mostly has the property "
                f"{truth.property_name!r}, so there is nothing to tell apart"
            )
        # an aggregate's sender is the server in every round: rounds are then the independent units
        senders = [f"round:{r}" if who == "server" else who for r, who in sources]
        names = {name: number for number, name in enumerate(dict.fromkeys(senders))}
        clusters = torch.tensor([names[name] for name in senders])
        rows = torch.tensor(known)
        scores, control = evidence.scores[rows], evidence.control[rows]
        false, true = roc(scores.cpu().numpy(), truths.numpy())
        area = Measurement(
            name="auc",
            statistic="auc",
            units=scores,
            truths=truths,
            clusters=clusters,
            floor_units=control,
            floor=0.5,
            headline=True,
            unit="area",
            description=f"Probability that an update from data mostly with the property {truth.property_name!r} scores "
            "higher than one from other data.",
        )
        notes = []
        if len(known) < count:
            notes.append(
                f"{count - len(known)} scores were left out: the property of the data behind them is not known."
            )
        return Judgement(
            measurements=(area,),
            exhibits={"roc/fpr": torch.from_numpy(false), "roc/tpr": torch.from_numpy(true)},
            notes=tuple(notes),
        )
