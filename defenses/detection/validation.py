"""A detector that drops updates which make the model worse on the server's own clean examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec.data.examples import Examples
from fedsec.protocol.server import ServerSide
from fedsec.protocol.stage import Cohort, Defense, Guarantee, RoundContext, Setting
from fedsec.threat import Paper

from ..aggregation.rounds import assumed, finite
from .features import robust_z, select_outliers
from .filtering import accuse, most_suspicious, without
from .impact import Compare, impacts


@dataclass(frozen=True, kw_only=True)
class Validation(Defense):
    """Reject on negative impact: loss-based (LFR), error-based (ERR) or both (Fang et al. 2020).

    The impact of an update is measured on clean examples of the server. Leaving one of several colluders out changes
    little, so ``compare: rest``, the paper's, underrates them; ``compare: nothing`` is RONI. The score of an update is
    its impact in robust standard deviations over the round (the larger of the two measures for ``union``), so that
    rounds can be compared: impacts shrink as training converges.
    """

    measure: Annotated[
        Literal["loss", "error", "union"],
        Field(description="Impact on the mean loss, on the error rate, or both: an update that either rejects is out"),
    ] = "loss"
    compare: Annotated[
        Compare,
        Field(
            description="The round's mean with and without the update (rest), or the model with and without the "
            "update alone (nothing)"
        ),
    ] = "rest"
    f: Annotated[
        int | None,
        Field(ge=0, description="Updates rejected per round, those of the largest impact; empty: ceil(fraction x n)"),
    ] = None
    fraction: Annotated[
        float, Field(ge=0.0, lt=1.0, description="Share of a round's updates that is rejected; used where f is empty")
    ] = 0.2
    threshold: Annotated[
        float | None,
        Field(
            description="Reject those whose impact exceeds this instead, in nats of mean loss or as a share of errors, "
            "the f worst of them at the most; empty: reject f whatever their impact, as the paper does"
        ),
    ] = None
    examples: Annotated[int, Field(ge=1, description="Clean examples that the server holds")] = 100

    name: ClassVar[str] = "validation"
    summary: ClassVar[str] = "Drops the updates that make the model worst on clean examples of the server"
    family: ClassVar[str] = "anomaly detection"
    paper: ClassVar[Paper | None] = Paper(
        title="Local Model Poisoning Attacks to Byzantine-Robust Federated Learning",
        authors="Fang, Cao, Jia, Gong",
        venue="USENIX Security 2020",
        where="section 5 (ERR, LFR, union); Barreno et al., Machine Learning 2010 (RONI)",
    )
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="performance on inputs like the server's clean examples",
        against="updates that lower it, f per round",
        assuming="clean examples of the task, and a known f: honest updates are rejected if fewer than f are "
        "malicious. What costs no accuracy on clean inputs, as a careful backdoor, is not seen",
    )
    cost: ClassVar[str] = "n + 1 evaluations of the clean examples per round; the honest updates among the f"

    def problems(self, setting: Setting) -> tuple[tuple[str, str], ...]:
        """It needs clean examples, classes if it counts errors, and updates that it does not reject."""
        found = []
        if setting.public < self.examples:
            found.append(
                (
                    f"validation tries updates on {self.examples} clean examples of the server, and the federation "
                    f"sets {setting.public} public ones aside",
                    f"set `federation.dataset: {{auxiliary: {self.examples}}}`",
                )
            )
        if self.measure != "loss" and setting.task == "regression":
            found.append(("a regression has no error rate", "use `measure: loss`"))
        n = int(setting.cohort)
        if assumed(n, f=self.f, fraction=self.fraction) >= n:
            found.append((f"it would reject all {n} updates of a round", f"set f below {n}"))
        return tuple(found)

    def preaggregate(self, cohort: Cohort, context: RoundContext) -> Cohort:
        """The updates that are not rejected; reports every score and the largest impact."""
        sound = finite(cohort, context)
        clients, payload = sound.matrix()
        n = len(clients)
        if context.server is None or context.model is None:
            raise ValueError("validation runs at the server, with its model and its clean examples")
        if n < 2:
            context.report["selected"] = float(n)
            return sound
        held = context.server.root(self.examples)
        f = min(assumed(n, f=self.f, fraction=self.fraction), n - 1)
        dropped = torch.zeros(n, dtype=torch.bool)
        scores = torch.full((n,), -torch.inf, dtype=torch.float64)
        for measure in ("loss", "error") if self.measure == "union" else (self.measure,):
            harm = impacts(
                payload.values,
                payload.weights,
                model=context.model,
                performance=_Performance(context.server, held, loss=measure == "loss"),
                compare=self.compare,
            ).cpu()
            context.report[f"largest {measure} impact"] = float(harm.max())
            scores = torch.maximum(scores, robust_z(harm.unsqueeze(1)).flatten())
            if self.threshold is None:
                dropped |= most_suspicious(harm, count=f)
            else:
                dropped |= select_outliers(harm, threshold=self.threshold, most=f)
        accuse(context, clients, scores)
        return without(sound, dropped, context)


@dataclass(frozen=True)
class _Performance:
    """Mean loss or share of errors of models ``(m, d)`` on the clean examples, ``(m,)``."""

    server: ServerSide
    examples: Examples
    loss: bool

    def __call__(self, models: Tensor) -> Tensor:
        if self.loss:
            return self.server.losses(models, self.examples).mean(dim=1)
        return 1.0 - self.server.right(models, self.examples).double().mean(dim=1)
