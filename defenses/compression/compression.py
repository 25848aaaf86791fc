"""What every compression has in common: float buffers in full, bytes on the wire, and error feedback."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec.protocol.payload import Code, Payload, Plain
from fedsec.protocol.stage import Defense, EnforcedBy, Guarantee, RoundContext, Setting

from ..expect import plain

ErrorFeedback = Annotated[
    bool,
    Field(
        description="whether a client keeps what compression left out and adds it to its next update, so that nothing "
        "is lost over the rounds (one vector per client is kept)"
    ),
]

ESTIMATOR = "estimator"
"""Key of a claim: ``unbiased`` (the expected decoded update is the update) or ``biased``."""
UNBIASED = "unbiased"
BIASED = "biased"


@dataclass(frozen=True, kw_only=True)
class Compression(Defense):
    """Compress the parameters of each row, and send float buffers as they are.

    Batch-norm statistics travel in the update as float buffers and are sent as they are: a variance that moves by
    a common magnitude may become negative. A stage behind this one that changes values sends them number by number
    again, so compression saves bytes only as the last stage in clear.
    """

    family: ClassVar[str] = "compression"
    guarantee: ClassVar[Guarantee]

    @property
    def enforcement(self) -> EnforcedBy:
        """The client: whoever sends a full vector is served too."""
        return EnforcedBy.CLIENT

    @property
    def unbiased(self) -> bool:
        """Whether the expected decoded update is the update."""
        return False

    @property
    def remembers(self) -> bool:
        """Whether clients use error feedback."""
        return False

    @abstractmethod
    def compress(self, updates: Tensor, context: RoundContext) -> tuple[Tensor, Code]:
        """``(n, trainable)`` parameters, one row per client, to what the code of a whole row can hold, and the code."""

    def problems(self, setting: Setting) -> Sequence[tuple[str, str]]:
        """A model without parameters; error feedback of clients that do not come back."""
        found = [] if setting.layout.trainable else [("the model has no parameters", "use a model that is trained")]
        times = setting.rounds * min(1.0, setting.cohort / setting.population)
        if self.remembers and setting.rounds > 1 and times < 2:
            found.append(
                (
                    f"a client takes part {times:.2g} times on average, and what error feedback holds back is sent "
                    "only when it comes again",
                    "set `error_feedback: false`, train for more rounds, or use random-k or qsgd, whose error has "
                    "mean zero",
                )
            )
        return found

    def claims(self, setting: Setting) -> dict[str, float | str]:
        """Whether what the server decodes is the update on average."""
        return {ESTIMATOR: UNBIASED if self.unbiased else BIASED}

    def seal(self, update: Payload, context: RoundContext) -> Plain:
        """Compress every row; with error feedback, what was left out before is added first and kept after."""
        received = plain(update, self.name)
        trainable = context.layout.trainable
        wanted = received.values[:, :trainable]
        if self.remembers:
            wanted = wanted + self._remembered(wanted, context)
        sent, code = self.compress(wanted, context)
        if self.remembers:
            left = wanted - sent
            context.state.update({self._key(c): left[i].clone() for i, c in enumerate(context.clients)})
        values = torch.cat([sent, received.values[:, trainable:]], dim=1)
        coded = Plain(values, received.weights, code)
        if len(coded):
            dense = Plain(values, received.weights).nbytes(0)
            context.report["size_share"] = sum(coded.nbytes(row) for row in range(len(coded))) / (dense * len(coded))
            context.report["error"] = _relative_error(wanted, sent)
        return coded

    def _remembered(self, like: Tensor, context: RoundContext) -> Tensor:
        none = like.new_zeros(like.shape[1])
        rows = [context.state.get(self._key(client), none).to(like) for client in context.clients]
        return torch.stack(rows) if rows else torch.zeros_like(like)

    @staticmethod
    def _key(client: int) -> str:
        return f"left out/{client}"


@dataclass(frozen=True, kw_only=True)
class CompressionWithMemory(Compression):
    """A compression whose clients may use error feedback.

    The residual is the client's own and never leaves it: it is kept by identity, not by batch and not by place in a
    cohort, so that one client's data never enter another's update.
    """

    error_feedback: ErrorFeedback = False

    @property
    def remembers(self) -> bool:
        """The parameter."""
        return self.error_feedback


def kept(share: float, size: int) -> int:
    """Coordinates that are sent of ``size``: the share, rounded up, and at least one."""
    # the tolerance keeps 0.1 * 30, which floating point makes 3.0000000000000004, at 3
    return min(size, max(1, math.ceil(share * size * (1 - 1e-12))))


def uniforms(context: RoundContext, purpose: str, like: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) shaped like ``(n, k)``, each row from its client's own generator."""
    rows = [
        torch.rand(like.shape[1], generator=context.generator(purpose, client), dtype=torch.float64)
        for client in context.clients
    ]
    return torch.stack(rows).to(like.device) if rows else like.new_zeros(like.shape, dtype=torch.float64)


def _relative_error(wanted: Tensor, sent: Tensor) -> float:
    """Mean over rows of the norm of what is missing over the norm of the row; 0 for a row of zeros."""
    norms = torch.linalg.vector_norm(wanted, dim=1, dtype=torch.float64)
    missing = torch.linalg.vector_norm(wanted - sent, dim=1, dtype=torch.float64)
    return float((missing / norms.clamp_min(torch.finfo(torch.float64).tiny)).mean())
