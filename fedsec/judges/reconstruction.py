"""Measures reconstructed inputs against the examples behind the update they were read from."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from fedsec.judges.base import Exposure, Judge, Judgement, Measurement, Truth
from fedsec.judges.copies import Case, copies, quality
from fedsec.judges.identification import CANDIDATES, true_rank
from fedsec.judges.image_quality import PSNR_CAP, gallery, squared_error
from fedsec.judges.matching import Pairs
from fedsec.protocol.evidence import Evidence, Reconstructions

MOST_EXPOSED = 10
"""Clients that are named."""
OF_AGGREGATES = "success@1e-2"
"""Headline for reconstructions from aggregates. Each is matched to the one most like it of a whole cohort's examples,
and is then nearer to it than decoys are; so it is with other people's. That tells of the choice and not of a leak."""


class ReconstructionJudge(Judge):
    """Identifiability of the true example among decoys of its class, and the quality of each matched pair.

    The unit is one target. Each source (one update) counts as many targets as inputs were returned for it, so
    inputs beyond its number of examples are failures; and at least as many as were returned for any other source
    of the same evidence (as far as it has examples), so leaving out the hard ones is a failure too. `coverage` has
    one unit per example behind the attacked updates and says what part of them is exposed; an attack that returns less
    lowers it. Pairs are matched per source by the Hungarian algorithm on squared error, all pairs count, and quality in
    dB or SSIM is reported beside, never instead. Reconstructions are projected on the bounds first; values that are not
    finite become the centre of the bounds.

    The headline is `identified`; where only aggregates were read it is `success@1e-2`, the share of targets copied.

    Floors, always the best of those that apply:

    - *public guesses*: the mean public example of the class and a random one, asked about every pair;
    - *placebo*: the same reconstructions matched to as many examples that the updates were not computed on, which
      is what matching alone gives, and what an attack gets out of somebody else's gradient;
    - *nearest public example*, for squared error, PSNR and SSIM only: chosen by who knows the truth, so it is
      no guess but the most that public data could show. It cannot be a floor of identification: it is nearest to
      the truth by construction. `beats_public` says instead how often a reconstruction is nearer to the truth than it.
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
        case = Case.of(evidence, truth)
        pairs = case.pairs
        rank = _ranks(pairs, case.decoys)
        identification = _identification(case, rank)
        measurements = _headed([*identification, *copies(case, truth), *quality(case, truth), *_labels(pairs)], pairs)
        notes = [
            f"{len(pairs.found)} reconstructions of {len(pairs.examples)} updates with"
            f" {int(pairs.examples.sum())} examples behind them; each true example among"
            f" {CANDIDATES - 1} decoys of its class at most."
        ]
        fewest = min((len(decoys) for decoys in case.decoys), default=CANDIDATES - 1)
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
        return Judgement(
            measurements=tuple(measurements),
            exhibits=exhibits,
            notes=tuple(notes),
            exposed=_exposed(pairs, rank, identification[0]),
        )


def _headed(measurements: list[Measurement], pairs: Pairs) -> list[Measurement]:
    """The same, with the headline moved to copies where every source is an aggregate."""
    if not pairs.sources or any(sender != "server" for _, sender in pairs.sources):
        return measurements
    return [replace(m, headline=m.name == OF_AGGREGATES) for m in measurements]


def _ranks(pairs: Pairs, decoys: tuple[Tensor, ...], found: Tensor | None = None) -> Tensor:
    """Rank of the true example of each pair, ``(p,)``; of other inputs ``found`` in the reconstructions' place."""
    rows = zip(pairs.found if found is None else found, pairs.true, decoys, strict=True)
    return torch.tensor([true_rank(x, y, others) for x, y, others in rows], dtype=torch.float64)


def _exposed(pairs: Pairs, rank: Tensor, identified: Measurement) -> tuple[Exposure, ...]:
    """The clients of whose examples the largest share was identified, over all their attacked updates.

    Nobody is named where no more are identified than the floor's: who it was then is luck.
    """
    floor = 0.0 if identified.floor_units is None else float(identified.floor_units.mean())
    if not len(identified.units) or not float(identified.units.mean()) > floor:
        return ()
    hits: dict[str, int] = {}
    behind: dict[str, int] = {}
    for source, (_, sender) in enumerate(pairs.sources):
        mine = int(((rank == 1) & (pairs.clusters == source)).sum())
        hits[sender] = hits.get(sender, 0) + mine
        behind[sender] = behind.get(sender, 0) + int(pairs.examples[source])
    found = sorted((s for s in hits if hits[s]), key=lambda sender: (-hits[sender] / behind[sender], -hits[sender]))
    return tuple(
        Exposure(
            unit="aggregate of the cohort" if sender == "server" else sender,
            score=hits[sender] / behind[sender],
            text=f"identified {hits[sender]} of {behind[sender]} examples behind the attacked updates;"
            f" the floor is {floor:.0%} of the targets",
        )
        for sender in found[:MOST_EXPOSED]
    )


def _identification(case: Case, matched_rank: Tensor) -> list[Measurement]:
    """Whether each target is the nearest of its contest, its rank, and the share of all examples exposed."""
    pairs = case.pairs
    lost = torch.full((len(pairs.unmatched),), float(CANDIDATES), dtype=torch.float64)
    rank = torch.cat([matched_rank, lost])
    clusters = torch.cat([pairs.clusters, pairs.unmatched])
    floors = [_ranks(pairs, case.decoys, guess) for guess in case.blind.values()]
    elsewhere = _ranks(case.elsewhere, case.elsewhere_decoys)
    floors += [elsewhere] if len(elsewhere) else []
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
