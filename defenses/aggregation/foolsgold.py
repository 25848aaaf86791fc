"""FoolsGold: clients whose updates point the same way, round after round, lose their say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec import geometry
from fedsec.models.flat import Layout
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import Cohort, Defense, Guarantee, RoundContext, Setting
from fedsec.round_geometry import RoundGeometry
from fedsec.threat import Paper

from .rounds import exclude, gather, nothing, one_row

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


def foolsgold_coefficients(round_: RoundGeometry) -> Tensor:
    """Coefficients ``(n,)`` fp64 of the mean weighed by `foolsgold_weights` of one round; 0 if all weights are."""
    weights = _weights(round_.cosines)
    return weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)


def _weights(cosines: Tensor) -> Tensor:
    similarity = cosines.clone().fill_diagonal_(0.0)
    # a row's own zero takes part in the maximum, so that similarity is never negative
    largest = similarity.max(dim=1).values + _EPSILON
    pardon = (largest.unsqueeze(1) / largest.unsqueeze(0)).clamp_max(1.0)
    weights = (1.0 - (similarity * pardon).max(dim=1).values).clamp(0.0, 1.0)
    highest = float(weights.max())
    if highest <= 1e-9:  # what is left of 1 - cos for identical rows is rounding, not dissimilarity
        return torch.zeros_like(weights)
    weights = weights / highest
    weights = torch.where(weights >= 1.0, _ALMOST_ONE, weights)
    return (torch.log(weights / (1.0 - weights) + _EPSILON) + 0.5).clamp(0.0, 1.0)


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

    The aggregate is ``sum_i a_i u_i / sum_i a_i``; the authors' code leaves out the division, which multiplies
    the learning rate by the number of honest clients. Weights by example count are not used. Identities that change
    every round have no memory and are compared within the round only. Feature importance from the
    model's output weights (section 6.1) is not used; ``features`` restricts similarity to the last layer.
    """

    features: Annotated[
        Literal["all", "last-layer"],
        Field(description="Coordinates whose direction is compared: the whole update, or its last layer only"),
    ] = "all"

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

    def problems(self, setting: Setting) -> tuple[tuple[str, str], ...]:
        """Similarity needs at least two clients per round."""
        if setting.cohort >= 2:
            return ()
        return ((f"foolsgold compares clients, and the cohort is {setting.cohort:g}", "use a cohort of 3 or more"),)

    def aggregate(self, cohort: Cohort, context: RoundContext) -> Plain:
        """Weighted mean by FoolsGold's weights; all weights 0 gives the zero update and is reported."""
        clients, payload = gather(cohort, context)
        if not clients:
            return nothing(context, clients, payload)
        history = remember(context.state, clients, payload.values[:, self._span(context.layout)])
        weights = foolsgold_weights(history)
        used = weights > 0
        if not bool(used.any()):
            return nothing(context, clients, payload)
        exclude(context, clients, ~used)
        context.report["selected"] = float(used.sum())
        context.report["mean weight"] = float(weights.mean())
        return one_row(geometry.combine(payload.values, weights / weights.sum()), payload.weights[used].sum())

    def _span(self, layout: Layout) -> slice:
        if self.features == "all":
            return slice(None)
        # parameters come first, so the last layer is that of the last trainable slot
        last = layout.parameters[-1].layer
        return slice(min(s.start for s in layout.parameters if s.layer == last), layout.trainable)
