"""Robust accuracy of each stack under all of its evasion attacks together: the worst case of every single input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedsec.audit.pooled import estimate, mean_of, pooled
from fedsec.audit.store import Stored

FOOLED, CLEAN = "robust_error", "clean_error"
MOVED = {"linf": "mean_perturbation_linf", "l2": "mean_perturbation_l2"}
"""What the judge of evasion calls the observations that are read here."""
BINS = 20
_ROUNDING = 1e-5


def farthest_held(cells: Iterable[Mapping[str, Tensor]], norm: str) -> Tensor:
    """Length of the smallest perturbation that fooled the model, per input, over several attacks of one model.

    Args:
        cells: each attack's arrays by ``<measurement>/units``; of attacks on more inputs the first ones count.
        norm: ``linf`` or ``l2``.

    Returns:
        ``(n,)``: 0 where the input is misread as it is, infinite where no attack found a point. An upper bound of the
        true distance, as good as the attacks.
    """
    arrays = [{name: cell[f"{name}/units"] for name in (FOOLED, CLEAN, MOVED[norm])} for cell in cells]
    count = min(len(one[FOOLED]) for one in arrays)
    reach = torch.full((count,), torch.inf, dtype=torch.float64)
    for one in arrays:
        fooled, clean, moved = (one[name][:count].double() for name in (FOOLED, CLEAN, MOVED[norm]))
        reach = torch.minimum(reach, torch.where(fooled > 0, moved, torch.inf))
        reach = torch.where(clean > 0, 0.0, reach)
    return reach


def worst_case(
    stack: str, norm: str, sizes: Sequence[float], seeds: Sequence[Tensor], attacks: Sequence[str]
) -> dict[str, Any]:
    """One stack in one norm, as the document holds it.

    Args:
        stack: its label.
        norm: ``linf`` or ``l2``.
        sizes: sizes of perturbation at which accuracy is stated; 0 is stated besides.
        seeds: `farthest_held` of each seed.
        attacks: labels of the attacks.
    """
    points = []
    for size in (0.0, *sorted(set(sizes))):
        # a point at the attack's own size lies there up to rounding
        held = [(reach > size * (1 + _ROUNDING) + 1e-7 * (size > 0)).double() for reach in seeds]
        found = pooled([mean_of("robust_accuracy", one) for one in held], "robustness", norm, str(size))
        points.append({"size": size, **estimate(found)})
    reach = torch.cat(list(seeds))
    finite = reach[(reach > 0) & reach.isfinite()]
    top = float(finite.max()) if len(finite) else 0.0
    counts = torch.histc(finite.float(), BINS, 0.0, top).long().tolist() if top > 0 else []
    return {
        "stack": stack,
        "norm": norm,
        "attacks": list(attacks),
        "inputs": len(reach),
        "points": points,
        "distances": {"largest": top, "counts": counts, "held": int(reach.isinf().sum())},
    }


def readable(stored: Stored) -> dict[str, Tensor] | None:
    """The observations of a cell that are needed here; ``None`` if its judge made no such ones."""
    names = {f"{name}/units" for name in (FOOLED, CLEAN, *MOVED.values())}
    arrays = {k.removeprefix("m/"): v for k, v in stored.tensors.items() if k.startswith("m/")}
    return {name: arrays[name] for name in names} if names <= set(arrays) else None
