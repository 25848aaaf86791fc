"""Robust accuracy of each stack under all of its evasion attacks together: the worst case of every single input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedsec.audit.pooled import estimate, mean_of, pooled
from fedsec.audit.store import Stored
from fedsec.judges.reach import NORMS
from fedsec.judges.slices import by_mix
from fedsec.statistics.intervals import clopper_pearson

BINS = 20
"""Of a histogram, and points of a curve."""
REACH, SOUGHT, CLASSES, MIX = "reach/", "reach/beyond", "slices/classes", "slices/mix"
"""What the judge of evasion calls the exhibits that are read here."""
_ROUNDING = 1e-5
_TAIL = 0.99
"""Share of the perturbations found that an axis shows."""


def asked_for(attacks: Iterable[object]) -> dict[str, Counter[float]]:
    """How many attacks are allowed each size, by norm; those that `unstated` tells of are left out."""
    sizes: dict[str, Counter[float]] = {norm: Counter() for norm in NORMS}
    for attack in attacks:
        if not unstated(attack):
            sizes[getattr(attack, "norm", "")][float(getattr(attack, "eps", 0.0))] += 1
    return {norm: found for norm, found in sizes.items() if found}


def commonest(sizes: Counter[float]) -> float:
    """The size that most attacks are allowed, of several the largest."""
    return max(sizes, key=lambda size: (sizes[size], size))


def unstated(attack: object) -> str:
    """Why an attack's size is missing among those at which robust accuracy is stated; empty if it is not."""
    norm, eps = getattr(attack, "norm", None), getattr(attack, "eps", None)
    if norm in NORMS and isinstance(eps, int | float):
        return ""
    missing = "no norm" if norm is None else f"the norm {norm}" if norm not in NORMS else "no single size"
    return (
        f"This attack states {missing}: its points count in the robust accuracy of the stack at the lengths that they "
        f"have in {', '.join(NORMS)}, and its own size is not among those at which that is stated."
    )


def farthest_held(cells: Iterable[Mapping[str, Tensor]], norm: str) -> Tensor:
    """Length of the smallest perturbation that fooled the model, per input, over several attacks of one model.

    Args:
        cells: each attack's exhibits by name; of attacks on more inputs the first ones count.
        norm: one of `NORMS`.

    Returns:
        ``(n,)``: 0 where the input is misread as it is, infinite where no attack found a point. An upper bound of the
        true distance, as good as the attacks.
    """
    lengths = [cell[f"{REACH}{norm}"].double() for cell in cells]
    count = min(len(one) for one in lengths)
    return torch.stack([one[:count] for one in lengths]).amin(0)


