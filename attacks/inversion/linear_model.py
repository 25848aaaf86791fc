"""The example behind the gradient of a linear, logistic or softmax regression, in closed form.

The gradient of half the squared error of ``z = w.x + b`` is ``r x`` and ``r`` with the residual ``r = z - y``: with a
bias ``x`` and ``y`` are two divisions away. Without one the gradient ``g = (x.w - y) x`` gives the direction of ``x``,
and its length once the target is known, or once the same example was trained on from two different models. A softmax
regression without a bias gives the length too, since the ratios of its rows are ratios of probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec.protocol.events import Topic
from fedsec.protocol.evidence import Reconstructions
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.parties import Attack
from fedsec.protocol.view import View
from fedsec.threat import Knowledge, Paper, Taxonomy

from .base import INVERSION, threat_of
from .closed_form import single_input
from .labels import sign_rule
from .layers import FirstLayer, first_layer, head
from .victims import WANTS, Victim, choose, local_steps, surrogate_gradient


def linear_model_input(gradient: Tensor, weight: Tensor, offset: float, y: float) -> tuple[Tensor, ...]:
    """The example behind the gradient ``g = (x.w + offset - y) x`` of a linear regression whose target is known.

    With ``x = t g/|g|`` the length solves ``t (t u + offset - y) = |g|`` for ``u = g.w/|g|``: up to two real roots.

    Args:
        gradient: ``(f,)`` of half the squared error, at its true scale.
        weight: ``(f,)`` the model.
        offset: the model's bias, 0 if it has none.
        y: the target.

    Returns:
        The candidates ``(f,)``, the shorter first; none if no real root exists.
    """
    g = gradient.double()
    length = float(g.norm())
    if length == 0:
        return ()
    unit = g / length
    a, b, c = float(unit @ weight.double()), offset - y, -length
    if abs(a) < 1e-12:
        roots = [] if b == 0 else [-c / b]
    else:
        inside = b * b - 4 * a * c
        if inside < 0:
            return ()
        # the larger root without cancellation, the other from their product
        large = (-b - inside**0.5 if b >= 0 else -b + inside**0.5) / 2
        roots = [0.0] if large == 0 else [large / a, c / large]
    return tuple((unit * root).to(gradient) for root in sorted(roots, key=abs))


def mean_residual(residual: float, square: float, *, rate: float, steps: int) -> float:
    """Mean of the residuals along some local steps on one example, of which the first is given.

    Each step at rate ``r`` shrinks the residual by ``q = 1 - r |x|^2``, with ``|x|^2`` counting the bias as a feature.

    Args:
        residual: at the global model.
        square: ``|x|^2``.
        rate: of plain SGD.
        steps: local steps.
    """
    factor = 1 - rate * square
    return residual * sum(factor**k for k in range(steps)) / steps


def squared_length(lengths: Tensor, slopes: Tensor, *, rate: float, steps: int) -> float | None:
    """``|x|^2`` of an example that a regression without a bias was trained on from two or more models.

    With ``x = t u`` the signed length of the mean gradient is ``s = m t (t a - y)`` for ``a = w.u``, where ``m`` is
    the mean of ``q^k`` over the steps: linear in ``a`` with slope ``m t^2 = (1 - (1 - r t^2)^k) / (r k)``.

    Args:
        lengths: ``(n,)`` signed lengths ``s`` along the unit vector ``u``.
        slopes: ``(n,)`` ``a`` of the model behind each.
        rate: of plain SGD.
        steps: local steps.

    Returns:
        ``None`` if the models are alike along ``u``, or no example fits.
    """
    a, s = slopes.double() - slopes.double().mean(), lengths.double() - lengths.double().mean()
    spread = float(a.square().sum())
    if spread <= 1e-24:
        return None
    slope = float(a @ s) / spread
    rest = 1 - rate * steps * slope
    if not slope > 0 or not rest > 0:
        return None
    return slope if steps == 1 else (1 - rest ** (1 / steps)) / rate


def softmax_input(gradient: Tensor, weight: Tensor) -> tuple[Tensor, int] | None:
    """The example and label behind the gradient of a softmax regression without a bias.

    Rows are ``(p_c - y_c) x``. Along ``x = t u`` all rows but the label's have the coefficients ``t p_c`` up to the
    gradient's scale, so ``log`` of them is linear in ``w_c . u`` with slope ``t``. The scale is not needed.

    Args:
        gradient: ``(C, f)`` of the weight, three classes or more, up to a positive factor.
        weight: ``(C, f)`` the model.

    Returns:
        ``None`` where the length stays unknown: two classes, or logits that do not differ.
    """
    g, w = gradient.double(), weight.double()
    unit = torch.linalg.svd(g, full_matrices=False).Vh[0]
    along = g @ unit
    label = int(along.abs().argmax())
    if along[label] > 0:
        unit, along = -unit, -along
    rest = (torch.arange(len(g)) != label).to(g.device) & (along > 0)
    logits = (w @ unit)[rest]
    # a coefficient's rounding error is the same for all, so its logarithm is as exact as it is large
    trust = along[rest].square()
    centred = logits - (trust * logits).sum() / trust.sum()
    spread = (trust * centred.square()).sum()
    if int(rest.sum()) < 2 or not spread > 1e-18 * trust.sum():
        return None
    log = along[rest].log()
    return (unit * ((trust * centred * log).sum() / spread)).to(gradient), label


@dataclass(frozen=True, kw_only=True)
class LinearModelInversion(Attack):
    """Reads the one example behind an update of a model that is a single linear layer.

    With a bias every update gives it, whatever the rate and the number of steps. Without, a softmax regression of three
    classes or more gives it, and a linear regression if the same client was seen in two rounds (of an example and its
    mirror image, which explain the updates equally well, the one inside the bounds is taken). Updates of several
    examples are not attacked: each output has one row, which is a weighted sum of all of them. Targets are for plain
    SGD without weight decay; several steps with momentum are refused.
    """

    name: ClassVar[str] = "linear-model-inversion"
    summary: ClassVar[str] = "Reads the example behind an update of a linear, logistic or softmax regression exactly"
    family: ClassVar[str] = "gradient inversion"
    paper: ClassVar[Paper | None] = Paper(
        title="Privacy-Preserving Deep Learning via Additively Homomorphic Encryption",
        authors="Phong, Aono, Hayashi, Wang, Moriai",
        venue="IEEE TIFS 2018",
        where="section 3, examples 1 and 2",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = INVERSION
    threat = threat_of(
        "A curious server solves an update of a linear model for the one example that caused it.",
        Knowledge.COUNTS,
        Knowledge.LOCAL_TRAINING,
    )
    wants: ClassVar[tuple[Topic, ...]] = WANTS
    also_sees: ClassVar[tuple[Topic, ...]] = (Topic.BROADCAST,)
    judge: ClassVar[str] = "reconstruction"
    adaptive_to: ClassVar[frozenset[str]] = frozenset({"clipping", "homomorphic encryption", "robust aggregation"})
    cost: ClassVar[str] = "a few products of one layer's size per victim"

    targets: Annotated[int, Field(ge=1, description="Clients attacked, in the order in which they are seen")] = 32
    first_rounds: Annotated[int, Field(ge=1, description="Rounds that are read, counted from the first")] = 3

    def rounds(self, total: int) -> range:
        """The first rounds."""
        return range(min(self.first_rounds, total))

    def run(self, view: View, facts: PublicFacts, *, generator: torch.Generator) -> Reconstructions:
        """Attack the view.

        Raises:
            NotApplicable: the model is more than one linear layer on the raw input, no update has one example behind
                it, clients rescale coordinates one by one, or no update determines its example.
        """
        seen = [victim for victim in choose(view, facts, targets=len(view.events)) if victim.examples == 1]
        shape = facts.info.input_shape
        layer = first_layer(facts.model, facts.initial, shape)
        if head(facts.model, facts.initial, shape) != layer.slots:
            raise NotApplicable("the model is not a single linear layer; use linear-layer-inversion")
        several = any(local_steps(victim, facts.local) > 1 for victim in seen)
        if facts.local.optimizer == "momentum" and several:
            raise NotApplicable("several local steps with momentum mix residuals in a way that is not undone here")
        if facts.local.optimizer not in {"sgd", "momentum"}:
            raise NotApplicable(
                f"{facts.local.optimizer} rescales each coordinate, so rows are no multiples of the input"
            )
        if not seen:
            raise NotApplicable("every update averages several examples, and each output has one row for all of them")
        of_client: dict[str, list[Victim]] = {}
        for victim in sorted(seen, key=lambda victim: victim.round):
            of_client.setdefault(victim.sender, []).append(victim)
        attacked = list(of_client.values())[: self.targets]
        found = [self.read(victims, layer, facts) for victims in attacked]
        if not any(found):
            raise NotApplicable(
                "without a bias one gradient leaves the input's length open; it takes two rounds in a regression,"
                " three classes in a classification"
            )
        low, high = facts.info.bounds or (0.0, 1.0)
        # an update that leaves its example open counts as a failure: the centre of the bounds
        open_end = torch.full((math.prod(shape),), (low + high) / 2).to(facts.initial)
        inputs = torch.stack([open_end if one is None else one[0] for one in found])
        return Reconstructions(
            sources=tuple(victims[0].source for victims in attacked),
            inputs=inputs.nan_to_num((low + high) / 2).clamp(low, high).view(-1, *shape),
            labels=torch.tensor([0 if one is None else one[1] for one in found]),
            confidence=torch.tensor([float(one is not None) for one in found]),
        )

    def read(self, victims: Sequence[Victim], layer: FirstLayer, facts: PublicFacts) -> tuple[Tensor, float] | None:
        """The input ``(f,)`` and label or target behind a client's updates, earliest first."""
        first = victims[0]
        gradient, bias = layer.slots.read(surrogate_gradient(first, facts.local))
        weight, offset = layer.slots.read(first.model)
        if facts.model.task == "regression":
            if bias is None or offset is None:
                return self._two_rounds(victims, layer, facts)
            seen = single_input(gradient, bias)
            steps, rate = local_steps(first, facts.local), facts.local.in_round(first.round).learning_rate
            unit = mean_residual(1.0, float(seen.square().sum()) + 1, rate=rate, steps=steps)
            target = float(seen @ weight[0] + offset[0] - bias[0] / unit)
            return (seen - layer.shift) / layer.scale, target
        if bias is None:
            solved = softmax_input(gradient, weight)
            return None if solved is None else ((solved[0] - layer.shift) / layer.scale, solved[1])
        return (single_input(gradient, bias) - layer.shift) / layer.scale, sign_rule(gradient, bias)

    def _two_rounds(
        self, victims: Sequence[Victim], layer: FirstLayer, facts: PublicFacts
    ) -> tuple[Tensor, float] | None:
        """A regression without a bias, from updates of one example that started at different models."""
        rows = torch.stack([layer.slots.read(surrogate_gradient(v, facts.local))[0][0] for v in victims]).double()
        models = torch.stack([layer.slots.read(v.model)[0][0] for v in victims]).double()
        unit = torch.linalg.svd(rows, full_matrices=False).Vh[0]
        lengths, slopes = rows @ unit, models @ unit
        local, steps = facts.local, local_steps(victims[0], facts.local)
        if steps > 1 and local.schedule != "constant":
            return None  # the shrinkage below is that of one rate
        square = squared_length(lengths, slopes, rate=local.learning_rate, steps=steps)
        if square is None:
            return None
        length = square**0.5
        low, high = facts.info.bounds or (0.0, 1.0)

        def outside(seen: Tensor) -> Tensor:
            x = (seen - layer.shift) / layer.scale
            return (x - x.clamp(low, high)).square().sum()

        if outside(-length * unit) < outside(length * unit):
            unit, lengths, slopes = -unit, -lengths, -slopes
        shrunk = mean_residual(1.0, square, rate=local.learning_rate, steps=steps)
        target = float(length * slopes[0] - lengths[0] / (length * shrunk))
        seen = (length * unit).to(victims[0].update)
        return (seen - layer.shift) / layer.scale, target
