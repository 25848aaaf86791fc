"""What ``fedsec repro foolsgold-adaptive`` measures: how many Sybils an attack takes that stays dissimilar."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from fedsec.audit.build import Builder
from fedsec.audit.challenge import public_facts
from fedsec.config import config_from
from fedsec.federation.engines import one_thread
from fedsec.federation.rounds import Federation
from fedsec.federation.setup import FederationSetup
from fedsec.protocol.stage import Defense
from fedsec.registry import get

from ..poisoning.label_flip import TargetedLabelFlip
from .identities import Sybil

Figures = Mapping[str, float | tuple[float, float, float]]

THRESHOLDS = (0.8, 0.6, 0.4, 0.2, 0.1, 0.05, 0.01, 0.001)

ONE_DIGIT: dict[str, Any] = {
    "version": 1,
    "federation": {
        "dataset": {"name": "mnist", "train": 40_000, "auxiliary": 20_000},
        "partition": "by-class",
        "model": {"name": "softmax", "bias": False},
        "algorithm": {"name": "fedavg", "weighting": "uniform"},
        "clients": 10,
        "rounds": 500,
        "evaluate_every": 500,
        # the authors' rate 0.01 and penalty 0.01 on pixels times 2.55, in units of pixels in [0, 1]
        "local": {"batch_size": 50, "max_steps": 1, "learning_rate": 0.065025, "weight_decay": 0.00153787},
    },
    "attacks": [],
}
"""Ten honest clients with one digit each; what Sybils hold is drawn from public images."""


def adaptive_curve(
    *, thresholds: Sequence[float] = THRESHOLDS, seeds: Sequence[int] = (0, 1), changes: Mapping[str, Any] | None = None
) -> Figures:
    """Sybils that an attack in every round takes under FoolsGold, by the largest similarity that they allow.

    Two cautious Sybils attack in a part ``p`` of the rounds, so ``1 / p`` such pairs, as the source counts them, attack
    in all.

    Args:
        thresholds: similarities ``M``.
        seeds: of the federations.
        changes: of the federation's configuration.

    Returns:
        ``M | sybils per attack`` with the extremes over seeds, ``M | closed form`` (see `cautious`), and
        ``M | attack rate``, the share of test ones that are read as sevens after the last round.
    """
    configured = config_from({**ONE_DIGIT, "federation": {**ONE_DIGIT["federation"], **(changes or {})}})
    builder = Builder(configured, device="cpu")
    setups = [builder.setup(seed) for seed in seeds]
    found: dict[str, float | tuple[float, float, float]] = {}
    with one_thread(setups[0].device):
        for threshold in thresholds:
            runs = [_attack(setup, threshold) for setup in setups]
            needed = [1.0 / max(part, 1e-9) for part, _ in runs]
            exact = 1.0 + math.sqrt(1.0 / threshold - 1.0)
            found[f"{threshold} | sybils per attack"] = (statistics.fmean(needed), min(needed), max(needed))
            found[f"{threshold} | closed form"] = exact
            found[f"{threshold} | attack rate"] = statistics.fmean(rate for _, rate in runs)
    return found


def _attack(setup: FederationSetup, threshold: float) -> tuple[float, float]:
    """The part of the rounds in which the Sybils attacked, and the attack rate at the end."""
    flip = TargetedLabelFlip(source=1, target=7, only_source=True)
    adversary = Sybil(carries=flip, identities=2, fraction=0.0, behaviour="cautious", similarity=threshold)
    defense: Any = get("defenses", "foolsgold")(sum=True)
    stack: tuple[Defense, ...] = (defense,)
    result = Federation(setup, stack, adversary=adversary, facts=public_facts(setup, stack, adversary)).run()
    memory = result.memory
    return int(memory["rounds attacked"]) / int(memory["rounds"]), float(result.probes[-1])
