"""Sybils: one adversary joins under many identities and sends a poisoning attack through all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec.data.examples import Examples
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import Adversary, CoalitionView
from fedsec.randomness import derive_seed
from fedsec.randomness import generator as make_generator
from fedsec.threat import Capability, Knowledge, Paper, Stage, Taxonomy, ThreatModel

from ..poisoning.label_flip import LabelFlip

Behaviour = Literal["identical", "noisy", "decorrelated"]


def noisy(shared: Tensor, *, count: int, noise: float, generator: torch.Generator) -> Tensor:
    """``count`` copies of an update with Gaussian noise that cancels in their sum.

    Args:
        shared: ``(d,)``.
        count: identities ``k``.
        noise: expected norm of the noise of one copy, in norms of ``shared``.
        generator: of the noise.

    Returns:
        ``(k, d)`` whose mean is ``shared``; for ``k = 1`` there is nothing to cancel against, and no noise.
    """
    rows = shared.unsqueeze(0).repeat(count, 1)
    if count < 2:
        return rows
    draw = torch.randn(count, shared.numel(), generator=generator, dtype=torch.float32).to(shared.device)
    draw -= draw.mean(dim=0)
    # centring leaves 1 - 1/k of the variance
    scale = noise * float(torch.linalg.vector_norm(shared.double())) / math.sqrt(shared.numel() * (1.0 - 1.0 / count))
    return rows + (scale * draw).to(shared.dtype)


def decorrelated(shared: Tensor, *, directions: Tensor, similarity: float) -> Tensor:
    """Copies of an update that are spread until their pairwise cosine is ``similarity``; the spread cancels in the sum.

    The copies are ``shared + r e_i`` with the corners ``e_i`` of a regular simplex that is orthogonal to ``shared``:
    ``cos = (|s|^2 - r^2 / (k - 1)) / (|s|^2 + r^2)`` fixes ``r``. The lower the cosine, the longer the copies, which is
    what the evasion costs.

    Args:
        shared: ``(d,)``.
        directions: ``(k, d)`` linearly independent rows, ``k < d``; the same row for the same identity in
            every round keeps accumulated updates apart too.
        similarity: in [0, 1].

    Returns:
        ``(k, d)`` whose mean is ``shared``; without spread for ``k = 1`` or if ``shared`` is zero.

    Raises:
        ValueError: ``similarity`` is not in [0, 1], or not ``k < d``.
    """
    count, size = directions.shape
    if not 0.0 <= similarity <= 1.0:
        raise ValueError(f"similarity must be in [0, 1], got {similarity}")
    if count >= size:
        raise ValueError(f"{count} identities need more than {count} parameters to spread in, got {size}")
    norm = float(torch.linalg.vector_norm(shared.double()))
    rows = shared.unsqueeze(0).repeat(count, 1)
    if count < 2 or norm == 0.0:
        return rows
    unit = shared.double() / norm
    spread = directions.double()
    spread = spread - (spread @ unit).unsqueeze(1) * unit
    basis: Tensor = torch.linalg.qr(spread.t()).Q.t()
    corners = (basis - basis.mean(dim=0)) / math.sqrt(1.0 - 1.0 / count)
    radius = norm * math.sqrt((1.0 - similarity) / (similarity + 1.0 / (count - 1)))
    return rows + (radius * corners).to(shared.dtype)


@dataclass(frozen=True, kw_only=True)
class Sybil(Adversary):
    """Extra identities that amplify a poisoning attack.

    Sybils share the (poisoned) data of the controlled clients. The whole coalition, controlled clients
    included, sends one update, the mean of what the carried attack made for the controlled clients, in one of
    three ways: ``identical``; ``noisy``, with noise that cancels in the sum; ``decorrelated``, spread until any
    two of its updates have the cosine ``similarity``, in directions that stay with an identity over the rounds, against
    rules that look for Sybils. Judge, goal and taxonomy are those of the carried attack. The
    parameter ``fraction`` of the carried attack is not used.
    """

    carries: Annotated[
        Adversary, Field(description="Poisoning attack that the identities carry: {name, parameters}")
    ] = LabelFlip()  # noqa: RUF009 - frozen, so sharing one is safe
    identities: Annotated[int, Field(ge=1, le=100_000, description="Identities added to the population")] = 5
    fraction: Annotated[
        float,
        Field(
            ge=0.0, lt=1.0, description="Share of the population's real clients that it controls; 0: public data only"
        ),
    ] = 0.1
    behaviour: Annotated[Behaviour, Field(description="How alike the identities' updates are")] = "identical"
    noise: Annotated[
        float, Field(gt=0.0, description="Norm of the noise of a noisy update, in norms of the shared update")
    ] = 0.1
    similarity: Annotated[float, Field(ge=0.0, le=1.0, description="Cosine between any two decorrelated updates")] = 0.2

    name: ClassVar[str] = "sybil"
    summary: ClassVar[str] = (
        "Adds identities under one adversary's control that all send the poisoning attack it carries"
    )
    family: ClassVar[str] = "sybil"
    paper: ClassVar[Paper | None] = Paper(
        title="The Limitations of Federated Learning in Sybil Settings",
        authors="Fung, Yoon, Beschastnikh",
        venue="RAID 2020",
        where="sections 3 and 7 (Sybils, perturbed Sybils)",
    )
    # No framework has a word for Sybils: an instance puts the carried attack's identifiers before these.
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = (
        Taxonomy("nist-ai-100-2e2025", "", "", "none"),
        Taxonomy("mitre-atlas-5.6", "AML.T0021", "Establish Accounts", "partial"),
        Taxonomy("owasp-ml-2023", "", "", "none"),
    )
    threat: ClassVar[ThreatModel] = ThreatModel(
        story="One adversary joins under many names, so that its poisoned updates outvote the others",
        position="client",
        # for omniscient carried attacks; handed over only if the carried attack's `omniscient` is true
        knowledge=frozenset({Knowledge.HONEST_UPDATES}),
        capabilities=frozenset({Capability.IDENTITIES, Capability.TRAINING_DATA_CONTROL, Capability.MODEL_CONTROL}),
        stage=Stage.TRAINING,
    )
    judge: ClassVar[str] = "availability"
    cost: ClassVar[str] = "one training per identity in the simulation; an adversary would train once"

    def __post_init__(self) -> None:
        if isinstance(self.carries, Sybil):
            raise ValueError("sybil carries a poisoning attack, not another sybil")
        # the class has to name a judge and identifiers; an instance has those of what it carries
        object.__setattr__(self, "judge", self.carries.judge)
        accounts = tuple(entry for entry in Sybil.taxonomy if entry.id)
        object.__setattr__(self, "taxonomy", (*self.carries.taxonomy, *accounts))

    @property
    def carried(self) -> Adversary:
        """The attack that it carries."""
        return self.carries

    def poison(self, shard: Examples, facts: PublicFacts, *, generator: torch.Generator) -> Examples:
        """What the carried attack trains on."""
        return self.carries.poison(shard, facts, generator=generator)

    def craft(self, coalition: CoalitionView, facts: PublicFacts, *, generator: torch.Generator) -> Tensor:
        """One update for all identities, ``(k, d)``, spread according to ``behaviour``."""
        rows = self.carries.craft(coalition, facts, generator=generator)
        real = rows[~coalition.is_sybil]
        shared = (real if len(real) else rows).mean(dim=0)
        count = len(coalition.clients)
        if self.behaviour == "noisy":
            return noisy(shared, count=count, noise=self.noise, generator=generator)
        if self.behaviour == "decorrelated":
            directions = self._directions(coalition, size=shared.numel(), generator=generator).to(shared.device)
            return decorrelated(shared, directions=directions, similarity=self.similarity)
        return shared.expand_as(rows).clone()

    def goal(self) -> Mapping[str, int]:
        """The goal of the carried attack."""
        return self.carries.goal()

    @staticmethod
    def _directions(coalition: CoalitionView, *, size: int, generator: torch.Generator) -> Tensor:
        """One fixed random direction per identity: derived from its number and a seed kept in the state."""
        if "directions seed" not in coalition.state:
            coalition.state["directions seed"] = torch.randint(1 << 62, (1,), generator=generator)
        seed = int(coalition.state["directions seed"])
        draws = [
            torch.randn(size, generator=make_generator(derive_seed(seed, "sybil", client)))
            for client in coalition.clients
        ]
        return torch.stack(draws)
