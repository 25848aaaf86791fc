"""Deep Leakage from Gradients (DLG) and its improvement (iDLG): L2 gradient matching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.threat import Knowledge, Paper

from .base import threat_of
from .gradient_matching import GradientMatching, HalvingField
from .recipe import Labels, Recipe


@dataclass(frozen=True, kw_only=True)
class L2Matching(GradientMatching):
    """What DLG and iDLG share: the objective, the optimizers, restarts.

    Differs from the papers: a line search (their plain L-BFGS diverges on many starts), restarts judged by the
    gradient match, and a batch is optimised jointly, not one example after another.
    """

    restarts: Annotated[int, Field(ge=1, description="Starting points per victim; the best gradient match wins")] = 4
    evaluations: Annotated[int, Field(ge=8, description="Double backward passes per starting point")] = 300
    optimizer: Annotated[
        Literal["lbfgs", "adam"],
        Field(description="lbfgs: with a strong Wolfe line search; adam: fixed learning rate"),
    ] = "lbfgs"
    history: Annotated[int, Field(ge=1, description="Steps that L-BFGS remembers per starting point")] = 100
    learning_rate: Annotated[float, Field(gt=0, description="Of adam, as a share of the width of the inputs")] = 0.1
    init: Annotated[
        Literal["normal", "uniform"], Field(description="Starting points: N(0, 1) as in the papers, or in the bounds")
    ] = "normal"
    matching: Annotated[
        Literal["auto", "l2", "scale-free"],
        Field(
            description="l2 needs the gradient's length; scale-free matches up to the best scalar, so clipping does"
            " not matter; auto: l2 only if the stack is empty and the update is one exact gradient"
        ),
    ] = "auto"
    halving: HalvingField = (0.3,)

    def made(self, labels: Labels, *, exact: bool) -> Recipe:
        """The recipe with labels of one kind."""
        known = self.matching == "l2" or (self.matching == "auto" and exact)
        return Recipe(
            distance="l2" if known else "scale-free",
            optimizer=self.optimizer,
            evaluations=self.evaluations,
            restarts=self.restarts,
            halving=self.halving,
            learning_rate=self.learning_rate,
            schedule="constant",
            history=self.history,
            init=self.init,
            unit=(-2.0, 2.0) if self.init == "normal" else None,
            box=False,
            labels=labels,
            local_steps=self.local_steps,
            batch_norm=self.batch_norm,
        )


@dataclass(frozen=True, kw_only=True)
class DeepLeakage(L2Matching):
    """Zhu, Liu, Han 2019: inputs and soft labels are optimised together."""

    name: ClassVar[str] = "dlg"
    summary: ClassVar[str] = "Reconstructs training inputs and labels by matching a gradient in L2 norm"
    paper: ClassVar[Paper | None] = Paper(
        title="Deep Leakage from Gradients",
        authors="Zhu, Liu, Han",
        venue="NeurIPS 2019",
        where="algorithm 1, eq. 4",
    )
    threat = threat_of(
        "A curious server optimises inputs and labels until they would have caused a client's update.",
        Knowledge.COUNTS,
        Knowledge.LOCAL_TRAINING,
    )
    cost: ClassVar[str] = "evaluations x restarts double backward passes per victim"
    revision: ClassVar[int] = 2

    def recipe(self, *, exact: bool) -> Recipe:
        """Labels are a variable."""
        return self.made("optimised", exact=exact)

    def check(self, facts: PublicFacts) -> None:
        """Classes are optimised as soft labels, targets of a regression as real numbers."""
        if facts.model.task not in {"classification", "regression"}:
            raise NotApplicable("the inputs are tokens; this attack reconstructs real-valued inputs")


@dataclass(frozen=True, kw_only=True)
class ImprovedDeepLeakage(L2Matching):
    """Zhao, Mopuri, Bilen 2020: the label is read from the gradient's sign first; batches by label counts."""

    name: ClassVar[str] = "idlg"
    summary: ClassVar[str] = (
        "Reads labels from the sign of a gradient, then reconstructs inputs by matching it in L2 norm"
    )
    paper: ClassVar[Paper | None] = Paper(
        title="iDLG: Improved Deep Leakage from Gradients",
        authors="Zhao, Mopuri, Bilen",
        venue="arXiv 2001.02610, 2020",
        where="section 3",
    )
    threat = threat_of(
        "A curious server reads the label from a client's update and optimises the input that fits it.",
        Knowledge.COUNTS,
        Knowledge.LOCAL_TRAINING,
    )
    cost: ClassVar[str] = "evaluations x restarts double backward passes per victim"
    revision: ClassVar[int] = 2

    labels: Annotated[
        Literal["gradient", "oracle"], Field(description="read from the gradient, or told: an oracle")
    ] = "gradient"

    def recipe(self, *, exact: bool) -> Recipe:
        """Labels are given."""
        return self.made(self.labels, exact=exact)
