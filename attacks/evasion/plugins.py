"""The gradient attacks on the released model as plugins: white-box evasion at deployment."""

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
from fedsec.threat import Capability, Knowledge, Paper, Stage, Taxonomy, ThreatModel

from .gradient_ascent import Passes, fgsm, pgd

_BATCH = 250

_TAXONOMY = (
    Taxonomy("nist-ai-100-2e2025", "NISTAML.022", "Evasion", "exact"),
    Taxonomy("mitre-atlas-5.6", "AML.T0015", "Evade AI Model", "exact"),
    Taxonomy("mitre-atlas-5.6", "AML.T0043", "Craft Adversarial Data", "exact"),
    Taxonomy("mitre-atlas-5.6", "AML.T0043.000", "White-Box Optimization", "exact"),
    Taxonomy("owasp-ml-2023", "ML01", "Input Manipulation Attack", "exact"),
)

Epsilon = Annotated[
    float,
    Field(ge=0, description="size of the perturbation, in units of the dataset's inputs (0.031 is 8/255 on [0, 1])"),
]
NormField = Annotated[Norm, Field(description="norm in which the size is measured: linf or l2")]
ExamplesField = Annotated[int, Field(ge=1, description="test inputs attacked at the most, the first ones")]


class _WhiteBox(Attack):
    """Perturb the first test inputs against the last released model."""

    family: ClassVar[str] = "adversarial examples"
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = _TAXONOMY
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
        }
    )

    examples: ExamplesField

    def rounds(self, total: int) -> tuple[int, ...]:
        """The last round: what is published."""
        return (total - 1,)

    def run(self, view: View, facts: PublicFacts, *, generator: torch.Generator) -> AdversarialInputs:
        """See `Attack.run`.

        Raises:
            NotApplicable: the inputs are not images, or there are no classes to be misread as.
        """
        if facts.info.modality != "image" or facts.info.bounds is None:
            raise NotApplicable(
                f"a small perturbation that nobody notices has no meaning for {facts.info.modality} inputs"
            )
        if facts.info.task != "classification":
            raise NotApplicable(f"a {facts.info.task} has no classes to be misread as")
        inputs = facts.test_inputs
        x, y = inputs.x[: self.examples], inputs.y[: self.examples]
        released = view.of(Topic.RELEASE)[-1].values
        net, passes = facts.model.instance(released), Passes()
        parts = [
            self.perturb(net, a.to(released), b.to(released.device), facts.info.bounds, generator, passes)
            for a, b in zip(torch.split(x, _BATCH), torch.split(y, _BATCH), strict=True)
        ]
        return AdversarialInputs(inputs=torch.cat(parts).to(x), forwards=passes.forwards, backwards=passes.backwards)

    @abstractmethod
    def perturb(
        self,
        net: nn.Module,
        x: Tensor,
        y: Tensor,
        bounds: tuple[float, float],
        generator: torch.Generator,
        passes: Passes,
    ) -> Tensor:
        """One batch of inputs, perturbed."""


@dataclass(frozen=True, kw_only=True)
class FastGradientSign(_WhiteBox):
    """FGSM: one step of the full size along the sign of the gradient (the gradient itself in l2)."""

    name: ClassVar[str] = "fgsm"
    summary: ClassVar[str] = (
        "Alters every pixel by one signed gradient step so that the published model misreads the input"
    )
    paper: ClassVar[Paper | None] = Paper(
        title="Explaining and Harnessing Adversarial Examples",
        authors="Goodfellow, Shlens, Szegedy",
        venue="ICLR 2015",
        where="section 4",
    )
    cost: ClassVar[str] = "one forward and one backward pass per input"

    eps: Epsilon = 0.1
    norm: NormField = "linf"
    examples: ExamplesField = 500

    def perturb(
        self,
        net: nn.Module,
        x: Tensor,
        y: Tensor,
        bounds: tuple[float, float],
        generator: torch.Generator,
        passes: Passes,
    ) -> Tensor:
        """See `fgsm`."""
        return fgsm(net, x, y, eps=self.eps, norm=self.norm, bounds=bounds, passes=passes)


@dataclass(frozen=True, kw_only=True)
class ProjectedGradientDescent(_WhiteBox):
    """PGD: many small steps inside the ball from random starts, the worst case over restarts for each input."""

    name: ClassVar[str] = "pgd"
    summary: ClassVar[str] = (
        "Searches the neighbourhood of an input by gradient steps for a point that the model misreads"
    )
    paper: ClassVar[Paper | None] = Paper(
        title="Towards Deep Learning Models Resistant to Adversarial Attacks",
        authors="Madry, Makelov, Schmidt, Tsipras, Vladu",
        venue="ICLR 2018",
        where="section 2.1",
    )
    cost: ClassVar[str] = "at most steps x restarts forward and backward passes per input; misread inputs stop early"

    eps: Epsilon = 0.1
    step: Annotated[
        float | None, Field(gt=0, description="length of a step in units of the inputs; null for 2.5 eps / steps")
    ] = None
    steps: Annotated[int, Field(ge=1, description="gradient steps per restart")] = 40
    norm: NormField = "linf"
    restarts: Annotated[int, Field(ge=1, description="random starts per input")] = 1
    examples: ExamplesField = 500

    def perturb(
        self,
        net: nn.Module,
        x: Tensor,
        y: Tensor,
        bounds: tuple[float, float],
        generator: torch.Generator,
        passes: Passes,
    ) -> Tensor:
        """See `pgd`."""
        return pgd(
            net,
            x,
            y,
            eps=self.eps,
            step=self.step,
            steps=self.steps,
            norm=self.norm,
            bounds=bounds,
            restarts=self.restarts,
            generator=generator,
            passes=passes,
        )
