"""What passive and active property inference share: simulate, extract, fit, score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedsec.protocol.evidence import PropertyScores, SeveralProperties
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.view import Seen

from .asking import Asking
from .features import features, melis_features, scale_columns, standardise
from .shadows import Pools, cohorts, permuted_within

PERMUTATIONS = 5
"""Permuted controls per round."""

RANK = 1e-10
"""Directions with less than this part of the greatest variance are rounding."""


@dataclass(frozen=True, kw_only=True)
class ShadowReader(Asking):
    """Classify real updates by updates that were simulated on public examples with and without properties.

    One simulation serves all properties: every simulated shard has much or little of each, independently.
    """

    shadow_updates: Annotated[
        int, Field(ge=8, description="updates simulated per round, half of them with the property; more help")
    ] = 80
    purity: Annotated[
        float, Field(gt=0.5, le=1, description="share of a simulated shard's examples that are of its own kind")
    ] = 0.9
    features: Annotated[
        Literal["signed", "melis"],
        Field(description="signed: lengths, sums and small tensors with their signs; melis: magnitudes, as published"),
    ] = "signed"
    classifier: Annotated[
        Literal["linear", "forest"],
        Field(description="linear: logistic regression; forest: 100 trees of leaves of at least 5, as in the paper"),
    ] = "linear"
    assumed_examples: Annotated[
        int, Field(ge=1, description="examples behind an update whose event does not say how many")
    ] = 32

    def read(
        self,
        seen: Sequence[Seen],
        models: Mapping[int, Tensor],
        pools: Pools,
        facts: PublicFacts,
        *,
        merged: int,
        generator: torch.Generator,
    ) -> PropertyScores | SeveralProperties:
        """Scores of every property for each observed update.

        One classifier per round and property, fitted on updates that are simulated on the model of that round alone:
        no later round is used, as an adversary in the middle of a training has none.

        Args:
            seen: observed updates, or aggregates of them.
            models: the global model of each round, ``(d,)`` each.
            pools: public examples.
            facts: to simulate.
            merged: updates behind each observed one.
            generator: the only source of randomness.

        Raises:
            NotApplicable: no model of an observed round is known.
        """
        seen = [event for event in seen if event.round in models]
        if not seen:
            raise NotApplicable("no model of an attacked round can be read, so no update on it can be simulated")
        scores: dict[str, list[Tensor]] = {one.name: [] for one in pools.properties}
        controls: dict[str, list[Tensor]] = {one.name: [] for one in pools.properties}
        sources = []
        for number in sorted({event.round for event in seen}):
            now = [event for event in seen if event.round == number]
            shards, holds = pools.shards(
                self.shadow_updates // 2, self.sizes(now, merged), self.purity, generator=generator
            )
            draws = torch.randint(2**31 - 1, (len(shards),), generator=generator).tolist()
            singles = facts.simulate_many(models[number], shards, draws)
            values = torch.stack([event.values for event in now])
            if merged == 1:
                shared = self._features(singles, values, facts)
            for place, one in enumerate(pools.properties):
                truths = holds[:, place]
                if merged == 1:
                    known, observed = shared
                else:
                    # means cost nothing: more of them than of the updates that they are made of
                    means, truths = cohorts(singles, truths, merged, self.shadow_updates, generator=generator)
                    known, observed = self._features(means, values, facts)
                seed = int(torch.randint(2**31 - 1, (), generator=generator))
                scores[one.name].append(fit_and_score(self.classifier, known, truths, observed, seed))
                controls[one.name].append(self._control(known, truths, observed, generator))
            sources += [(event.round, event.sender) for event in now]
        return as_evidence(tuple(sources), scores, controls)

    def sizes(self, seen: Sequence[Seen], merged: int) -> list[int]:
        """Examples of one client behind each event: what it says, what its weight says, or the assumption.

        Weights that are all equal to the number of merged clients, or to 1, are those of an unweighted mean.
        """
        weighted = any(event.weight not in (1.0, float(merged)) for event in seen)
        sizes = []
        for event in seen:
            said = dict(event.about).get("examples", round(event.weight) if weighted else None)
            sizes.append(self.assumed_examples if said is None else max(1, round(said / merged)))
        return sizes

    def _control(self, known: Tensor, truths: Tensor, observed: Tensor, generator: torch.Generator) -> Tensor:
        """Scores ``(k,)`` of the same attack on permuted properties.

        One permutation for all would be one random direction, in which updates of two kinds may well differ: random
        groups of the observed updates get permutations of their own, so that their errors are nearly independent.
        """
        scores = torch.zeros(len(observed), dtype=torch.float64)
        for group in torch.randperm(len(observed), generator=generator).chunk(min(PERMUTATIONS, len(observed))):
            permuted = permuted_within(truths, generator=generator)
            seed = int(torch.randint(2**31 - 1, (), generator=generator))
            scores[group] = fit_and_score(self.classifier, known, permuted, observed[group], seed)
        return scores

    def _features(self, known: Tensor, observed: Tensor, facts: PublicFacts) -> tuple[Tensor, Tensor]:
        """Features of simulated and observed updates, scaled by the simulated ones and turned into their span."""
        layout = facts.model.layout
        if self.features == "melis":
            made = scale_columns(melis_features(known, layout), melis_features(observed, layout))
        else:
            first, widths = features(known, layout)
            made = standardise(first, features(observed, layout)[0], widths)
        return span(*made) if self.classifier == "linear" else made


def as_evidence(
    sources: tuple[tuple[int, str], ...], scores: Mapping[str, list[Tensor]], controls: Mapping[str, list[Tensor]]
) -> PropertyScores | SeveralProperties:
    """Evidence of one property, or of several."""
    made = {
        name: PropertyScores(sources=sources, scores=torch.cat(parts), control=torch.cat(controls[name]))
        for name, parts in scores.items()
    }
    return next(iter(made.values())) if len(made) == 1 else SeveralProperties(scores=made)


def span(known: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates in the span of the known rows.

    A linear classifier with a squared-norm penalty has its weights there, so nothing that it could use is lost
    (representer theorem), and there are only as many coordinates as rows.

    Args:
        known: ``(n, f)``.
        observed: ``(k, f)``.

    Returns:
        ``(n, m)`` and ``(k, m)`` with ``m <= min(n, f)``.
    """
    if known.shape[1] <= known.shape[0]:
        return known, observed
    power, axes = torch.linalg.eigh(known @ known.T)
    kept = power > float(power[-1]) * RANK
    kept[-1] = True  # classifiers want a column, if only of zeros
    axes, length = axes[:, kept], power[kept].clamp_min(1e-300).sqrt()
    return axes * length, torch.nan_to_num(observed) @ known.T @ axes / length


def fit_and_score(classifier: str, known: Tensor, holds: Tensor, observed: Tensor, seed: int) -> Tensor:
    """Log-odds of the property for each observed update, ``(k,)``; everything is fitted on simulated updates."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    train, test, labels = known.cpu().numpy(), np.nan_to_num(observed.cpu().numpy()), holds.cpu().numpy()
    if classifier == "forest":
        forest: Any = RandomForestClassifier(100, min_samples_leaf=5, random_state=seed).fit(train, labels)
        share = np.clip(forest.predict_proba(test)[:, 1], 1e-3, 1 - 1e-3)
        return torch.from_numpy(np.log(share / (1 - share)))
    linear: Any = LogisticRegression(max_iter=500).fit(train, labels)
    return torch.from_numpy(linear.decision_function(test))