def stated(
    seen: Mapping[str, Mapping[int, Mapping[str, Mapping[str, Tensor]]]],
    sizes: Mapping[str, Counter[float]],
    norm_of: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Robust accuracy of every stack that was attacked, in every norm with a size.

    Args:
        seen: `readable` exhibits of each stack, seed and attack.
        sizes: `asked_for`.
        norm_of: the norm of each attack that has one, by label.
    """
    rows = {}
    for norm, found in sizes.items():
        reaches = {
            stack: [farthest_held(cells.values(), norm) for cells in seeds.values()] for stack, seeds in seen.items()
        }
        labels = {
            stack: list(dict.fromkeys(a for cells in seeds.values() for a in cells)) for stack, seeds in seen.items()
        }
        far = {a for s in seen.values() for cells in s.values() for a, arrays in cells.items() if SOUGHT in arrays}
        seekers = {stack: [a for a in labels[stack] if a in far and norm_of.get(a) == norm] for stack in seen}
        top = span_of(found, [r for each in reaches.values() for r in each], beyond=any(seekers.values()))
        for stack, seeds in seen.items():
            if seeds:
                first = min(seeds)
                row = worst_case(
                    stack, norm, list(found), reaches[stack], labels[stack], top=top, seekers=seekers[stack]
                )
                reach = farthest_held(seeds[first].values(), norm)
                row["by_client"] = by_client(reach, seeds[first].values(), commonest(found), first)
                rows[stack, norm] = row
    return [rows[key] for stack in seen for key in rows if key[0] == stack]


def span_of(sizes: Iterable[float], reaches: Iterable[Tensor], *, beyond: bool) -> float:
    """Where the axis of a norm ends, for all stacks: the largest size; if points beyond were sought, most of those."""
    top = max(sizes)
    found = torch.cat([torch.zeros(0, dtype=torch.float64), *reaches])
    found = found[found.isfinite() & (found > 0)]
    if beyond and len(found):
        top = max(top, float(found.quantile(_TAIL)))
    return top


def worst_case(
    stack: str,
    norm: str,
    sizes: Sequence[float],
    seeds: Sequence[Tensor],
    attacks: Sequence[str],
    *,
    top: float,
    seekers: Sequence[str] = (),
) -> dict[str, Any]:
    """One stack in one norm, as the document holds it.

    Args:
        stack: its label.
        norm: one of `NORMS`.
        sizes: sizes of perturbation at which accuracy is stated; 0 is stated besides.
        seeds: `farthest_held` of each seed.
        attacks: labels of the attacks.
        top: where the histogram ends, and the curve.
        seekers: labels of those that seek the nearest point in this norm. Without one there is no curve: between the
            sizes of the others it would only be flat.
    """
    reach = torch.cat(list(seeds))
    found = reach[(reach > 0) & reach.isfinite()]
    inside = found <= top * (1 + _ROUNDING)
    counts = torch.histc(found[inside].clamp_max(top), BINS, 0.0, top).long().tolist() if top > 0 else []
    steps = [top * step / BINS for step in range(BINS + 1)] if seekers and top > 0 else []
    return {
        "stack": stack,
        "norm": norm,
        "attacks": list(attacks),
        "seekers": list(seekers),
        "inputs": len(reach),
        "points": [_accuracy(norm, size, seeds) for size in (0.0, *sorted(set(sizes) - {0.0}))],
        "curve": [_accuracy(norm, size, seeds) for size in steps],
        "distances": {
            "largest": top,
            "counts": counts,
            "beyond": int((~inside).sum()),
            "held": int(reach.isinf().sum()),
        },
    }


def _accuracy(norm: str, size: float, seeds: Sequence[Tensor]) -> dict[str, Any]:
    held = [_held(reach, size).double() for reach in seeds]
    found = pooled([mean_of("robust_accuracy", one) for one in held], "robustness", norm, str(size))
    return {"size": size, **estimate(found)}


def _held(reach: Tensor, size: float) -> Tensor:
    """Whether the model withstood everything of a size; a point at the attack's own size lies there up to rounding."""
    return reach > size * (1 + _ROUNDING) + 1e-7 * (size > 0)


def by_client(reach: Tensor, cells: Iterable[Mapping[str, Tensor]], size: float, seed: int) -> dict[str, Any] | None:
    """Accuracy at a size for each client, at the proportions of its classes, from the worst to the best.

    Args:
        reach: `farthest_held` of one seed.
        cells: the exhibits that it was made of.
        size: of the perturbation.
        seed: of the federation whose clients they are.

    Returns:
        as the document holds it; ``None`` where clients are not told apart. The intervals are those of as many equal
        inputs as a client's weighted ones are worth.
    """
    known = next((cell for cell in cells if MIX in cell), None)
    if known is None:
        return None
    held = _held(reach, size)
    accuracy, worth, tested = by_mix(held, known[CLASSES][: len(reach)], known[MIX])
    rows = []
    for client in accuracy.argsort(stable=True).tolist():
        if tested[client]:
            n = float(worth[client])
            share = min(1.0, max(0.0, float(accuracy[client])))
            low, high = clopper_pearson(share * n, n)
            rows.append({"client": client, "value": share, "low": low, "high": high, "n": n})
    return {"size": size, "seed": seed, "clients": rows}


def readable(stored: Stored) -> dict[str, Tensor] | None:
    """The exhibits of a cell that are needed here; ``None`` if its judge made no such ones."""
    arrays = {k.removeprefix("x/"): v for k, v in stored.tensors.items() if k.startswith("x/")}
    kept = {k: v for k, v in arrays.items() if k.startswith(REACH) or k in (CLASSES, MIX)}
    return kept if {f"{REACH}{norm}" for norm in NORMS} <= set(kept) else None
