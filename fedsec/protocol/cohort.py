"""The uploads of one round as the server has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor

from fedsec.protocol.payload import Payload, Plain
from fedsec.round_geometry import RoundGeometry


class Cohort:
    """The uploads of one round: streamed in chunks, or one matrix with one geometry if a rule needs it.

    Attributes:
        members: identities behind a row, where a row is a mixture of several; rows are named by the first of them.
    """

    def __init__(
        self,
        chunks: Iterable[tuple[tuple[int, ...], Payload]],
        *,
        nobody: Plain | None = None,
        members: Mapping[int, tuple[int, ...]] | None = None,
    ) -> None:
        """Take the uploads.

        Args:
            chunks: ``(clients, payload)`` each.
            nobody: the payload of no client, ``(0, d)``: gives size and dtype of a round in which nobody answered
                (without it such a round has no matrix).
            members: see above; rows that are not named stand for themselves.
        """
        self._chunks = iter(chunks)
        self._nobody = nobody
        self._matrix: tuple[tuple[int, ...], Plain] | None = None
        self.members = dict(members or {})

    def chunks(self) -> Iterator[tuple[tuple[int, ...], Payload]]:
        """``(clients, payload)`` chunk by chunk; can be read once, unless the matrix was asked for before."""
        if self._matrix is not None:
            return iter([self._matrix])
        return self._chunks

    def matrix(self) -> tuple[tuple[int, ...], Plain]:
        """Identities and the whole round as one ``(n, d)`` matrix: ``4 n d`` bytes; ``n`` may be 0."""
        if self._matrix is None:
            clients: list[int] = []
            values = [] if self._nobody is None else [self._nobody.values]
            weights = [] if self._nobody is None else [self._nobody.weights]
            for ids, payload in self._chunks:
                if not isinstance(payload, Plain):
                    raise TypeError(f"a {payload.kind} cohort has no matrix; the planner refuses such stacks")
                clients.extend(ids)
                values.append(payload.values)
                weights.append(payload.weights)
            joined = values[0] if len(values) == 1 else torch.cat([v for v in values if len(v)] or values[:1])
            self._matrix = tuple(clients), Plain(joined, torch.cat(weights))
        return self._matrix

    @cached_property
    def geometry(self) -> RoundGeometry:
        """The geometry of the round, shared by all that read it.

        Raises:
            ValueError: nobody answered, or a row is not finite.
        """
        return RoundGeometry(self.matrix()[1].values)

    def mixed(self, matrix: Tensor, *, groups: Iterable[tuple[int, ...]] | None = None) -> Cohort:
        """The cohort whose rows are ``matrix @ rows``; its products follow from this cohort's.

        Args:
            matrix: ``(m, n)``.
            groups: for each new row the identities behind it; ``None``: row ``i`` still stands for client ``i``.
        """
        clients, payload = self.matrix()
        geometry = self.geometry.mixed(matrix)
        share = matrix.to(payload.weights).abs()
        weights = share @ payload.weights / share.sum(dim=1).clamp_min(torch.finfo(share.dtype).tiny)
        members = dict(self.members)
        names = clients
        if groups is not None:
            held = [tuple(who for row in group for who in self.members.get(row, (row,))) for group in groups]
            names = tuple(min(group) for group in held)
            members = dict(zip(names, held, strict=True))
        result = Cohort([(names, Plain(geometry.rows, weights))], nobody=self._nobody, members=members)
        result.__dict__["geometry"] = geometry
        return result
