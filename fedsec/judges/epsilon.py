"""How much an audit with canaries proves of epsilon, beside what the stack claims."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from fedsec.epsilon.claims import Claim, claims_for_clients
from fedsec.epsilon.guesses import Method, audit_epsilon
from fedsec.epsilon.rates import canary_epsilon_estimate
from fedsec.judges.base import Judge, Judgement, Measurement, Truth
from fedsec.protocol.evidence import CanaryScores, Evidence
from fedsec.protocol.outcome import NotApplicable
from fedsec.statistics.intervals import roc
from fedsec.statistics.lower_bounds import lower_bound_statistic

DELTA = 1e-5
"""At which epsilon is asked for where no claim names a delta."""
SURE = 0.99
"""Confidence at which a mechanism is called broken: at 95 % an audit of many cells and seeds would cry wolf."""

SENSIBLE = 1000.0
"""Largest estimate that is reported."""


class EpsilonJudge(Judge):
    """The headline is how well included canaries are told from excluded ones; beside it stands the bound on epsilon.

    Which test gives the bound is fixed by the claim, before any score is seen: Gaussian DP where exactly that is
    claimed, and else the test for ``(epsilon, delta)``-DP, which assumes nothing. The bound is compared only with
    claims for clients that hold against what the auditor saw; with several, with the smallest epsilon.
    """

    name: ClassVar[str] = "epsilon"
    summary: ClassVar[str] = (
        "Area under the ROC curve of included against excluded canaries, beside a lower bound on epsilon and what is "
        "claimed; full success is 1, the floor is one half"
    )

    def measure(self, evidence: Evidence, truth: Truth) -> Judgement:
        """See `Judge.measure`.

        Raises:
            TypeError: the evidence is of another kind.
            ValueError: it has not one score per canary, or names an identity that is none.
            NotApplicable: fewer than two canaries of a kind.
        """
        if not isinstance(evidence, CanaryScores):
            raise TypeError(f"the judge epsilon measures canary scores, not {type(evidence).__name__}")
        names = [int(identity) for identity in evidence.identities]
        if evidence.scores.shape != (len(names),) or not bool(evidence.scores.isfinite().all()):
            raise ValueError(
                f"expected {len(names)} finite scores, one per canary, found {tuple(evidence.scores.shape)}"
            )
        if len(set(names)) < len(names) or not truth.included.keys() >= set(names):
            raise ValueError("each score belongs to a canary of its own, and one of them is not a canary")
        coins = torch.tensor([truth.included[name] for name in names], dtype=torch.bool)
        if min(int(coins.sum()), int((~coins).sum())) < 2:
            raise NotApplicable("an audit needs two included and two excluded canaries, and these are too few")
        scores = evidence.scores.double().cpu()
        claim, uncovered = _claim(truth, uploads=evidence.uploads)
        delta = claim.delta if claim else uncovered.delta if uncovered else DELTA
        method: Method = claim.method if claim else "f-dp"
        sure = audit_epsilon(scores, coins, delta=delta, method=method, confidence=SURE)
        bound = audit_epsilon(scores, coins, delta=delta, method=method)
        area = Measurement(
            name="auc",
            statistic="auc",
            units=scores,
            truths=coins,
            floor=0.5,
            headline=True,
            unit="area",
            description="Probability that an included canary scores higher than an excluded one.",
        )
        lower = Measurement(
            # a bound that no claim is held against must not look as if it broke one
            name="epsilon_lower_bound" if claim or not uncovered else "epsilon_lower_bound_unclaimed",
            statistic=lower_bound_statistic(method, delta),
            units=scores,
            truths=coins,
            floor=0.0,
            ceiling=bound.ceiling,
            unit="epsilon",
            description=_describe(method, delta, claim),
        )
        steinke = Measurement(
            name="epsilon_one_run",
            statistic=lower_bound_statistic("one-run", delta),
            units=scores,
            truths=coins,
            floor=0.0,
            ceiling=audit_epsilon(scores, coins, delta=delta, method="one-run").ceiling,
            unit="epsilon",
            description=f"Lower bound at delta {delta:.3g} by Steinke, Nasr and Jagielski (2023), which assumes "
            "nothing and loses the more, the larger delta times the number of canaries.",
        )
        measurements = [area, lower, steinke]
        estimate = canary_epsilon_estimate(scores[coins].numpy(), delta=delta)
        notes = _notes(bound.value, bound.ceiling, sure.value, claim, uncovered, canaries=len(names), delta=delta)
        if bool((scores == scores[0]).all()):
            notes.append("All canaries score alike: nothing is seen of them.")
        elif estimate <= SENSIBLE:
            measurements.append(
                Measurement(
                    name="epsilon_estimate",
                    statistic="mean",
                    units=torch.tensor([estimate], dtype=torch.float64),
                    floor=0.0,
                    ceiling=max(bound.ceiling, estimate),
                    unit="epsilon",
                    description=f"Estimate at delta {delta:.3g} by Andrew et al. (2024), no bound; few canaries "
                    "bias it upwards.",
                )
            )
        else:
            notes.append(f"Next to nothing is noisy: the estimate of epsilon is above {SENSIBLE:g} and says no more.")
        false, true = roc(scores.numpy(), np.asarray(coins))
        return Judgement(
            measurements=tuple(measurements),
            exhibits={"roc/fpr": torch.from_numpy(false), "roc/tpr": torch.from_numpy(true)},
            notes=tuple(notes),
        )


def _claim(truth: Truth, *, uploads: bool) -> tuple[Claim | None, Claim | None]:
    """The smallest claim that holds against what was seen, and the smallest that does not."""
    found = claims_for_clients(truth.claims)

    def smallest(claims: list[Claim]) -> Claim | None:
        return min(claims, key=lambda claim: claim.epsilon) if claims else None

    holds = [claim for claim, everyone in found if everyone or not uploads]
    return smallest(holds), smallest([claim for claim, everyone in found if uploads and not everyone])


def _describe(method: Method, delta: float, claim: Claim | None) -> str:
    assumed = ", if the mechanism is Gaussian as it claims" if method == "gaussian-dp" else " for any mechanism"
    claimed = f"; claimed is {claim.epsilon:.3g}" if claim else ""
    return f"With 95 % confidence epsilon at delta {delta:.3g} is at least this{assumed}{claimed}."


def _notes(
    bound: float,
    ceiling: float,
    sure: float,
    claim: Claim | None,
    uncovered: Claim | None,
    *,
    canaries: int,
    delta: float,
) -> list[str]:
    notes = [f"With {canaries} canaries this test cannot show an epsilon above {ceiling:.3g}, however much leaks."]
    if claim is None and uncovered is None:
        notes.append(f"No defense here claims an epsilon for clients; epsilon is measured at delta {delta:.3g}.")
    if claim is None and uncovered is not None:
        notes.append(
            f"{uncovered.defense} claims nothing against a server that reads uploads: its epsilon is not compared."
        )
    if claim is not None:
        said = f"of {claim.defense}, epsilon {claim.epsilon:.3g} at delta {claim.delta:.3g} ({claim.adjacency})"
        if sure > claim.epsilon:
            notes.append(f"BROKEN: the lower bound {sure:.3g} (99 % confidence) exceeds the claim {said}.")
        elif bound > claim.epsilon:
            notes.append(
                f"SUSPECT: the lower bound {bound:.3g} (95 % confidence) exceeds the claim {said}; at 99 % it does "
                "not. Repeat with another seed."
            )
        if claim.adjacency.startswith("replace"):
            notes.append(
                f"The claim of {claim.defense} is for any two updates of a client; canaries compare an update with "
                "none, so the bound stays well below it."
            )
        if ceiling <= claim.epsilon:
            notes.append(f"The claim {said} lies above what this test can show: more canaries could check it.")
    return notes
