"""What `fedsec repro` measures of property inference: sex, race and age band on Adult while the task is income."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedsec.audit.api import Audit
from fedsec.config import config_from

PROPERTIES = ("sex", "race!=White", "age-band=40 to 59")
METRICS = {"sex": "sex", "race": "race!=White", "age": "age-band=40-to-59"}
"""How figures call the properties, and how metrics do."""

Value = tuple[float, float, float]

DEFENSES: tuple[Any, ...] = (
    "none",
    {"name": "clip", "c": 0.1},
    {"name": "dp-client", "clip_norm": 0.1, "noise_multiplier": 0.5},
    {"name": "dp-local", "clip_norm": 0.1, "noise_multiplier": 0.5},
    {"name": "top-k", "share": 0.1},
    "ckks",
)


def configuration(*, cohort: int | None, defenses: tuple[Any, ...], seeds: int) -> dict[str, Any]:
    """One audit.

    Args:
        cohort: clients per round of 30, whose aggregate is attacked; ``None`` for 10 clients in every round, whose
            uploads are attacked.
        defenses: stacks.
        seeds: federations.
    """
    attack = "property-inference" if cohort is None else "property-inference-aggregate"
    # a mean over K clients shows each of them K times less: more simulated updates
    asked = {"properties": list(PROPERTIES), "rounds_used": 20, "shadow_updates": 120 if cohort is None else 240}
    attacks: list[dict[str, Any]] = [{"name": attack, "label": "server", **asked}]
    if cohort is not None and "ckks" in defenses:
        attacks.append({"name": attack, "label": "client", "position": "client:0", **asked})
    return {
        "version": 1,
        "name": "property-adult",
        "federation": {
            "dataset": {"name": "adult", "train": 26000, "auxiliary": 6000, "test": 2000},
            "partition": {
                "name": "attribute-mix",
                "properties": ["sex", "race!=0", "age-band=2"],
                "size": 80 if cohort is None else 26,
            },
            "model": {"name": "mlp", "hidden": [32]},
            "algorithm": "fedavg",
            "clients": 10 if cohort is None else 30,
            "clients_per_round": cohort,
            "rounds": 20,
            "evaluate_every": 20,
            "local": {"epochs": 1 if cohort is None else 2, "batch_size": 10, "learning_rate": 0.1},
        },
        "attacks": attacks,
        "defenses": list(defenses),
        "seeds": list(range(seeds)),
        "device": "cpu",
    }


def adult() -> Mapping[str, Value]:
    """Areas with intervals for single uploads and for aggregates of 2, 5 and 10, with and without defenses.

    Returns:
        ``SETTING | STACK | PROPERTY`` with the setting ``single``, ``K=2``, ``K=5``, ``K=10`` or ``K=10 client``; the
        change that a defense makes as ``... | PROPERTY change``; ``... | blocked`` is 1 where the position reads
        nothing; and the share of permuted controls whose interval includes 0.5.
    """
    settings = {"single": (None, DEFENSES), "K=2": (2, ("none",)), "K=5": (5, ("none",)), "K=10": (10, DEFENSES)}
    found: dict[str, Value] = {}
    controls: list[bool] = []
    for setting, (cohort, defenses) in settings.items():
        raw = configuration(cohort=cohort, defenses=defenses, seeds=3)
        with tempfile.TemporaryDirectory() as folder:
            document = Audit(config_from(raw)).run(Path(folder), progress="none").document
        for finding in document["findings"]:
            place = setting if finding["attack"] == "server" else f"{setting} client"
            found |= _figures(f"{place} | {finding['stack']}", finding, controls)
    for place in [place for place in found if place.endswith(tuple(METRICS))]:
        setting, _, name = place.split(" | ")
        undefended = found.get(f"{setting} | none | {name}")
        if undefended:
            found[f"{place} change"] = (found[place][0] - undefended[0],) * 3
    share = sum(controls) / len(controls)
    return found | {"permuted controls around one half": (share, share, share)}


def _figures(place: str, finding: Mapping[str, Any], controls: list[bool]) -> dict[str, Value]:
    found: dict[str, Value] = {f"{place} | blocked": (float(finding["status"] == "blocked"),) * 3}
    for name, metric in METRICS.items():
        area, control = (finding["metrics"].get(f"{kind}:{metric}") for kind in ("auc", "permuted"))
        if area and control:
            found[f"{place} | {name}"] = (area["value"], area["low"], area["high"])
            controls.append(control["low"] <= 0.5 <= control["high"])
    return found
