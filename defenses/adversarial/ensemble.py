"""Ensembles: several architectures read each input, and what they say is averaged."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsec.data.examples import DatasetInfo
from fedsec.models.dense import MLP
from fedsec.models.dropout import CounterDropout, replace_dropout
from fedsec.models.flat import classification_loss
from fedsec.models.source import ModelSource
from fedsec.protocol.payload import Kind
from fedsec.protocol.stage import Defense, EnforcedBy, Guarantee, Setting
from fedsec.threat import Paper, Taxonomy

_APART = 1000
"""Between the salts of the members' dropout layers, so that their masks are independent."""
_COMPARES = frozenset({"trades"})
"""Defenses that compare outputs in train mode, of which an ensemble has one per member."""


@dataclass(frozen=True)
class OwnLosses:
    """The members' own losses added up, from outputs in train mode; the ensemble's loss, from those in eval mode.

    Attributes:
        members: how many there are.
        classes: of each.
    """

    members: int
    classes: int

    def __call__(self, outputs: Tensor, y: Tensor) -> Tensor:
        """``(..., b, members * C)`` or ``(..., b, C)``, and ``(..., b)``, to ``(..., b)``."""
        if outputs.shape[-1] == self.classes:
            return classification_loss(outputs, y)
        each = outputs.reshape(*outputs.shape[:-1], self.members, self.classes)
        return classification_loss(each, y.unsqueeze(-1).expand(each.shape[:-1])).sum(-1)


class Ensemble(nn.Module):
    """Members side by side.

    In eval mode: the logarithm of the weighted mean of their probabilities, ``(b, C)``, whose softmax is that mean. In
    train mode: the logits of all members in a row, ``(b, members * C)``, which `OwnLosses` scores one by one, so that
    each member's gradient is that of its own loss and the members are trained as if each were alone.
    """

    def __init__(self, members: Sequence[nn.Module], weights: Sequence[float], classes: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        total = sum(weights)
        self.register_buffer("shares", torch.tensor([w / total for w in weights]).log(), persistent=False)
        self.shares: Tensor
        self.training_loss = OwnLosses(len(members), classes)

    def forward(self, x: Tensor) -> Tensor:
        """Inputs to log-probabilities, or to everybody's logits in train mode."""
        logits = [member(x) for member in self.members]
        if self.training:
            return torch.cat(logits, -1)
        return (torch.stack(logits, -2).log_softmax(-1) + self.shares[:, None]).logsumexp(-2)


@dataclass(frozen=True, kw_only=True)
class EnsembleOfArchitectures(Defense):
    """The federation trains several architectures at once and releases their weighted average.

    The first member is the federation's own model. One update holds the parameters of all members, so rules, noise and
    encryption work on it as ever (norms and distances are those of all members together). A local step moves each
    member by the gradient of its own loss on the same batch. Adversarial training in the same stack perturbs inputs
    against the average.
    """

    name: ClassVar[str] = "ensemble"
    summary: ClassVar[str] = "Trains several architectures side by side and releases the average of their probabilities"
    family: ClassVar[str] = "ensemble"
    paper: ClassVar[Paper | None] = Paper(
        title="Ensemble Methods as a Defense to Adversarial Perturbations Against Deep Neural Networks",
        authors="Strauss, Hanselmann, Junginger, Ulmer",
        venue="arXiv 1709.03423, 2017",
        where="section 3, with different architectures",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = (
        Taxonomy("mitre-atlas-5.6", "AML.M0006", "Use Ensemble Methods", "exact"),
    )
    cost: ClassVar[str] = "time and bytes of all members together"
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="how the released model reads altered inputs on which its members do not fail alike",
        against="evasion; measured, not certified",
        assuming="nothing: an attacker who has the model attacks the average, and members often fail alike",
    )
    accepts: ClassVar[frozenset[Kind]] = frozenset({Kind.PLAIN, Kind.SEALED, Kind.MASKED})

    second: Annotated[
        ModelSource, Field(description="architecture beside the federation's own model: {name, parameters}")
    ] = MLP()  # noqa: RUF009 - frozen, so sharing one is safe
    third: Annotated[ModelSource | None, Field(description="one more architecture, or null for two")] = None
    weights: Annotated[
        tuple[float, ...],
        Field(description="weight of each member in the average, the federation's own first; empty for equal ones"),
    ] = ()

    @property
    def enforcement(self) -> EnforcedBy:
        """A model without one of the members is another model."""
        return EnforcedBy.FORMAT

    @property
    def _sources(self) -> tuple[ModelSource, ...]:
        return (self.second,) if self.third is None else (self.second, self.third)

    def problems(self, setting: Setting) -> Sequence[tuple[str, str]]:
        """See `Defense.problems`."""
        if setting.task != "classification":
            return ((f"a {setting.task} has no probabilities to be averaged", f"leave {self.name} out"),)
        found = []
        count = 1 + len(self._sources)
        if self.weights and (len(self.weights) != count or min(self.weights) <= 0):
            given = f"weights {list(self.weights)} for {count} members"
            found.append((f"{given}, each of which needs one above zero", f"write weights: {[1.0] * count}"))
        found.extend(
            (f"{other} compares outputs in training, of which an ensemble has one per member", f"leave {other} out")
            for other in setting.stack
            if other in _COMPARES
        )
        return tuple(found)

    def architecture(self, module: nn.Module, info: DatasetInfo) -> nn.Module:
        """See `Defense.architecture`.

        Raises:
            ConfigurationError: an architecture cannot read such inputs.
        """
        members = [module, *(replace_dropout(copy.deepcopy(source.build(info))) for source in self._sources)]
        for number, member in enumerate(members):
            for part in member.modules():
                if number and isinstance(part, CounterDropout):
                    part.salt += number * _APART
        return Ensemble(members, self.weights or (1.0,) * len(members), len(info.classes))
