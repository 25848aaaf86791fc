"""From the stored observations of several seeds to one number with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from fedsec.audit.store import Stored
from fedsec.judges.base import Measurement
from fedsec.randomness import numpy_generator
from fedsec.statistics.pooling import Pooled, pool

ESTIMATE = ("value", "low", "high", "n")


def measurements(stored: Stored) -> list[dict[str, Any]]:
    """The measurements of a cell with their arrays."""
    rows = []
    for row in stored.document.get("measurements", []):
        arrays = {name: stored.tensors[f"m/{row['name']}/{name}"] for name in row["arrays"]}
        rows.append({**{k: v for k, v in row.items() if k not in {"arrays", "alone"}}, **arrays})
    return rows


def mean_of(name: str, units: Tensor, clusters: Tensor | None = None) -> dict[str, Any]:
    """A mean as a measurement that can be pooled."""
    return asdict(Measurement(name=name, statistic="mean", units=units, clusters=clusters, floor=0.0))


def pooled(rows: Sequence[dict[str, Any]], *purpose: str) -> Pooled:
    """One measurement over its seeds; draws do not depend on the stack: equal observations get equal intervals."""
    return pool(rows, generator=numpy_generator("pool", *purpose))


def metric(found: Pooled) -> dict[str, Any]:
    """A pooled number as the document holds it."""
    return {k: v for k, v in asdict(found).items() if k not in {"name", "seeds"}}


def estimate(found: Pooled) -> dict[str, Any]:
    """Its value with interval and n."""
    return {k: getattr(found, k) for k in ESTIMATE}
