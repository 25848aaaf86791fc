"""Results as they are stored: a document, and tensors by name."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from fedsec.audit.plan import Training
from fedsec.federation.result import TrainingResult
from fedsec.judges.base import Judgement, Outcome
from fedsec.randomness import numpy_generator
from fedsec.statistics.pooling import pool


def outcome_of(document: dict[str, Any], tensors: dict[str, Tensor]) -> Outcome:
    """What a stored training says of the federation, as judges compare it."""
    present = document["present"]
    return Outcome(
        predictions=tensors["predictions"],
        accuracy=tuple(document["accuracy"]),
        rounds=tuple(document["rounds"]),
        detected=tuple((int(a), int(b)) for a, b in document["detected"]) if any(map(sum, present)) else (),
        present=tuple((int(a), int(b)) for a, b in present),
        probe=tensors.get("probe"),
        probes=tuple(document["probes"]),
        watch={k.removeprefix("watch/"): v for k, v in tensors.items() if k.startswith("watch/")},
    )


def training_document(task: Training, result: TrainingResult) -> dict[str, Any]:
    """What a training leaves behind besides tensors."""
    ledger = result.ledger
    return {
        "kind": "training",
        "label": task.label,
        "rounds": list(result.rounds),
        "accuracy": list(result.accuracy),
        "loss": [value if _finite(value) else None for value in result.loss],
        "seconds": result.seconds,
        "engine": result.engine,
        "diagnostics": {k: v for k, v in result.diagnostics.items() if _finite(v)},
        "detected": [list(pair) for pair in result.detected],
        "present": [list(pair) for pair in result.present],
        "probes": list(result.probes),
        "claims": [
            {k: None if isinstance(v, float) and not _finite(v) else v for k, v in claim.items()}
            for claim in result.claims
        ],
        "compromised": result.compromised,
        "ledger": {
            "uploads": ledger.uploads,
            "upload_bytes": ledger.upload_bytes,
            "downloads": ledger.downloads,
            "download_bytes": ledger.download_bytes,
            "refused": dict(sorted(ledger.refused.items())),
            "dropped": ledger.dropped,
        },
    }


def judged(judgement: Judgement, document: dict[str, Any]) -> dict[str, Tensor]:
    """A judgement as named tensors, with what is not a tensor written into the document."""
    tensors: dict[str, Tensor] = {}
    rows: list[dict[str, Any]] = []
    for measurement in judgement.measurements:
        arrays = ("units", "truths", "clusters", "floor_units")
        for array in arrays:
            value = getattr(measurement, array)
            if value is not None:
                tensors[f"m/{measurement.name}/{array}"] = value
        rows.append(
            {
                "name": measurement.name,
                "statistic": measurement.statistic,
                "floor": measurement.floor,
                "ceiling": measurement.ceiling,
                "headline": measurement.headline,
                "unit": measurement.unit,
                "description": measurement.description,
                "arrays": [array for array in arrays if getattr(measurement, array) is not None],
                "alone": asdict(pool([measurement], generator=numpy_generator("pool", measurement.name))),
            }
        )
    for name, exhibit in judgement.exhibits.items():
        tensors[f"x/{name}"] = exhibit
    document["measurements"] = rows
    document["exposed"] = [asdict(one) for one in judgement.exposed]
    document["checks"] = [asdict(one) for one in judgement.checks]
    document["notes"].extend(judgement.notes)
    return tensors


def _finite(value: float) -> bool:
    return bool(torch.isfinite(torch.tensor(value)))
