"""What `fedsec repro robbing-the-fed` measures: bins on CIFAR-10, and how well clients see them coming."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedsec.audit.build import Builder
from fedsec.audit.challenge import examples_behind, population_of, public_facts, with_counts
from fedsec.audit.planted import plant
from fedsec.config import config_from
from fedsec.federation.rounds import Federation
from fedsec.federation.setup import FederationSetup
from fedsec.federation.stages import Stages
from fedsec.protocol.events import Topic
from fedsec.protocol.stage import Defense
from fedsec.protocol.view import project
from fedsec.randomness import generator
from fedsec.registry import get
from fedsec.statistics.intervals import auc, auc_interval

from .base import Malicious
from .fishing import ClassFishing
from .queries import alone
from .robbing_the_fed import RobbingTheFed
from .trap_weights import TrapWeights

Value = tuple[float, float, float]

BATCH = 64
BINS = (128, 256, 512)
GOOD = 40.0
"""In dB; a reconstruction of at least this peak signal-to-noise ratio counts as the example itself."""


def federation(
    seed: int, *, clients: int, batch: int, model: Mapping[str, Any], rounds: int, local: Mapping[str, Any]
) -> FederationSetup:
    """Clients with ``batch`` images each, 1,200 public images, no defense."""
    config = config_from(
        {
            "version": 1,
            "name": "robbing-the-fed",
            "federation": {
                "dataset": {
                    "name": "cifar10",
                    "variant": "exact",
                    "train": clients * batch,
                    "auxiliary": 1200,
                    "test": 100,
                },
                "model": dict(model),
                "clients": clients,
                "rounds": rounds,
                "local": dict(local),
            },
            "attacks": ["robbing-the-fed"],
            "defenses": ["none"],
            "seeds": [seed],
            "device": "cpu",
        }
    )
    return Builder(config, device="cpu").setup(seed)


def cifar(*, seeds: int = 2, clients: int = 30, bins: Sequence[int] = BINS, rounds: int = 10) -> Mapping[str, Value]:
    """Shares with 95 % intervals over batches, and the detector's area under the curve.

    Returns:
        ``alone | k``: share of a batch of 64 alone in its bin; ``alone at 40 dB | k``: of those, read with 40 dB or
        more; ``mixtures | k``: share of the returned images below 40 dB, the false hits; ``psnr | k``: median of the
        alone in dB, capped at 80; ``auc | ATTACK``: of the detector's score on planted against honest models;
        ``refused``: honest models that it refused at a nominal 1 %.
    """
    found: dict[str, Value] = {}
    for k in bins:
        shares: dict[str, list[float]] = {"alone": [], "alone at 40 dB": [], "mixtures": [], "psnr": []}
        for seed in range(seeds):
            _read_bins(seed, k, clients, shares)
        found |= {f"{name} | {k}": _interval(values) for name, values in shares.items()}
    return found | detector(rounds=rounds)


def _read_bins(seed: int, bins: int, clients: int, shares: dict[str, list[float]]) -> None:
    """Add one value per batch."""
    local = {"epochs": 1, "batch_size": BATCH, "learning_rate": 0.1}
    setup = federation(
        seed, clients=clients, batch=BATCH, model={"name": "convnet", "widths": [8, 16]}, rounds=1, local=local
    )
    attack = RobbingTheFed(bins=bins, victims=clients)
    planting = plant(setup, (), attack, position="server", transcript=())
    behind = examples_behind(planting.setup, (), planting.events, population_of(setup, None))
    view, _ = project(planting.events, "server", [Topic.UPLOAD, Topic.BROADCAST])
    facts = public_facts(planting.setup, (), attack)
    evidence = attack.run(with_counts(view, behind), facts, generator=generator(seed, "read"))
    edges, query = attack.edges(facts), attack.vector(facts)
    for source, examples in behind.items():
        rows = [row for row, of in enumerate(evidence.sources) if of == source]
        true = examples.x.flatten(1)
        ratio = _psnr(evidence.inputs[rows].flatten(1), true)
        single = alone(true.double() @ query, edges)
        best = ratio.amax(0)
        shares["alone"].append(float(single.double().mean()))
        shares["alone at 40 dB"].append(float((best[single] >= GOOD).double().mean()))
        shares["mixtures"].append(float((ratio.amax(1) < GOOD).double().mean()))
        shares["psnr"].append(float(best[single].clamp_max(80).median()))


def _psnr(found: Tensor, true: Tensor) -> Tensor:
    """``(r, n)`` in dB of each reconstruction against each example, for inputs in [0, 1]."""
    error = torch.cdist(found.double(), true.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    return -10 * (error / found.shape[1]).clamp_min(1e-12).log10()


def _interval(values: list[float]) -> Value:
    """Mean over batches with its normal 95 % interval."""
    units = torch.tensor(values, dtype=torch.float64)
    mean, half = float(units.mean()), 1.96 * float(units.std()) / math.sqrt(len(units))
    return mean, mean - half, mean + half


def detector(*, rounds: int = 10, clients: int = 4, batch: int = 64, width: int = 256) -> dict[str, Value]:
    """The score of `inspect-model` on planted against honest models of all rounds, at every client.

    The planted models keep the architecture, so that only weights and gradients can give them away.
    """
    local = {"epochs": 1, "batch_size": 16, "learning_rate": 0.05}
    setup = federation(
        0, clients=clients, batch=batch, model={"name": "mlp", "hidden": [width]}, rounds=rounds, local=local
    )
    events = Federation(setup, wanted={Topic.BROADCAST: frozenset(range(rounds))}).run().events
    view, _ = project(events, "server", [Topic.BROADCAST])
    models = [event.values for event in view.events]
    cls: Any = get("defenses", "inspect-model")
    defense: Defense = cls()
    honest, refused = _scores(setup, defense, models, models)
    found: dict[str, Value] = {"refused": _interval([float(one) for one in refused])}
    attacks: tuple[Malicious, ...] = (RobbingTheFed(bins=width), TrapWeights(), ClassFishing())
    for attack in attacks:
        facts = public_facts(setup, (), attack)
        planted = [attack.plant(model, facts, generator=generator(r, "plant")).vector for r, model in enumerate(models)]
        scores, _ = _scores(setup, defense, planted, models)
        values, truths = honest + scores, [False] * len(honest) + [True] * len(scores)
        low, high = auc_interval(values, truths)
        found[f"auc | {attack.name}"] = auc(values, truths), low, high
    return found


def _scores(
    setup: FederationSetup, defense: Defense, sent: Sequence[Tensor], honest: Sequence[Tensor]
) -> tuple[list[float], list[bool]]:
    """Suspicion and refusal of each model at each client; nobody remembers anything from one model to the next."""
    scores: list[float] = []
    refused: list[bool] = []
    for number, model in enumerate(sent):
        previous = honest[max(0, number - 1)]
        for client in range(len(setup.index)):
            stages = Stages((defense,), setup.setting((defense,)), seed=setup.seed)
            shard = setup.shard(client).examples()
            reason = stages.refuses(model, previous, shard, number, client, sent=setup.model, agreed=setup.model)
            refused.append(bool(reason))
            scores.append(stages.diagnostics[f"{defense.name}.suspicion"][0])
    return scores, refused
