"""What the attacks on the published model share: inputs, a ball, tables, and the cost."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsec.ball import Norm
from fedsec.protocol.events import Topic
from fedsec.protocol.evidence import AdversarialInputs
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.parties import Attack
from fedsec.protocol.view import View
from fedsec.threat import Capability, Knowledge, Stage, Taxonomy, ThreatModel

from .gradient_ascent import Passes
from .hyperplane import Metric, size
from .tables import Table, alter_rows

_BATCH = 250
_ROUNDING = 1e-6

WHITE_BOX = (
    Taxonomy("nist-ai-100-2e2025", "NISTAML.022", "Evasion", "exact"),
    Taxonomy("mitre-atlas-5.6", "AML.T0015", "Evade AI Model", "exact"),
    Taxonomy("mitre-atlas-5.6", "AML.T0043", "Craft Adversarial Data", "exact"),
    Taxonomy("mitre-atlas-5.6", "AML.T0043.000", "White-Box Optimization", "exact"),
    Taxonomy("owasp-ml-2023", "ML01", "Input Manipulation Attack", "exact"),
)
BLACK_BOX = (
    Taxonomy("nist-ai-100-2e2025", "NISTAML.025", "Black-box Evasion", "exact"),
    Taxonomy("mitre-atlas-5.6", "AML.T0015", "Evade AI Model", "exact"),
    Taxonomy("mitre-atlas-5.6", "AML.T0043.001", "Black-Box Optimization", "exact"),
    Taxonomy("owasp-ml-2023", "ML01", "Input Manipulation Attack", "exact"),
)

NormField = Annotated[Norm, Field(description="norm in which the size is measured: linf or l2")]
AnyNormField = Annotated[Metric, Field(description="norm in which the size is measured: linf, l2 or l1")]
Bounds = tuple[float | Tensor, float | Tensor]


@dataclass(frozen=True, kw_only=True)
class Evasion(Attack):
    """Perturb the first test inputs so that the last released model misreads them.

    Images are perturbed as they are. Of a table's rows the numbers are, within the ball, and categories are swapped
    whole (`alter_rows`); columns that state a sensitive attribute stay as they are.
    """

    family: ClassVar[str] = "adversarial examples"
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = WHITE_BOX
    threat: ClassVar[ThreatModel] = ThreatModel(
        story="Somebody who has the published model alters an input so slightly that nobody notices, and it is misread",
        position="outsider",
        knowledge=frozenset({Knowledge.TEST_INPUTS}),
        capabilities=frozenset({Capability.TESTING_DATA_CONTROL}),
        stage=Stage.DEPLOYMENT,
    )
    wants: ClassVar[tuple[Topic, ...]] = (Topic.RELEASE,)
    judge: ClassVar[str] = "evasion"
    adaptive_to: ClassVar[frozenset[str]] = frozenset(
        {
            "adversarial training",
            "clipping",
            "homomorphic encryption",
            "differential privacy",
            "robust aggregation",
            "anomaly detection",
            "input restriction",
            "ensemble",
        }
    )
    decisions: ClassVar[bool] = False
    """Whether it sees predicted classes alone."""

    eps: Annotated[
        float,
        Field(
            ge=0,
            description="size of the perturbation, in units of the dataset's inputs (0.031 is 8/255 on [0, 1]; of a "
            "table, its numbers as they are scaled)",
        ),
    ] = 0.1
    examples: Annotated[int, Field(ge=1, description="test inputs attacked at the most, the first ones")] = 500
    immutable: Annotated[
        tuple[str, ...] | None,
        Field(description="columns of a table that are never altered; null for those that state a sensitive attribute"),
    ] = None
    swaps: Annotated[
        int, Field(ge=0, description="columns with categories that may take another value, per row of a table")
    ] = 1

    def rounds(self, total: int) -> tuple[int, ...]:
        """The last round: what is published."""
        return (total - 1,)

    def run(self, view: View, facts: PublicFacts, *, generator: torch.Generator) -> AdversarialInputs:
        """See `Attack.run`.

        Raises:
            NotApplicable: inputs without a small perturbation, no classes to be misread as, or no such column.
        """
        released = view.of(Topic.RELEASE)[-1].values
        return self.crafted(facts.model.instance(released), facts, released, generator)

    def crafted(
        self, net: nn.Module, facts: PublicFacts, place: Tensor, generator: torch.Generator
    ) -> AdversarialInputs:
        """Evidence against a network.

        Args:
            net: it.
            facts: the dataset and the inputs.
            place: a tensor of the network's type and device.
            generator: the attack's.
        """
        table = rows_of(facts, self.immutable)
        inputs, passes = facts.test_inputs, Passes()
        x, y = inputs.x[: self.examples], inputs.y[: self.examples]
        parts, beyond = [], []
        for a, b in zip(torch.split(x, _BATCH), torch.split(y, _BATCH), strict=True):
            points, nearest = self._batch(net, a.to(place), b.to(place.device), table, facts, generator, passes)
            parts.append(points)
            beyond.append(nearest)
        known = [nearest for nearest in beyond if nearest is not None]
        return AdversarialInputs(
            inputs=torch.cat(parts).to(x),
            forwards=passes.forwards,
            backwards=passes.backwards,
            nearest=torch.cat(known).to(x) if known else None,
            size=self.eps,
        )

    def _batch(
        self,
        net: nn.Module,
        x: Tensor,
        y: Tensor,
        table: Table | None,
        facts: PublicFacts,
        generator: torch.Generator,
        passes: Passes,
    ) -> tuple[Tensor, Tensor | None]:
        """Perturbed inputs, and the nearest misread ones at any distance, where these are sought."""
        if table is None:
            return self.perturb(net, x, y, facts.info.bounds or (0.0, 1.0), generator, passes), None
        found = alter_rows(
            net,
            x,
            y,
            search=lambda model, rows, classes, bounds: self.perturb(model, rows, classes, bounds, generator, passes),
            table=table,
            swaps=self.swaps,
            decisions=self.decisions,
            passes=passes,
        )
        return found, None

    @abstractmethod
    def perturb(
        self, net: nn.Module, x: Tensor, y: Tensor, bounds: Bounds, generator: torch.Generator, passes: Passes
    ) -> Tensor:
        """One batch of inputs, perturbed within the ball."""


@dataclass(frozen=True, kw_only=True)
class NearestPoint(Evasion):
    """An attack that seeks the nearest misread input, at any distance.

    A point counts only within ``eps``; where there is none, the input is returned as it was. On images the points
    beyond go with the evidence: one run tells the accuracy at every size. On tables, where a swap may be nearer than
    any number, the search ends at ``eps``.
    """

    def perturb(
        self, net: nn.Module, x: Tensor, y: Tensor, bounds: Bounds, generator: torch.Generator, passes: Passes
    ) -> Tensor:
        """See `Evasion.perturb`."""
        return self.nearest(net, x, y, self.eps, bounds, generator, passes)

    def _batch(
        self,
        net: nn.Module,
        x: Tensor,
        y: Tensor,
        table: Table | None,
        facts: PublicFacts,
        generator: torch.Generator,
        passes: Passes,
    ) -> tuple[Tensor, Tensor | None]:
        if table is not None or not self.beyond:
            return super()._batch(net, x, y, table, facts, generator, passes)
        bounds = facts.info.bounds or (0.0, 1.0)
        points = self.nearest(net, x, y, torch.inf, bounds, generator, passes)
        inside = size(points - x, self.metric) <= self.eps + _ROUNDING
        return torch.where(inside.reshape(-1, *(1 for _ in x.shape[1:])), points, x), points

    @property
    def beyond(self) -> bool:
        """Whether points beyond the ball are sought too."""
        return True

    @property
    @abstractmethod
    def metric(self) -> Metric:
        """The norm in which points are near."""

    @abstractmethod
    def nearest(
        self,
        net: nn.Module,
        x: Tensor,
        y: Tensor,
        eps: float,
        bounds: Bounds,
        generator: torch.Generator,
        passes: Passes,
    ) -> Tensor:
        """The nearest misread inputs that are found no further than ``eps``, else the inputs."""


def rows_of(facts: PublicFacts, immutable: tuple[str, ...] | None) -> Table | None:
    """What may change of a table's rows; ``None`` for images.

    Raises:
        NotApplicable: inputs without a small perturbation, no classes to be misread as, or no such column.
    """
    info = facts.info
    if info.modality not in ("image", "tabular") or info.bounds is None:
        raise NotApplicable(f"a small perturbation that nobody notices has no meaning for {info.modality} inputs")
    if info.task != "classification":
        raise NotApplicable(f"a {info.task} has no classes to be misread as")
    if info.modality == "image":
        return None
    try:
        return Table.of(info, immutable)
    except ValueError as error:
        raise NotApplicable(str(error)) from error
