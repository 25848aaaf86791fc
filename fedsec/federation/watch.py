"""What a defense said of the identities it heard, round by round: the raw material of detection rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

FIELDS = ("round", "client", "controlled", "acting", "excluded", "examples", "majority")


@dataclass
class Watch:
    """One row for every identity and round in which it was heard (its upload arrived, or it was not admitted).

    Attributes:
        rows: ``(round, client, controlled, acting)`` each; acting: whether it attacked in that round.
    """

    rows: list[tuple[int, int, bool, bool]] = field(default_factory=list)

    def heard(self, number: int, clients: Sequence[int], *, controlled: bool, acting: bool) -> None:
        """Note who was heard in a round."""
        self.rows.extend((number, client, controlled, acting) for client in clients)

    def tensors(
        self,
        excluded: Sequence[tuple[int, int]],
        scores: Mapping[tuple[int, int], float],
        holdings: Mapping[int, tuple[int, int]],
        within: Mapping[int, int] | None = None,
    ) -> dict[str, Tensor]:
        """Columns by name, int64 but for ``score`` (fp64, NaN where the defense gave none).

        Args:
            excluded: ``(round, client)`` that the defense dropped.
            scores: suspicion by ``(round, client)``, higher is more.
            holdings: number of examples and most frequent class of each client's data; -1 where there are no classes.
            within: 1 for clients that run the local hooks which only a share of the clients runs, 0 for the others.

        Returns:
            `FIELDS`, ``score``, and where some clients are named in it ``within`` (-1 for the others).
        """
        dropped = set(excluded)
        table = [
            (number, client, controlled, acting, (number, client) in dropped, *holdings.get(client, (0, -1)))
            for number, client, controlled, acting in self.rows
        ]
        columns = torch.tensor(table, dtype=torch.int64).reshape(len(table), len(FIELDS))
        found = {name: columns[:, place].clone() for place, name in enumerate(FIELDS)}
        nothing = float("nan")
        given = [scores.get((number, client), nothing) for number, client, _, _ in self.rows]
        found["score"] = torch.tensor(given, dtype=torch.float64)
        if within:
            found["within"] = torch.tensor([within.get(client, -1) for _, client, _, _ in self.rows], dtype=torch.int64)
        return found


def by_share(watch: Mapping[str, Tensor]) -> dict[str, float]:
    """What a stack made of the honest clients that run a partial local hook (``within``) and of the others.

    Args:
        watch: see `Watch.tensors`.

    Returns:
        ``share.within`` (of the honest that were heard), and for ``within`` and ``outside`` the share of the rounds
        in which they were dropped, ``share.<group>.dropped``, and their mean suspicion, ``share.<group>.score``, where
        the stack gave scores. Empty if no hook is partial.
    """
    if "within" not in watch:
        return {}
    honest = (watch["controlled"] == 0) & (watch["within"] >= 0)
    found = {"share.within": float(watch["within"][honest].double().mean())} if bool(honest.any()) else {}
    for name, value in (("within", 1), ("outside", 0)):
        rows = honest & (watch["within"] == value)
        if not bool(rows.any()):
            continue
        found[f"share.{name}.dropped"] = float(watch["excluded"][rows].double().mean())
        scores = watch["score"][rows]
        if not bool(scores.isnan().all()):
            found[f"share.{name}.score"] = float(scores.nanmean())
    return found
