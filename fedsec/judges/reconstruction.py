"""Measures reconstructed inputs against the examples behind the update they were read from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fedsec.data.examples import Examples
from fedsec.judges.base import Judge, Judgement, Measurement, Truth
from fedsec.protocol.evidence import Evidence, Reconstructions

CANDIDATES = 20
"""The true example and its decoys; a guess ranks the true one first once in as many."""
GALLERY = 8
"""Pairs that are shown, from the best to the worst."""
PSNR_CAP = 80.0
"""In dB; an exact copy has an infinite ratio, which no mean survives."""
SMALLEST_SSIM = 11
"""Side in pixels that the usual window (Gaussian, sigma 1.5, 11 x 11) needs with room to spare."""


@dataclass(frozen=True)
class Pairs:
    """Reconstructions matched one to one to true examples.

    Attributes:
        found: ``(p, *input_shape)`` reconstructions.
        true: ``(p, *input_shape)`` the examples they are matched to.
        labels: ``(p,)`` true classes or targets.
        clusters: ``(p,)`` int64, the source of each pair.
        unmatched: ``(m,)`` int64, the source of each failure that has no pair: a reconstruction beyond the number of
            examples, or one that this attack owed (see `ReconstructionJudge`).
        agreement: ``(s,)`` share of each source's claimed labels that its examples have, as multisets; empty if
            there are no claims.
        guess: the same where every claim is the most frequent public class.
        examples: ``(s,)`` int64 examples behind each source.
    """

    found: Tensor
    true: Tensor
    labels: Tensor
    clusters: Tensor
    unmatched: Tensor
    agreement: Tensor
    guess: Tensor
    examples: Tensor


def match(found: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """One-to-one assignment with the least total squared error (Hungarian algorithm).

    Args:
        found: ``(k, *shape)``.
        true: ``(n, *shape)``.

    Returns:
        Rows of ``found`` and of ``true``, ``(min(k, n),)`` each.
    """
    cost = torch.cdist(found.flatten(1).double(), true.flatten(1).double()).square()
    rows, columns = linear_sum_assignment(cost.cpu().numpy())
    return torch.as_tensor(rows), torch.as_tensor(columns)


def multiset_agreement(claimed: Tensor, true: Tensor) -> float:
    """Share of claimed labels that are among the true ones, each true one used once."""
    classes = int(torch.cat([claimed, true]).max()) + 1
    common = torch.minimum(torch.bincount(claimed, minlength=classes), torch.bincount(true, minlength=classes))
    return float(common.sum()) / len(claimed)


def true_rank(found: Tensor, true: Tensor, decoys: Tensor) -> int:
    """Rank of the true example by squared error to the reconstruction, 1 is best; a tie counts against it.

    Args:
        found: ``shape``.
        true: ``shape``.
        decoys: ``(c, *shape)``.
    """
    error = (found.double() - true.double()).square().mean()
    others = (decoys.double() - found.double()).square().flatten(1).mean(1)
    return 1 + int((others <= error).sum())


def pair_up(evidence: Reconstructions, truth: Truth) -> Pairs:
    """Match the reconstructions of each source to the examples behind it.

    Raises:
        ValueError: a source is not in the truth, or the inputs are tokens.
    """
    if truth.info.bounds is None:
        raise ValueError("tokens have no squared error; this judge measures real-valued inputs")
    low, high = truth.info.bounds
    inputs = evidence.inputs.nan_to_num(nan=(low + high) / 2, posinf=high, neginf=low).clamp(low, high)
    rows_of: dict[tuple[int, str], list[int]] = {}
    for row, source in enumerate(evidence.sources):
        rows_of.setdefault(source, []).append(row)
    missing = [source for source in rows_of if source not in truth.behind]
    if missing:
        raise ValueError(f"no examples are recorded behind {missing[0]}")
    owed = max((len(rows) for rows in rows_of.values()), default=0)
    found, true, labels, clusters, unmatched, sizes = [], [], [], [], [], []
    agreement: list[float] = []
    guess: list[float] = []
    claims = evidence.labels if truth.info.task == "classification" else None
    common = truth.decoys.y.bincount().argmax() if claims is not None else torch.tensor(0)
    for cluster, (source, rows) in enumerate(rows_of.items()):
        behind = truth.behind[source]
        mine, theirs = match(inputs[rows], behind.x)
        found.append(inputs[rows][mine])
        true.append(behind.x[theirs])
        labels.append(behind.y[theirs])
        clusters += [cluster] * len(mine)
        unmatched += [cluster] * (max(len(rows), min(owed, len(behind))) - len(mine))
        sizes.append(len(behind))
        if claims is not None:
            agreement.append(multiset_agreement(claims[rows], behind.y))
            guess.append(multiset_agreement(common.expand(len(rows)), behind.y))
    empty = inputs[:0]
    return Pairs(
        torch.cat(found) if found else empty,
        torch.cat(true) if true else empty,
        torch.cat(labels) if labels else torch.zeros(0, dtype=torch.int64),
        torch.tensor(clusters, dtype=torch.int64),
        torch.tensor(unmatched, dtype=torch.int64),
        torch.tensor(agreement, dtype=torch.float64),
        torch.tensor(guess, dtype=torch.float64),
        torch.tensor(sizes, dtype=torch.int64),
    )


@dataclass(frozen=True)
class Contest:
    """What one true example is told apart from, and what an adversary without the view would say.

    Attributes:
        decoys: ``(c, *shape)`` examples of its class.
        blind: inputs ``shape`` by name of the guess.
    """

    decoys: Tensor
    blind: dict[str, Tensor]


def contest(label: Tensor, decoys: Examples, *, classes: bool, generator: torch.Generator) -> Contest:
    """Draw the decoys of one example and the guesses of an adversary that knows its class and sees no update.

    The guesses are the mean of all public examples of the class and a random one of them (one that is no decoy
    itself, unless all are). The nearest public example is a decoy, so it cannot be a guess.

    Args:
        label: class (or target) of the example.
        decoys: public examples.
        classes: whether only decoys of the same class count; all do if the class has none.
        generator: draws them.
    """
    same = torch.nonzero(decoys.y == label).flatten() if classes else torch.arange(len(decoys))
    rows = same if len(same) else torch.arange(len(decoys))
    order = rows[torch.randperm(len(rows), generator=generator)]
    drawn, rest = order[: CANDIDATES - 1], order[CANDIDATES - 1 :]
    return Contest(
        decoys.x[drawn],
        {"mean image": decoys.x[rows].mean(0), "random example": decoys.x[rest[0] if len(rest) else order[0]]},
    )


def psnr(found: Tensor, true: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Peak signal-to-noise ratio in dB per pair, at most `PSNR_CAP`; ``(p, c, h, w)`` to ``(p,)``."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    width = bounds[1] - bounds[0]
    ratio = peak_signal_noise_ratio(found, true, data_range=width, reduction="none", dim=(1, 2, 3))
    return torch.as_tensor(ratio).clamp_max(PSNR_CAP)


def ssim(found: Tensor, true: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Structural similarity per pair (Wang et al. 2004); ``(p, c, h, w)`` to ``(p,)``.

    Images too small for the usual Gaussian window of 11 x 11 are measured with a uniform window of 7 x 7 or the
    largest odd side that fits.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    side = min(found.shape[-2:])
    small = side <= SMALLEST_SSIM
    window = min(7, side - 1 + side % 2)
    value = structural_similarity_index_measure(
        found,
        true,
        gaussian_kernel=not small,
        kernel_size=window if small else SMALLEST_SSIM,
        data_range=bounds[1] - bounds[0],
        reduction="none",
    )
    return torch.as_tensor(value)


def squared_error(found: Tensor, true: Tensor) -> Tensor:
    """Mean squared error per pair, ``(p,)``, in squared units of the inputs."""
    return (found - true).square().flatten(1).mean(1)


def gallery(pairs: Pairs, scores: Tensor) -> dict[str, Tensor]:
    """Evenly spaced pairs from the best to the worst, the median among them.

    Args:
        pairs: matched pairs.
        scores: ``(p,)``, higher is better.
    """
    order = scores.argsort(descending=True)
    shown = order[torch.linspace(0, len(order) - 1, min(GALLERY - 1, len(order))).round().long()]
    return {
        "gallery/original": pairs.true[shown],
        "gallery/reconstruction": pairs.found[shown],
        "gallery/score": scores[shown],
    }


def placebo(evidence: Reconstructions, truth: Truth) -> tuple[Pairs, Examples]:
    """The same reconstructions, matched to public examples that the updates were not computed on.

    Matching picks the nearest of all examples behind an update: with many of them any picture has a near one.
    Against as many other examples of the same population a reconstruction has the same freedom and nothing to
    know, so what it scores here is what matching alone gives. With too few public examples the freedom is smaller.

    Returns:
        The pairs, and the public examples that were not used (the decoys of every contest).
    """
    pool = len(truth.decoys)
    most = max((len(truth.behind[source]) for source in evidence.sources), default=0)
    size = min(most, 4 * pool // 5)
    order = torch.randperm(pool, generator=truth.generator)
    others = truth.decoys.take(order[:size])
    behind = {}
    for source in dict.fromkeys(evidence.sources):
        own = torch.randperm(size, generator=truth.generator)[: len(truth.behind[source])]
        behind[source] = others.take(own)
    return pair_up(evidence, replace(truth, behind=behind)), truth.decoys.take(order[size:])


class ReconstructionJudge(Judge):
    """Identifiability of the true example among decoys of its class, and the quality of each matched pair.

    The unit is one target. Each source (one update) counts as many targets as inputs were returned for it, so
    inputs beyond its number of examples are failures; and at least as many as were returned for any other source
    of the same evidence (as far as it has examples), so leaving out the hard ones is a failure too. `coverage` has
    one unit per example behind the attacked updates and says what part of them is exposed; an attack that returns less
    lowers it. Pairs are matched per source by the Hungarian algorithm on squared error, all pairs count, and quality in
    dB or SSIM is reported beside, never instead. The floor is the best of public guesses and of the placebo: the
    same reconstructions matched to as many examples that the updates were not computed on. Reconstructions are
    projected on the bounds first; values that are not finite become the centre of the bounds. The adversary without
    the view is asked about every pair.
    """

    name: ClassVar[str] = "reconstruction"
    summary: ClassVar[str] = (
        "Full success: each true example is the nearest of 20 examples of its class to its reconstruction;"
        " floor: the best of public guesses and of the same reconstructions on other people's examples"
    )

    def measure(self, evidence: Evidence, truth: Truth) -> Judgement:
        """Measure reconstructions.

        Raises:
            ValueError: a source is unknown, or the inputs are tokens.
        """
        if not isinstance(evidence, Reconstructions):
            raise TypeError(f"this judge measures Reconstructions, not {type(evidence).__name__}")
        pairs = pair_up(evidence, truth)
        elsewhere, decoys = placebo(evidence, truth)
        classes = truth.info.task == "classification"

        def contests_of(labels: Tensor) -> list[Contest]:
            return [contest(y, decoys, classes=classes, generator=truth.generator) for y in labels]

        contests = contests_of(pairs.labels)
        guesses = tuple(contests[0].blind) if contests else ()
        blind = {name: torch.stack([one.blind[name] for one in contests]) for name in guesses}
        matched = _ranks(elsewhere.found, elsewhere.true, contests_of(elsewhere.labels))
        measurements = [
            *_identification(pairs, contests, blind, matched),
            *_quality(pairs, blind, truth),
            *_labels(pairs),
        ]
        notes = [
            f"{len(pairs.found)} reconstructions of {len(pairs.examples)} updates with"
            f" {int(pairs.examples.sum())} examples behind them; each true example among"
            f" {CANDIDATES - 1} decoys of its class at most."
        ]
        fewest = min((len(one.decoys) for one in contests), default=CANDIDATES - 1)
        if fewest < CANDIDATES - 1:
            notes.append(f"Some classes have only {fewest} public examples, so a guess succeeds more often.")
        if len(pairs.unmatched):
            notes.append(f"{len(pairs.unmatched)} targets have no pair and count as failures.")
        exhibits: dict[str, Tensor] = {}
        if truth.info.public and len(pairs.found):
            width = 1.0 if truth.info.bounds is None else truth.info.bounds[1] - truth.info.bounds[0]
            error = squared_error(pairs.found, pairs.true) / width**2
            exhibits = gallery(pairs, (-10 * error.log10()).clamp_max(PSNR_CAP))
            notes.append("The gallery runs from the best pair over the median to the worst, with PSNR in dB.")
        return Judgement(measurements=tuple(measurements), exhibits=exhibits, notes=tuple(notes))


def _ranks(found: Tensor, true: Tensor, contests: list[Contest]) -> Tensor:
    rows = zip(found, true, contests, strict=True)
    return torch.tensor([true_rank(x, y, one.decoys) for x, y, one in rows], dtype=torch.float64)


def _identification(
    pairs: Pairs, contests: list[Contest], blind: dict[str, Tensor], matched: Tensor
) -> list[Measurement]:
    """Whether each target is the nearest of its contest, its rank, and the share of all examples exposed."""
    lost = torch.full((len(pairs.unmatched),), float(CANDIDATES), dtype=torch.float64)
    rank = torch.cat([_ranks(pairs.found, pairs.true, contests), lost])
    clusters = torch.cat([pairs.clusters, pairs.unmatched])
    floors = [_ranks(guess, pairs.true, contests) for guess in blind.values()]
    floors += [matched] if len(matched) else []
    first = max(floors, key=lambda r: float((r == 1).double().mean()), default=None)
    lowest = min(floors, key=lambda r: float(r.mean()), default=None)
    exposed, owner = [], []
    for source, size in enumerate(pairs.examples.tolist()):
        hits = int(((rank == 1) & (clusters == source)).sum())
        exposed += [1.0] * hits + [0.0] * (size - hits)
        owner += [source] * size
    return [
        Measurement(
            name="identified",
            statistic="mean",
            units=(rank == 1).double(),
            clusters=clusters,
            floor_units=None if first is None else (first == 1).double(),
            headline=True,
            description="Targets whose true example is nearer to the reconstruction than every decoy of its class",
        ),
        Measurement(
            name="identification_rank",
            statistic="mean",
            units=rank,
            clusters=clusters,
            floor_units=lowest,
            ceiling=1.0,
            unit=f"rank of {CANDIDATES}",
            description="Place of the true example among the decoys by distance to the reconstruction; 1 is nearest",
        ),
        Measurement(
            name="coverage",
            statistic="mean",
            units=torch.tensor(exposed, dtype=torch.float64),
            clusters=torch.tensor(owner, dtype=torch.int64),
            floor=0.0,
            description="Share of all examples behind the attacked updates that were identified",
        ),
    ]


def _quality(pairs: Pairs, blind: dict[str, Tensor], truth: Truth) -> list[Measurement]:
    """Error of each matched pair; for images also PSNR and SSIM."""
    bounds = truth.info.bounds or (0.0, 1.0)

    def measured(
        name: str, score: Callable[[Tensor, Tensor], Tensor], ceiling: float, unit: str, lower: bool, text: str
    ) -> Measurement:
        floors = [score(guess, pairs.true) for guess in blind.values()]
        pick = min if lower else max
        return Measurement(
            name=name,
            statistic="mean",
            units=score(pairs.found, pairs.true).double(),
            clusters=pairs.clusters,
            floor_units=pick(floors, key=lambda units: float(units.mean())).double() if floors else None,
            ceiling=ceiling,
            unit=unit,
            description=text,
        )

    rows = [measured("mse", squared_error, 0.0, "squared input units", True, "Mean squared error of each matched pair")]
    image = truth.info.modality == "image" and pairs.found.ndim == 4 and min(pairs.found.shape[-2:]) > 2
    if image and len(pairs.found):
        rows += [
            measured(
                "psnr",
                lambda found, true: psnr(found, true, bounds),
                PSNR_CAP,
                "dB",
                False,
                f"Peak signal-to-noise ratio of each matched pair, at most {PSNR_CAP:.0f} dB",
            ),
            measured(
                "ssim",
                lambda found, true: ssim(found, true, bounds),
                1.0,
                "similarity",
                False,
                "Structural similarity of each matched pair",
            ),
        ]
    return rows


def _labels(pairs: Pairs) -> list[Measurement]:
    """Whether the claimed labels are those of the examples; one unit per source."""
    if not len(pairs.agreement):
        return []
    return [
        Measurement(
            name="label_accuracy",
            statistic="mean",
            units=pairs.agreement,
            floor_units=pairs.guess,
            description="Share of claimed labels that the examples behind the update have, as multisets",
        )
    ]
