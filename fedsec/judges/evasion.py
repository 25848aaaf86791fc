"""How many inputs a model misreads after a small perturbation, against random noise of the same size."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from fedsec.gradient import frozen, input_gradient
from fedsec.judges.base import Judge, Judgement, Measurement, Truth
from fedsec.judges.passes import passes
from fedsec.judges.reach import reach, sizes
from fedsec.judges.row_noise import impossible, row_noise
from fedsec.judges.slices import slices
from fedsec.protocol.evidence import AdversarialInputs, Evidence

_BATCH = 500
_GALLERY = 8
_MASKED_SHARE = 0.05
"""Share of inputs without any gradient from which a note is made."""


class EvasionJudge(Judge):
    """Reads the perturbed inputs itself, at full precision of the released model and in eval mode."""

    name: ClassVar[str] = "evasion"
    summary: ClassVar[str] = (
        "Share of test inputs misread after the attack; full success is all of them, the floor is the error under "
        "random perturbations of the same size"
    )

    def measure(self, evidence: Evidence, truth: Truth) -> Judgement:
        """See `Judge.measure`.

        Nothing is projected on the attack's ball: inputs outside the dataset's bounds are clipped to them and counted,
        and the perturbation is measured. Points that an attack found beyond its ball do not count in its robust error;
        the exhibits ``reach/<norm>`` hold how near any of its points that is misread here lies (`reach`), and
        ``reach/beyond`` is there if it sought such points.

        Raises:
            TypeError: the evidence is of another kind.
            ValueError: its inputs are not numbers, or not shaped like the test inputs.
        """
        if not isinstance(evidence, AdversarialInputs):
            raise TypeError(f"the judge evasion measures adversarial inputs, not {type(evidence).__name__}")
        count = len(evidence.inputs)
        x, y = truth.test.x[:count], truth.test.y[:count]
        for points in (evidence.inputs, *(() if evidence.nearest is None else (evidence.nearest,))):
            if points.shape != x.shape or not torch.isfinite(points).all():
                raise ValueError(f"adversarial inputs must be finite and of shape {tuple(x.shape)}")
        low, high = truth.info.bounds or (-torch.inf, torch.inf)
        attacked = evidence.inputs.to(x).clamp(low, high)
        outside = int(((attacked - evidence.inputs.to(x)).flatten(1).abs().amax(1) > 1e-6).sum())
        net = truth.model.instance(truth.released)
        table = truth.info.modality == "tabular"
        noisy = (
            row_noise(x, attacked, truth.info, truth.generator)
            if table
            else x + _same_size_noise(attacked - x, truth.generator)
        ).clamp(low, high)
        clean, misread, noise = (_misread(net, inputs, y) for inputs in (x, attacked, noisy))
        delta = (attacked - x).flatten(1)
        length = sizes(delta)
        width = float(high - low)
        measurements = (
            Measurement(
                name="robust_error",
                statistic="mean",
                units=misread.float(),
                floor_units=noise.float(),
                headline=True,
                description="Share of test inputs that the published model misreads after the attack.",
            ),
            Measurement(
                name="clean_error",
                statistic="mean",
                units=clean.float(),
                floor=0.0,
                description="Share of the same inputs that it misreads without any attack.",
            ),
            Measurement(
                name="mean_perturbation_linf",
                statistic="mean",
                units=length["linf"],
                floor=0.0,
                ceiling=width,
                unit="input units",
                description="Largest change of one input value, averaged over inputs.",
            ),
            Measurement(
                name="mean_perturbation_l2",
                statistic="mean",
                units=length["l2"],
                floor=0.0,
                ceiling=width * delta.shape[1] ** 0.5,
                unit="input units",
                description="Euclidean length of the change, averaged over inputs.",
            ),
            Measurement(
                name="mean_perturbation_l1",
                statistic="mean",
                units=length["l1"],
                floor=0.0,
                ceiling=width * delta.shape[1],
                unit="input units",
                description="Sum of the changes of all input values, averaged over inputs.",
            ),
        )
        notes = self._notes(outside, net, x, y, misread, noise)
        torn = int(impossible(attacked, truth.info).sum()) if table else 0
        if torn:
            notes = (
                *notes,
                f"{torn} rows of the attack have a category that is not one of its values; no file has them.",
            )
        believed = truth.masking() if truth.masking is not None else None
        parts = slices(misread, y, truth.info.classes, truth.class_mix)
        spent = (("forward", evidence.forwards), ("backward", evidence.backwards))
        tries = [(attacked, misread)]
        if evidence.nearest is not None:
            nearest = evidence.nearest.to(x).clamp(low, high)
            tries.append((nearest, _misread(net, nearest, y)))
        return Judgement(
            measurements=(*measurements, *parts.measurements, *(passes(*one, count) for one in spent)),
            exhibits={
                **self._gallery(truth, x, attacked, misread & ~clean),
                **{f"reach/{norm}": nearest for norm, nearest in reach(x, clean, tries).items()},
                **({} if evidence.nearest is None else {"reach/beyond": torch.ones(1, dtype=torch.bool)}),
                **parts.exhibits,
            },
            notes=(*((believed.text,) if believed else ()), *notes),
            exposed=parts.exposed,
            checks=believed.checks if believed else (),
        )

    def _notes(
        self, outside: int, net: nn.Module, x: Tensor, y: Tensor, misread: Tensor, noise: Tensor
    ) -> tuple[str, ...]:
        notes = []
        if outside:
            notes.append(f"{outside} inputs of the attack lay outside the dataset's bounds and were clipped to them.")
        flat = _without_gradient(net, x, y)
        if flat > _MASKED_SHARE:
            notes.append(
                f"The loss has no gradient at {flat:.0%} of the inputs. Gradient attacks understate the harm there "
                "(gradient masking); a black-box or margin-based attack may do better."
            )
        if int(misread.sum()) < int(noise.sum()):
            notes.append(
                "The attack does worse than random noise of the same size, a sign of masked gradients "
                "or of a broken attack."
            )
        return tuple(notes)

    def _gallery(self, truth: Truth, x: Tensor, attacked: Tensor, flipped: Tensor) -> dict[str, Tensor]:
        """Inputs that the attack turned, at equal steps from the smallest change to the largest."""
        turned = flipped.nonzero().flatten()
        if truth.info.modality != "image" or not truth.info.public or not len(turned):
            return {}
        change = sizes((attacked - x)[turned])["linf"]
        order = change.argsort(stable=True)
        order = order[torch.linspace(0, len(order) - 1, min(_GALLERY, len(order))).round().long()]
        chosen = turned[order]
        return {
            "gallery/original": x[chosen].clone(),
            "gallery/reconstruction": attacked[chosen].clone(),
            "gallery/score": change[order],
        }


def _misread(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Whether each input is read as a wrong class; outputs that are not numbers are wrong."""
    place = next(net.parameters())
    wrong = []
    with torch.no_grad():
        for inputs, classes in zip(torch.split(x, _BATCH), torch.split(y, _BATCH), strict=True):
            logits = net(inputs.to(place)).to(classes.device)
            wrong.append((logits.argmax(-1) != classes) | torch.isnan(logits).any(-1))
    return torch.cat(wrong)


def _same_size_noise(delta: Tensor, generator: torch.Generator) -> Tensor:
    """The changes of each input in a random order with random signs: equal to the attack's in every norm."""
    flat = delta.flatten(1).cpu()
    order = torch.rand(flat.shape, generator=generator).argsort(1)
    sign = torch.rand(flat.shape, generator=generator).round() * 2 - 1
    return (flat.gather(1, order) * sign).reshape(delta.shape).to(delta.device)


def _without_gradient(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of inputs at which the cross-entropy has exactly no gradient."""
    place = next(net.parameters())
    zero = 0
    with frozen(net):
        for inputs, classes in zip(torch.split(x, _BATCH), torch.split(y.to(place.device), _BATCH), strict=True):

            def losses(leaf: Tensor, classes: Tensor = classes) -> tuple[Tensor, Tensor]:
                logits = net(leaf)
                return nn.functional.cross_entropy(logits, classes, reduction="none"), logits

            gradient, _ = input_gradient(losses, inputs.to(place))
            zero += int((gradient.flatten(1).abs().amax(1) == 0).sum())
    return zero / len(x)
