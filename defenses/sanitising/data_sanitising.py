"""Clients drop or correct the labels of their own data that do not fit the others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec.data.examples import Examples
from fedsec.protocol.stage import Defense, Guarantee, Setting
from fedsec.threat import Paper

from .suspects import label_suspicion, mark_suspects


@dataclass(frozen=True, kw_only=True)
class DataSanitising(Defense):
    """Label noise found by a client in its own shard, before it trains.

    A label is suspicious if a small model trained on the rest of the shard does not expect it, and if the most similar
    examples have other labels. The loss is that of confident learning, relative to what the class reaches; its joint
    distribution of given and true labels is not estimated, and a threshold on the suspicion takes its place.

    The client looks at its own data only. Where most labels of a class are wrong in the same way (all labels of a shard
    shifted by one), they fit each other, and nothing is found.
    """

    signal: Annotated[
        Literal["both", "loss", "neighbours"],
        Field(description="Out-of-fold loss of a logistic regression, neighbours with other labels, or their mean"),
    ] = "both"
    threshold: Annotated[
        float, Field(ge=0.0, le=1.0, description="Suspicion in [0, 1] above which a label is a suspect")
    ] = 0.6
    share: Annotated[float, Field(gt=0.0, le=0.5, description="Largest share of a shard that is treated")] = 0.4
    action: Annotated[
        Literal["drop", "relabel"],
        Field(description="Leave suspects out, or give them the label that model and neighbours prefer"),
    ] = "drop"
    neighbours: Annotated[int, Field(ge=1, description="Nearest examples asked for their label")] = 5
    least: Annotated[int, Field(ge=2, description="Examples below which a shard is left as it is")] = 20

    name: ClassVar[str] = "data-sanitising"
    summary: ClassVar[str] = "Clients drop or correct labels of their own data that the other examples contradict"
    family: ClassVar[str] = "data sanitising"
    paper: ClassVar[Paper | None] = Paper(
        title="Confident Learning: Estimating Uncertainty in Dataset Labels",
        authors="Northcutt, Jiang, Chuang",
        venue="JAIR 2021",
        where="section 3 (out-of-fold probabilities, thresholds per class); Wilson 1972 (neighbours' labels)",
    )
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="honest clients from wrong labels that somebody else put into their data",
        against="whoever mislabels a minority of the examples of each class",
        assuming="most labels of a class are right and similar inputs have the same label. Clients that poison their "
        "own data do not run it, and rare but right examples are lost",
    )
    cost: ClassVar[str] = "six small fits per client, once; unusual examples of honest clients"

    def problems(self, setting: Setting) -> tuple[tuple[str, str], ...]:
        """It needs classes, and inputs in which near means alike."""
        if setting.task != "classification":
            return ((f"data-sanitising judges labels, and the task is {setting.task}", "use a dataset with classes"),)
        if setting.bounds is None:
            found = "data-sanitising compares inputs, and distances between token ids mean nothing"
            return ((found, "use images or tables"),)
        return ()

    def data(self, shard: Examples, *, generator: torch.Generator) -> Examples:
        """The shard without its suspects, or with other labels for them."""
        if len(shard) < self.least:
            return shard
        found = label_suspicion(shard.x, shard.y, neighbours=self.neighbours, generator=generator)
        scores = {"loss": found.loss, "neighbours": found.neighbours, "both": (found.loss + found.neighbours) / 2.0}
        suspects = mark_suspects(scores[self.signal], threshold=self.threshold, share=self.share)
        if self.action == "relabel":
            return replace(shard, y=_relabelled(shard.y, suspects, found.proposed))
        return shard.take((~suspects).nonzero().flatten())


def _relabelled(y: Tensor, suspects: Tensor, proposed: Tensor) -> Tensor:
    return torch.where(suspects.to(y.device), proposed.to(y), y)
