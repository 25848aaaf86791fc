"""What FLDetector remembers: clients' last updates, the path of the model, prediction errors, who was flagged."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedsec import geometry
from fedsec.protocol.payload import Plain

from .curvature import hessian_product

_NOBODY = -1


class History:
    """A view of a stage's tensors; all of them live in the state that it is given.

    ``ids (m,)``, ``updates (m, d)``, ``seen (m,)`` and ``errors (m, window)`` hold one row per identity: its last
    update, the round of that update, and its last prediction errors, NaN where there are none yet. ``models (k, d)``
    and ``rounds (k,)`` are the global models of the last rounds, ``steps`` and ``changes`` the pairs of the curvature.
    """

    def __init__(self, state: dict[str, Tensor], *, window: int) -> None:
        self._state, self._window = state, window
        ids = state.get("ids", torch.empty(0, dtype=torch.int64))
        self._row = {int(identity): row for row, identity in enumerate(ids)}

    @property
    def found(self) -> bool:
        """Whether anybody was ever flagged."""
        return len(self._state.get("flagged", ())) > 0

    def flagged(self, clients: Sequence[int]) -> Tensor:
        """Which of the clients were flagged, ``(n,)`` bool."""
        known = set(self._state.get("flagged", torch.empty(0, dtype=torch.int64)).tolist())
        return torch.tensor([client in known for client in clients], dtype=torch.bool)

    def flag(self, clients: Sequence[int]) -> None:
        """Flag clients, for good."""
        known = self._state.get("flagged", torch.empty(0, dtype=torch.int64)).tolist()
        self._state["flagged"] = torch.tensor(sorted({*known, *clients}), dtype=torch.int64)

    def suspicion(
        self, clients: Sequence[int], updates: Tensor, *, model: Tensor, number: int, among: Tensor
    ) -> Tensor:
        """Mean prediction error of each client, ``(n,)`` fp64 on the CPU, NaN without a prediction so far.

        Args:
            clients: identities of the rows.
            updates: ``(n, d)`` of this round.
            model: ``(d,)`` global model of this round.
            number: this round.
            among: ``(n,)`` bool, clients whose mean error in the round is 1.
        """
        errors = self._errors(clients, updates, model, number)
        usual = errors[among & ~torch.isnan(errors)]
        usual = usual if len(usual) else errors[~torch.isnan(errors)]
        unit = float(usual.mean()) if len(usual) else 0.0
        scores = torch.full((len(clients),), torch.nan, dtype=torch.float64)
        for place, client in enumerate(clients):
            row = self._row.get(client, _NOBODY)
            if row == _NOBODY:
                continue
            kept = self._state["errors"][row]
            if unit > 0.0 and not bool(torch.isnan(errors[place])):
                kept = torch.cat([kept[1:], errors[place : place + 1] / unit])
                self._state["errors"][row] = kept
            scores[place] = kept.nanmean()
        return scores

    def remember(self, clients: Sequence[int], payload: Plain, *, kept: Tensor, model: Tensor, number: int) -> None:
        """Take a round in; the curvature learns from the weighted mean of the rows that are ``kept (n,)``."""
        state, updates = self._state, payload.values
        self._grow(clients, updates)
        if len(clients):
            rows = torch.tensor([self._row[client] for client in clients], device=updates.device)
            state["updates"][rows] = updates
            state["seen"][rows.cpu()] = number
        weights = payload.weights.double() * kept.to(payload.weights.device)
        total = float(weights.sum())
        if total > 0.0:
            mean = geometry.combine(updates, weights / total)
            if "mean" in state:
                self._append("steps", model - state["mean at"], self._window)
                # updates point downhill, gradients uphill
                self._append("changes", state["mean"] - mean, self._window)
            state["mean"], state["mean at"] = mean, model.clone()
        self._append("models", model, self._window + 1)
        self._append("rounds", torch.tensor(number), self._window + 1)

    def _errors(self, clients: Sequence[int], updates: Tensor, model: Tensor, number: int) -> Tensor:
        """Distance of each update from its prediction, ``(n,)`` fp64 on the CPU, NaN where there is none."""
        errors = torch.full((len(clients),), torch.nan, dtype=torch.float64)
        if "steps" not in self._state or not bool(self._state["steps"][-1].any()):
            return errors
        rounds = self._state["rounds"].tolist()
        last = [int(self._state["seen"][self._row[c]]) if c in self._row else _NOBODY for c in clients]
        starts = sorted({when for when in last if when in rounds})
        if not starts:
            return errors
        moved = model - self._state["models"][[rounds.index(when) for when in starts]]
        bent = dict(zip(starts, hessian_product(self._state["steps"], self._state["changes"], moved), strict=True))
        for place, (client, when) in enumerate(zip(clients, last, strict=True)):
            if when in bent:
                predicted = self._state["updates"][self._row[client]] - bent[when]
                errors[place] = float(torch.linalg.vector_norm((updates[place] - predicted).double()))
        return errors

    def _grow(self, clients: Sequence[int], updates: Tensor) -> None:
        fresh = [client for client in dict.fromkeys(clients) if client not in self._row]
        state, m, k = self._state, len(self._row), len(fresh)
        self._row |= {client: m + place for place, client in enumerate(fresh)}
        empty = torch.empty(0, dtype=torch.int64)
        state["ids"] = torch.cat([state.get("ids", empty), torch.tensor(fresh, dtype=torch.int64)])
        state["seen"] = torch.cat([state.get("seen", empty), torch.full((k,), _NOBODY)])
        held = state.get("updates", updates.new_empty(0, updates.shape[1]))
        state["updates"] = torch.cat([held, updates.new_zeros(k, updates.shape[1])])
        errors = state.get("errors", torch.empty(0, self._window, dtype=torch.float64))
        state["errors"] = torch.cat([errors, torch.full((k, self._window), torch.nan, dtype=torch.float64)])

    def _append(self, name: str, value: Tensor, most: int) -> None:
        row = value.unsqueeze(0)
        self._state[name] = torch.cat([self._state[name], row])[-most:] if name in self._state else row.clone()
