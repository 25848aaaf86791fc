"""What `fedsec repro` measures of membership inference: closed forms, and LiRA beside FedMIA on Fashion-MNIST."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from fedsec.audit.build import Builder
from fedsec.audit.challenge import MembershipChallenge, public_facts
from fedsec.audit.keys import TRAINING_CODE, code_fingerprint, digest, numerics
from fedsec.audit.shadows import Shadows, shadow_setup
from fedsec.audit.store import Artifacts
from fedsec.config import config_from
from fedsec.federation.engines import one_thread
from fedsec.federation.rounds import Federation
from fedsec.federation.setup import FederationSetup
from fedsec.judges.membership import Question, of_each_client
from fedsec.measure import RocCurve, roc
from fedsec.membership import confidences, loss_scores
from fedsec.protocol.events import Topic
from fedsec.protocol.evidence import OwnerScores
from fedsec.protocol.parties import Attack
from fedsec.protocol.view import project
from fedsec.randomness import derive_seed, generator, numpy_generator

from .fedmia import AllForOne
from .gradient_cosine import GradientCosine
from .likelihood import likelihood_ratio, marginal, outside_score, pairwise_ratio
from .references import draw

Figures = Mapping[str, float | tuple[float, float, float]]

SIGMAS = (1.0, 0.541, 4.22)
"""Noise over sensitivity of the Gaussian mechanisms."""

FASHION: dict[str, Any] = {
    "version": 1,
    "name": "lira-fashion-mnist",
    "federation": {
        "dataset": {"name": "fashion-mnist", "train": 2000, "holdout": 0, "auxiliary": 0, "test": 1000},
        "model": {"name": "convnet", "widths": [8, 16]},
        "clients": 4,
        "rounds": 20,
        "local": {"epochs": 3, "batch_size": 16, "learning_rate": 0.3},
    },
    "attacks": [],
}
"""A federation of four clients that overfits the 1,000 examples that it is given, of a pool of 2,000."""

TARGETS = 18
"""Federations, each attacked with the 16 others that are neither it nor its complement."""

WATCHED = 3
"""Federations whose updates are read, for the attacks without shadows."""

WITHOUT_SHADOWS: tuple[Attack, ...] = (AllForOne(), AllForOne(variance="per-sample"), GradientCosine())
"""Each reads five rounds."""


def gaussian() -> Figures:
    """The optimal attack on the Gaussian mechanism: scores N(1 / sigma, 1) against N(0, 1).

    ``exact`` are quantiles in place of draws, through the ROC, through LiRA with shadows that show the two Gaussians
    exactly, and through RMIA's dominance. ``simulated`` is LiRA that knows nothing but 256 shadows of each of 20,000
    examples, whose unequal difficulties hide the same Gaussians from a single threshold.
    """
    found: dict[str, float | tuple[float, float, float]] = {}
    for sigma in SIGMAS:
        quantiles = torch.from_numpy(stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000))
        scores = torch.cat([quantiles + 1 / sigma, quantiles])
        members = torch.arange(len(scores)) < len(quantiles)
        centres = torch.tensor([[1 / sigma - 1], [1 / sigma + 1], [-1.0], [1.0]], dtype=torch.float64)
        known, kinds = centres.expand(4, len(scores)), torch.tensor([[True], [True], [False], [False]])
        paths = {
            "roc": scores,
            "lira": likelihood_ratio(scores, known, kinds.expand(4, len(scores)), per_sample=False),
            "rmia": pairwise_ratio(scores, quantiles, gamma=1.0),
        }
        for path, values in paths.items():
            curve = roc(values[members], values[~members])
            found[f"exact {path} | sigma {sigma:g} | auc"] = curve.auc
            found[f"exact {path} | sigma {sigma:g} | tpr@0.001"] = curve.tpr_at(0.001)
    random = numpy_generator("membership-gaussian")
    examples, shadows = 20_000, 256
    hard = random.normal(0, 3, examples)
    inside = np.tile(np.arange(shadows) % 2 == 0, (examples, 1)).T ^ (random.random(examples) < 0.5)
    known = torch.from_numpy(hard + inside + random.normal(size=inside.shape))
    members = torch.from_numpy(random.random(examples) < 0.5)
    target = torch.from_numpy(hard + members.numpy() + random.normal(size=examples))
    values = likelihood_ratio(target, known, torch.from_numpy(inside), per_sample=False)
    found |= _row("simulated lira | sigma 1", roc(values[members], values[~members]))
    found |= _row("simulated threshold | sigma 1", roc(target[members], target[~members]))
    return found


def lira_fashion_mnist(
    *, targets: int = TARGETS, watched: int = WATCHED, changes: Mapping[str, Any] | None = None
) -> Figures:
    """LiRA with 16 shadows on a small convolutional network that overfits, and FedMIA without any beside it.

    Federations train on random halves of one pool, in complementary pairs. Each is attacked in turn with the others
    as its shadows, without its complement: had that been among them, the number of shadows with an example would tell
    whether the target has it. Reusing shadows as targets is the usual evaluation with few models, and biased upwards
    (leave-half bias): all halves come from one finite pool, and false positive rates of single examples are not
    calibrated (arXiv 2605.25819). Audits do not do it: they attack the real federation alone.

    Scores of all targets share one threshold, as in the authors' evaluation. The intervals count (target, example)
    pairs as if they were independent. FedMIA and the gradient cosine are asked of each client whether an example is in
    its data.

    Args:
        targets: federations, even.
        watched: of them, those whose updates are read.
        changes: of the federation's configuration, for smaller runs.
    """
    settings = {**FASHION, "federation": {**FASHION["federation"], **(changes or {})}}
    setup, inside = _pool(settings, targets)
    with tempfile.TemporaryDirectory() as folder:
        models = _trained(settings, targets, Path(folder))
    # Threads that wait for each other spin; on a busy machine that is most of the time.
    with one_thread(setup.device):
        return _compared(setup, inside, models, watched)


def _compared(setup: FederationSetup, inside: Tensor, models: Tensor, watched: int) -> Figures:
    """Every attack on every target, and those without shadows on the first ``watched``."""
    targets, pool = len(models), setup.split.clients
    signal = torch.stack([confidences(setup.model, model, pool) for model in models])
    fits = torch.stack([loss_scores(setup.model, model, pool) for model in models])
    scores: dict[str, list[Tensor]] = {}
    for number in range(targets):
        others = [i for i in range(targets) if i // 2 != number // 2]
        known, kinds = signal[others], inside[others]
        for name, own in (("fixed", False), ("per-sample", True)):
            ratio = likelihood_ratio(signal[number], known, kinds, per_sample=own)
            outside = outside_score(signal[number], known, per_sample=own, inside=kinds)
            scores.setdefault(f"lira online {name}", []).append(ratio)
            scores.setdefault(f"lira offline {name}", []).append(outside)
        # The whole pool is RMIA's population; that an example is compared with itself too changes no order.
        relative = fits[number] - marginal(fits[others], kinds)
        scores.setdefault("rmia online", []).append(pairwise_ratio(relative, relative, gamma=1.0))
        scores.setdefault("loss-threshold", []).append(fits[number])
    found: dict[str, float | tuple[float, float, float]] = {}
    for name, each in scores.items():
        found |= _row(name, _pooled(each, inside))
    rate = "tpr@0.001"
    for name in ("lira online per-sample", "loss-threshold"):
        ahead, behind = found[f"lira online fixed | {rate}"], found[f"{name} | {rate}"]
        found[f"lira online fixed over {name} | {rate}"] = _value(ahead) / max(_value(behind), 1e-9)
    answers = [_watched(setup, inside, number) for number in range(watched)]
    for place, attack in enumerate(WITHOUT_SHADOWS):
        scores_of, held = (torch.cat([getattr(one[place], part) for one in answers]) for part in ("scores", "members"))
        variance = f" {attack.variance}" if isinstance(attack, AllForOne) else ""
        found |= _row(f"{attack.name}{variance}", roc(scores_of[held], scores_of[~held]))
    return found


def _pool(settings: Mapping[str, Any], targets: int) -> tuple[FederationSetup, Tensor]:
    """The federation over the whole pool, and which examples each target is trained on."""
    setup = Builder(config_from(settings), device="cpu").setup(0)
    inside, _ = draw(len(setup.split.clients), 0, shadows=targets, online=True, examples=0)
    return setup, inside


def _trained(settings: Mapping[str, Any], targets: int, folder: Path) -> Tensor:
    """The models, trained by this process and, where there is another core, by one more."""
    helpers = []
    if (os.cpu_count() or 1) > 1 and not multiprocessing.current_process().daemon:
        helpers = [multiprocessing.get_context("spawn").Process(target=_train, args=(settings, targets, folder))]
    for helper in helpers:
        helper.start()
    models = _train(settings, targets, folder)
    for helper in helpers:
        helper.join()
    return models


def _train(settings: Mapping[str, Any], targets: int, folder: Path) -> Tensor:
    setup, inside = _pool(settings, targets)
    key = digest({**settings, "code": code_fingerprint(TRAINING_CODE), "numerics": numerics(setup.device)})
    shadows = Shadows(setup, (), key, Artifacts(folder))
    return shadows([setup.split.clients.take(row.nonzero().flatten()) for row in inside], 0)


def _watched(setup: FederationSetup, inside: Tensor, number: int) -> list[Question]:
    """Answers of the attacks without shadows on one target, trained once more with its updates kept."""
    pool, rows = setup.split.clients, inside[number].nonzero().flatten()
    own = shadow_setup(setup, pool.take(rows), seed=derive_seed("shadow", 0, number))
    owners = torch.full((len(pool),), -1)
    owners[rows[torch.from_numpy(own.index.order)]] = torch.from_numpy(
        np.repeat(np.arange(len(own.index)), own.index.sizes())
    )
    topics = (Topic.UPLOAD, Topic.BROADCAST)
    rounds = frozenset(number for attack in WITHOUT_SHADOWS for number in attack.rounds(setup.rounds))
    events = Federation(own, wanted=dict.fromkeys(topics, rounds)).run().events
    answers = []
    for attack in WITHOUT_SHADOWS:
        there = [event for event in events if event.round in attack.rounds(setup.rounds)]
        view, _ = project(there, attack.threat.position, topics)
        facts = public_facts(own, (), attack, challenge=MembershipChallenge(pool, inside[number]))
        evidence = attack.run(view, facts, generator=generator("watched", number))
        if not isinstance(evidence, OwnerScores):
            raise TypeError(f"{attack.name} did not score clients")
        answers.append(of_each_client(evidence.scores, evidence.clients, inside[number], owners))
    return answers


def _pooled(each: list[Tensor], inside: Tensor) -> RocCurve:
    scores = torch.cat(each)
    members = inside.flatten()
    return roc(scores[members], scores[~members])


def _row(name: str, curve: RocCurve) -> dict[str, float | tuple[float, float, float]]:
    row: dict[str, float | tuple[float, float, float]] = {f"{name} | auc": (curve.auc, *curve.auc_interval())}
    for rate in (0.01, 0.001):
        row[f"{name} | tpr@{rate:g}"] = (curve.tpr_at(rate), *curve.interval_at(rate))
    return row


def _value(figure: float | tuple[float, float, float]) -> float:
    return figure if isinstance(figure, float) else figure[0]
