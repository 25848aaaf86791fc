"""Selective encryption: the most telling coordinates are encrypted, the rest travels in clear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedsec.errors import ConfigurationError, Problem
from fedsec.models.flat import Layout, Slot
from fedsec.protocol.payload import Kind, OpenPart, Payload, Plain, Sealed
from fedsec.protocol.stage import Defense, EnforcedBy, Guarantee, RoundContext, Setting
from fedsec.threat import Paper

from ..expect import plain
from .bfv import BFV
from .sensitivity import gradient_magnitude, label_sensitivity, most_sensitive, sealed_count

_SEALED = "sealed coordinates"


@dataclass(frozen=True)
class OpenCode:
    """A row written as its open coordinates only; the mask is public and does not travel.

    Attributes:
        where: ``(d,)`` bool.
    """

    where: Tensor

    def encode(self, row: Tensor) -> bytes:
        """See `Code`."""
        return row[self.where].detach().cpu().contiguous().numpy().tobytes()

    def decode(self, encoded: bytes) -> Tensor:
        """See `Code`; of float32, or of float64 where there are as many bytes."""
        width = len(encoded) // max(1, int(self.where.sum()))
        values = np.frombuffer(encoded, np.dtype(f"<f{width or 4}"))
        row = torch.zeros(len(self.where), dtype=torch.float64 if width == 8 else torch.float32)
        row[self.where.cpu()] = torch.from_numpy(values.copy())
        return row

    def nbytes(self, row: Tensor) -> int:
        """See `Code`."""
        return int(self.where.sum()) * row.element_size()


@dataclass(frozen=True, kw_only=True)
class SelectiveEncryption(Defense):
    """Encrypt the ``share`` of the parameters that say most about the data; leave the others in clear.

    The mask is made before the first round from the initial model and public examples, so everybody can compute
    it and it says nothing of anybody's data. In the paper clients measure the sensitivity on their own data and
    agree on a map under encryption; a map from public data of the same kind takes the place of that here. Float
    buffers (batch-norm statistics) are always encrypted. Weights travel in clear, because the server averages what is
    open by them.

    What is open is a plain update with holes: any attack reads it, and a result against this defense is a result about
    the open part. An attack that matches gradients knows the mask and matches only there.
    """

    name: ClassVar[str] = "selective-encryption"
    summary: ClassVar[str] = "Encrypts the most sensitive coordinates of each update and leaves the others in clear"
    family: ClassVar[str] = "homomorphic encryption"
    paper: ClassVar[Paper | None] = Paper(
        title="FedML-HE: An Efficient Homomorphic-Encryption-Based Privacy-Preserving Federated Learning System",
        authors="Jin, Yao, Han, Gu, Joe-Wong, Ravi, Avestimehr, He",
        venue="arXiv:2303.10837",
        where="algorithm 1 and section 2.4 (sensitivity map, selective encryption)",
    )
    cost: ClassVar[str] = "that of the scheme for the encrypted share; some public examples"
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="the encrypted coordinates of single updates, and nothing of the others",
        against="the server, and whoever listens to its channels",
        assuming="the server does not collude with a holder of the key, and the coordinates in clear do not give the "
        "data away by themselves, which only an attack can tell",
    )
    accepts: ClassVar[frozenset[Kind]] = frozenset({Kind.PLAIN})
    emits: ClassVar[Kind | None] = Kind.SEALED

    share: Annotated[float, Field(gt=0, le=1, description="share of the parameters that is encrypted, rounded up")] = (
        0.1
    )
    by: Annotated[
        Literal["sensitivity", "gradient", "random"],
        Field(
            description="which ones: those whose gradient a label moves most (classification), those with the largest "
            "gradient, both at the initial model on public examples, or any"
        ),
    ] = "sensitivity"
    examples: Annotated[
        int, Field(ge=1, description="public examples that the sensitivity is measured on; not for `by: random`")
    ] = 16
    scheme: Annotated[Defense, Field(description="what encrypts: `bfv`, `ckks` or `paillier` with its parameters")] = (
        BFV()  # noqa: RUF009 - frozen, so sharing one is safe
    )

    def __post_init__(self) -> None:
        if self.scheme.emits == Kind.SEALED and not isinstance(self.scheme, SelectiveEncryption):
            return
        raise ConfigurationError(
            [
                Problem(
                    path="scheme",
                    found=self.scheme.name,
                    expected="a defense that encrypts whole updates",
                    hint="Use `bfv`, `ckks` or `paillier`",
                )
            ]
        )

    @property
    def enforcement(self) -> EnforcedBy:
        """What has no ciphertext is not accepted."""
        return EnforcedBy.FORMAT

    @property
    def holders(self) -> frozenset[str]:  # type: ignore[override]  # the scheme decides it
        """Who reads all of the aggregate."""
        return self.scheme.holders

    @property
    def unit_weights(self) -> bool:  # type: ignore[override]  # the scheme decides it
        """As the scheme does."""
        return self.scheme.unit_weights

    @property
    def open_share(self) -> float:
        """Share of the parameters in clear."""
        return 1.0 - self.share

    def problems(self, setting: Setting) -> Sequence[tuple[str, str]]:
        """No public examples, no classes, and what the scheme cannot do with its part."""
        found = list(self.scheme.problems(self._of_scheme(setting)))
        if self.by != "random" and setting.public < self.examples:
            found.append(
                (
                    f"the sensitivity is measured on {self.examples} public examples, and there are {setting.public}",
                    f"set `federation.dataset.auxiliary: {self.examples}`, or `by: random`",
                )
            )
        if self.by == "sensitivity" and setting.task != "classification":
            found.append((f"no label moves a gradient in {setting.task}", "use `by: gradient`"))
        return found

    def claims(self, setting: Setting) -> dict[str, float | str]:
        """Those of the scheme for its part, and what is left open."""
        return {
            **self.scheme.claims(self._of_scheme(setting)),
            "open_share": self.open_share,
            "caveat": "what an attack finds here it found in the open part; nothing is claimed for that part",
        }

    def agree(self, context: RoundContext) -> None:
        """The mask: public, fixed before the first round, the same for everyone."""
        model, server, agreed = context.model, context.server, context.agreed
        if model is None or server is None or agreed is None:
            raise ValueError("the mask is made of the initial model and public examples")
        trainable = agreed.layout.trainable
        if self.by == "random":
            sensitivity = torch.rand(trainable, generator=context.generator("mask"))
        else:
            measure = label_sensitivity if self.by == "sensitivity" else gradient_magnitude
            sensitivity = measure(agreed, model, server.root(self.examples))
        buffers = torch.ones(agreed.layout.size - trainable, dtype=torch.bool)
        context.state[_SEALED] = torch.cat([most_sensitive(sensitivity, self.share).cpu(), buffers])
        context.report["open_share"] = 1.0 - float(context.state[_SEALED].double().mean())

    def seal(self, update: Payload, context: RoundContext) -> Sealed:
        """Encrypt the masked coordinates, and leave zeros in their places.

        Raises:
            TypeError: the update is not in clear.
            ConfigurationError: the scheme cannot hold it.
        """
        readable = plain(update, self.name)
        mask = self._mask(context).to(readable.values.device)
        sealed = self.scheme.seal(Plain(readable.values[:, mask], readable.weights), context)
        if not isinstance(sealed, Sealed):
            raise TypeError(f"{self.scheme.name} did not seal")
        if bool(mask.all()):
            return sealed
        rest = Plain(readable.values.masked_fill(mask, 0.0), readable.weights, OpenCode(~mask))
        return replace(sealed, open_part=OpenPart(rest, ~mask))

    def open(self, aggregate: Payload, context: RoundContext) -> Plain:
        """The mean of the open coordinates with that of the encrypted ones put in their places.

        Raises:
            TypeError: the aggregate was not sealed by this defense.
            PermissionError: the opener does not hold the key.
        """
        if isinstance(aggregate, Plain) and float(aggregate.weights.sum()) == 0.0:
            return aggregate
        if isinstance(aggregate, Sealed) and bool(self._mask(context).all()):
            return _opened(self.scheme.open(aggregate, context))
        if not isinstance(aggregate, Sealed) or aggregate.open_part is None:
            raise TypeError(f"{self.name} opens what {self.name} sealed and was given a {aggregate.kind} payload")
        opened = _opened(self.scheme.open(replace(aggregate, open_part=None), context))
        values = aggregate.open_part.plain.values.clone()
        mask = ~aggregate.open_part.where
        values[:, mask] = opened.values.to(values)
        return Plain(values, opened.weights)

    def _of_scheme(self, setting: Setting) -> Setting:
        """The federation as the scheme meets it: a model of the encrypted coordinates alone."""
        trainable = setting.layout.trainable
        size = sealed_count(trainable, self.share) + setting.layout.size - trainable
        return replace(setting, layout=Layout((Slot("sealed", (size,), 0, size, True),)))

    def _mask(self, context: RoundContext) -> Tensor:
        mask = context.state.get(_SEALED)
        if mask is None:
            raise RuntimeError("nobody agreed on a mask: `agree` runs before the first round")
        return mask


def _opened(payload: Payload) -> Plain:
    if not isinstance(payload, Plain):
        raise TypeError("the scheme of a selective encryption did not open what it sealed")
    return payload
