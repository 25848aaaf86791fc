"""FoolsGold: clients whose updates point the same way, round after round, lose their say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec import geometry
from fedsec.models.flat import Layout, Slot
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import Cohort, Defense, Guarantee, RoundContext, Setting
from fedsec.round_geometry import RoundGeometry, weighs
from fedsec.threat import Paper

from .rounds import exclude, finite, nothing, one_row, suspect

_EPSILON = 1e-5
_ALMOST_ONE = 0.99


def foolsgold_weights(history: Tensor) -> Tensor:
    """Weight of each client from the sum of its updates so far (Fung et al. 2020, algorithm 1).

    Similarity is the largest cosine to another client; a client that is similar only to one that is more
    similar to others is pardoned; ``1 - similarity`` is rescaled to a maximum of 1 and stretched by a logit.
    When all are identical every weight is 0 (never NaN). A single attacker has nobody to be similar to and
    keeps its weight.

    Args:
        history: ``(n, d)`` sums of updates, one row per client.

    Returns:
        ``(n,)`` fp64 in [0, 1].

    Raises:
        ValueError: the matrix is empty or not finite.
    """
    return _weights(RoundGeometry(history).cosines)


def foolsgold_coefficients(
    round_: RoundGeometry, *, pardoning: bool = True, logit: bool = True, undivided: bool = False
) -> Tensor:
    """Coefficients ``(n,)`` fp64 of `foolsgold`; 0 if all weights are."""
    weights = _weights(round_.cosines, pardoning=pardoning, logit=logit)
    return weights if undivided else weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)


@weighs(foolsgold_coefficients)
def foolsgold(U: Tensor, *, pardoning: bool = True, logit: bool = True, undivided: bool = False) -> Tensor:
    """The mean weighed by `foolsgold_weights` of one round alone, ``(n, d)`` to ``(d,)``; zero if all weights are.

    Args:
        U: ``(n, d)``.
        pardoning: whether clients that are similar only to one that is more similar to others are pardoned.
        logit: whether weights are stretched by the logit.
        undivided: the weighted sum, as the authors' code has it, in place of the mean.
    """
    round_ = RoundGeometry(U)
    return round_.combine(foolsgold_coefficients(round_, pardoning=pardoning, logit=logit, undivided=undivided))


def _weights(cosines: Tensor, *, pardoning: bool = True, logit: bool = True) -> Tensor:
    similarity = cosines.clone().fill_diagonal_(0.0)
    # a row's own zero takes part in the maximum, so that similarity is never negative
    if pardoning:
        largest = similarity.max(dim=1).values + _EPSILON
        similarity = similarity * (largest.unsqueeze(1) / largest.unsqueeze(0)).clamp_max(1.0)
    weights = (1.0 - similarity.max(dim=1).values).clamp(0.0, 1.0)
    highest = float(weights.max())
    if highest <= 1e-9:  # what is left of 1 - cos for identical rows is rounding, not dissimilarity
        return torch.zeros_like(weights)
    weights = weights / highest
    if not logit:
        return weights
    weights = torch.where(weights >= 1.0, _ALMOST_ONE, weights)
    return (torch.log(weights / (1.0 - weights) + _EPSILON) + 0.5).clamp(0.0, 1.0)


def feature_importance(weights: Tensor, share: float) -> Tensor:
    """How much each weight of the output layer matters to its class (Fung et al. 2020, section 6.1, after their code).

    ``|w - mean|`` over a class's weights, divided by its sum; all but the ``share`` largest are 0.

    Args:
        weights: ``(classes, features)``.
        share: of the features of a class that are kept, in (0, 1]; at least one.

    Returns:
        ``(classes, features)`` fp64; ones where a class's weights are all alike.
    """
    away = (weights.double() - weights.double().mean(dim=1, keepdim=True)).abs()
    total = away.sum(dim=1, keepdim=True)
    result = torch.where(total > 0, away / total.clamp_min(torch.finfo(away.dtype).tiny), 1.0)
    count = max(1, int(share * weights.shape[1] + 1e-9))
    kept = torch.zeros_like(result).scatter_(1, result.argsort(dim=1, descending=True, stable=True)[:, :count], 1.0)
    return torch.where(total > 0, result * kept, result)


def remember(state: dict[str, Tensor], clients: tuple[int, ...], updates: Tensor) -> Tensor:
    """Add a round to the memory per identity and return the rows of its clients, ``(n, d)``.

    ``state["ids"] (m,)`` and ``state["history"] (m, d)`` grow by one row per identity never seen before.
    """
    ids = state.get("ids", torch.empty(0, dtype=torch.int64))
    history = state.get("history", updates.new_empty(0, updates.shape[1]))
    row_of = {int(identity): row for row, identity in enumerate(ids)}
    fresh = [client for client in dict.fromkeys(clients) if client not in row_of]
    row_of |= {client: len(ids) + place for place, client in enumerate(fresh)}
    ids = torch.cat([ids, torch.tensor(fresh, dtype=torch.int64)])
    history = torch.cat([history, updates.new_zeros(len(fresh), updates.shape[1])])
    rows = torch.tensor([row_of[client] for client in clients], device=updates.device)
    history.index_add_(0, rows, updates)
    state["ids"], state["history"] = ids, history
    return history[rows]


@dataclass(frozen=True, kw_only=True)
class FoolsGold(Defense):
    """FoolsGold with a memory per identity.

    The aggregate is ``sum_i a_i u_i / sum_i a_i``; the authors' code leaves out the division (``sum``), which
    multiplies the learning rate by the number of honest clients. Weights by example count are not used. Identities that
    change every round have no memory and are compared within the round only. Suspicion is ``1 - a_i``.
    """

    features: Annotated[
        Literal["all", "last-layer"],
        Field(description="Coordinates whose direction is compared: the whole update, or its last layer only"),
    ] = "all"
    importance: Annotated[
        float | None,
        Field(
            gt=0.0,
            le=1.0,
            description="Share of each class's output weights that count, by how far they are from their mean; empty: "
            "all alike; needs features: last-layer",
        ),
    ] = None
    memory: Annotated[bool, Field(description="Compare the sums of all rounds; false: the round alone (ablation)")] = (
        True
    )
    pardoning: Annotated[
        bool, Field(description="Pardon clients similar only to one that is more similar to others (ablation)")
    ] = True
    logit: Annotated[bool, Field(description="Stretch weights by the logit (ablation)")] = True
    sum: Annotated[bool, Field(description="Weighted sum in place of the mean, as the authors' code has it")] = False

    name: ClassVar[str] = "foolsgold"
    summary: ClassVar[str] = (
        "Lowers the weight of clients whose accumulated updates are too alike, which Sybils that share a goal are"
    )
    family: ClassVar[str] = "robust aggregation"
    paper: ClassVar[Paper | None] = Paper(
        title="The Limitations of Federated Learning in Sybil Settings",
        authors="Fung, Yoon, Beschastnikh",
        venue="RAID 2020",
        where="algorithm 1",
    )
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="the model from a poisoning goal that two or more identities share",
        against="any number of Sybils that send similar updates",
        assuming="honest clients hold different data; no attacker works alone or decorrelates its identities; "
        "no proof of a bound exists",
    )
    cost: ClassVar[str] = "n^2 d per round and a memory of one update per identity; slows training on similar clients"

    def problems(self, setting: Setting) -> Sequence[tuple[str, str]]:
        """Similarity needs two clients whose updates nobody mixed, and importance an output layer of weights."""
        found = []
        if setting.cohort < 2:
            lone = f"foolsgold compares clients, and the cohort is {setting.cohort:g}"
            found.append((lone, "use a cohort of 3 or more"))
        found.extend(
            (
                f"foolsgold behind {mixer}: {why}",
                f"leave {mixer} out, or measure both as stacks of their own",
            )
            for mixer, why in _MIXED.items()
            if mixer in setting.stack
        )
        if self.importance is not None and self.features != "last-layer":
            found.append(("foolsgold: importance is that of the output layer's weights", "set features: last-layer"))
        elif self.importance is not None and _output_weights(setting.layout) is None:
            lacking = "foolsgold: importance needs an output layer with a matrix of weights, and this model has none"
            found.append((lacking, "leave importance empty"))
        return found

    def aggregate(self, cohort: Cohort, context: RoundContext) -> Plain:
        """Weighted mean by FoolsGold's weights; all weights 0 gives the zero update and is reported."""
        cohort = finite(cohort, context)
        clients, payload = cohort.matrix()
        if not clients:
            return nothing(context, clients, payload)
        weights = _weights(self._cosines(cohort, context), pardoning=self.pardoning, logit=self.logit)
        used = weights > 0
        suspect(context, clients, 1.0 - weights)
        if not bool(used.any()):
            return nothing(context, clients, payload)
        exclude(context, clients, ~used)
        context.report["selected"] = float(used.sum())
        context.report["mean weight"] = float(weights.mean())
        value = geometry.combine(payload.values, weights if self.sum else weights / weights.sum())
        return one_row(value, payload.weights[used].sum())

    def function(self, n: int) -> Callable[[Tensor], Tensor] | None:
        """What it does in a first round, without memory; ``None`` where only a part of an update is compared."""
        if self.features != "all":
            return None
        return partial(foolsgold, pardoning=self.pardoning, logit=self.logit, undivided=self.sum)

    def _cosines(self, cohort: Cohort, context: RoundContext) -> Tensor:
        clients, payload = cohort.matrix()
        if not self.memory and self.features == "all":
            return cohort.geometry.cosines
        span = self._span(context.layout)
        compared = payload.values[:, span]
        if self.memory:
            compared = remember(context.state, clients, compared)
        if self.importance is not None:
            compared = compared * self._importance(context, span).to(compared)
        return RoundGeometry(compared).cosines

    def _importance(self, context: RoundContext, span: slice) -> Tensor:
        weights = _output_weights(context.layout)
        if context.model is None or weights is None:
            raise ValueError("foolsgold: importance needs the global model and its output layer's weights")
        place = slice(weights.start, weights.stop)
        values = context.model[place].reshape(weights.shape[0], -1)
        result = torch.zeros(context.layout.size, dtype=torch.float64, device=values.device)
        result[place] = feature_importance(values, self.importance or 1.0).flatten()
        return result[span]

    def _span(self, layout: Layout) -> slice:
        if self.features == "all":
            return slice(None)
        # parameters come first, so the last layer is that of the last trainable slot
        last = layout.parameters[-1].layer
        return slice(min(s.start for s in layout.parameters if s.layer == last), layout.trainable)


_MIXED = {
    "bucketing": "its rows are averages of random clients, which have no history",
    "nnm": "averages of neighbours are alike by construction, honest or not",
}


def _output_weights(layout: Layout) -> Slot | None:
    """The slot of the last layer's weights, ``(classes, ...)``."""
    last = layout.parameters[-1].layer
    return next((s for s in layout.parameters if s.layer == last and len(s.shape) >= 2), None)
