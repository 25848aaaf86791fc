"""Signs of a planted model that a client can compute from the model and its own data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedsec.data.examples import Examples
from fedsec.federation.shards import as_input
from fedsec.models.flat import FlatModel

COPIES = 0.999
"""Absolute cosine above which two rows count as copies of each other."""
LONE = 0.99
"""Share of a row's squared gradient above which one example has it for itself."""
LARGEST = 1e6
"""Where ratios are cut, so that one example alone in a batch gives no infinity."""


@dataclass(frozen=True)
class Response:
    """What one linear layer does with a batch.

    Attributes:
        name: of the layer.
        inputs: ``(b, in)``.
        deltas: ``(b, out)`` gradient of each example's own loss with respect to the layer's outputs.
    """

    name: str
    inputs: Tensor
    deltas: Tensor


def responses(model: FlatModel, vector: Tensor, batch: Examples) -> tuple[Response, ...]:
    """Inputs and output gradients of every linear layer that reads one row per example, in the order of the calls.

    Taken in eval mode, so that no example's gradient depends on another one.
    """
    module = model.instance(vector)
    calls: list[tuple[str, Tensor, Tensor]] = []

    def listen(name: str, layer: nn.Module) -> None:
        layer.register_forward_hook(lambda _, args, out: calls.append((name, args[0], out)))

    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            listen(name, layer)
    x, y = as_input(batch.x, vector), as_input(batch.y, vector)
    with torch.enable_grad():
        loss = model.loss(module(x), y).sum()
        flat = [call for call in calls if call[1].dim() == 2 and len(call[1]) == len(batch) and call[2].requires_grad]
        deltas = torch.autograd.grad(loss, [out for _, _, out in flat], allow_unused=True) if flat else ()
    return tuple(
        Response(name, read.detach(), torch.zeros_like(out) if delta is None else delta)
        for (name, read, out), delta in zip(flat, deltas, strict=True)
    )


def copied_rows(weight: Tensor) -> float:
    """Share of the rows of ``(out, in)`` that have a copy, up to a factor; a row of zeros is a copy of any other.

    The bins of an imprint are one query many times over (Fowl et al. 2022); a fishing head has rows of zeros.
    """
    if len(weight) < 2 or weight.shape[1] < 2:
        return 0.0
    norms = weight.norm(dim=1, keepdim=True)
    zero = (norms <= 1e-12 * norms.max().clamp_min(1e-30)).flatten()
    unit = weight / norms.clamp_min(1e-30)
    cosine = (unit @ unit.T).abs()
    cosine.fill_diagonal_(0)
    cosine[zero] = cosine[:, zero] = 1.0
    return float((cosine.amax(1) >= COPIES).double().mean())


def disaggregation(response: Response) -> float:
    """D-SNR of one layer: the largest gradient of an example against the norm of all others (Garov et al. 2024, eq. 3).

    Args:
        response: of the layer; an example's weight gradient ``delta x^T`` has the norm ``|delta| |x|``.

    Returns:
        At most `LARGEST`; 0 if nobody sends a gradient.
    """
    squares = (response.deltas.norm(dim=1) * response.inputs.norm(dim=1)).double().square()
    most = float(squares.max())
    rest = float(squares.sum()) - most
    if most == 0:
        return 0.0
    return min(LARGEST, math.sqrt(most / max(rest, most / LARGEST**2)))


def lone_rows(response: Response) -> float:
    """Share of the rows whose gradient one example has for itself (trap weights, one-shot bins)."""
    squares = (response.deltas * response.inputs.norm(dim=1, keepdim=True)).double().square()
    total = squares.sum(0)
    if len(response.deltas) < 2:
        return 0.0
    return float(((total > 0) & (squares.amax(0) >= LONE * total)).double().mean())


def silence(response: Response) -> float:
    """Share of (example, row) pairs without any gradient."""
    return float((response.deltas == 0).double().mean())


def head_imbalance(weight: Tensor, bias: Tensor | None) -> float:
    """How far the longest row and the extreme bias of the last layer are from the median row and bias, as a ratio."""
    norms = weight.norm(dim=1)
    if len(norms) < 2:
        return 1.0
    size = float(norms.mean()) / max(1.0, weight.shape[1] ** 0.5)
    ratio = float(norms.max()) / max(float(norms.median()), 1e-12)
    apart = 0.0 if bias is None else float((bias - bias.median()).abs().max()) / max(size, 1e-12)
    return min(LARGEST, max(1.0, ratio, apart))


def largest_step(layout_of: FlatModel, vector: Tensor, previous: Tensor) -> float:
    """Largest change of a tensor since the previous model, as a share of its length then (or the mean length)."""
    slots = layout_of.layout.parameters
    lengths = {slot.name: float(previous[slot.start : slot.stop].norm()) for slot in slots}
    typical = max(1e-12, sum(lengths.values()) / max(1, len(lengths)))
    steps = [
        float((vector[slot.start : slot.stop] - previous[slot.start : slot.stop]).norm())
        / max(lengths[slot.name], 0.1 * typical)
        for slot in slots
    ]
    return min(LARGEST, max(steps, default=0.0))


SIGNS = ("copies", "lone", "silence", "d-snr", "head", "step")
"""Names of the signs, in the order of `signs_of`."""
FLOORS = (0.02, 0.05, 0.15, 0.25, 0.25, 0.5)
"""Least deviation of each sign among honest models: what changes from round to round anyway."""


def most_copies(model: FlatModel, vector: Tensor) -> float:
    """Largest share of copied rows of any weight but an embedding, whose rows are words and may be alike."""
    tables = {name for name, part in model.module.named_modules() if isinstance(part, nn.Embedding)}
    tensors = model.layout.split(vector)
    slots = [slot for slot in model.layout.parameters if len(slot.shape) >= 2 and slot.layer not in tables]
    return max((copied_rows(tensors[slot.name].flatten(1)) for slot in slots), default=0.0)


def signs_of(
    model: FlatModel, vector: Tensor, previous: Tensor | None, batch: Examples, *, copies: float | None = None
) -> Tensor:
    """All signs of one model, ``(6,)`` float64: shares as they are, ratios as natural logarithms.

    Args:
        model: its architecture.
        vector: ``(d,)``.
        previous: ``(d,)`` the model before, of the same architecture; ``None`` if it is of another one.
        batch: the client's own examples.
        copies: `most_copies`, where it is known; it costs most in wide layers.
    """
    seen = responses(model, vector, batch)
    tensors = model.layout.split(vector)
    last = seen[-1].name if seen else ""
    head = tensors.get(f"{last}.weight")
    values = (
        most_copies(model, vector) if copies is None else copies,
        max((lone_rows(one) for one in seen), default=0.0),
        max((silence(one) for one in seen), default=0.0),
        _log(max((disaggregation(one) for one in seen), default=0.0)),
        0.0 if head is None else _log(head_imbalance(head, tensors.get(f"{last}.bias"))),
        _log(1e-3 if previous is None else largest_step(model, vector, previous)),
    )
    return torch.tensor(values, dtype=torch.float64)


def _log(ratio: float) -> float:
    return float(torch.tensor(max(ratio, 1e-3), dtype=torch.float64).log())


def honest_walks(
    model: FlatModel,
    start: Tensor,
    shard: Examples,
    *,
    walks: int,
    steps: int,
    rates: tuple[float, ...],
    generator: torch.Generator,
) -> list[tuple[Tensor, Tensor]]:
    """Models that honest training could have made of a trusted one, each with its predecessor.

    Gradient steps on random halves of the client's own data, each as long as a share of the model.

    Args:
        model: the architecture.
        start: ``(d,)`` the trusted model.
        shard: the client's data.
        walks: trainings that are simulated.
        steps: of each.
        rates: length of a step, in lengths of the model; one after the other.
        generator: draws the halves.
    """
    found: list[tuple[Tensor, Tensor]] = [(start, start)]
    size = model.layout.trainable
    length = float(start[:size].norm())
    for walk in range(walks):
        at = start
        for _ in range(steps):
            rows = torch.randperm(len(shard), generator=generator)[: max(1, len(shard) // 2)]
            module = model.instance(at)
            half = shard.take(rows)
            x, y = as_input(half.x, at), as_input(half.y, at)
            with torch.enable_grad():
                loss = model.loss(module(x), y).mean()
                gradients = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)
            flat = torch.cat(
                [
                    (torch.zeros_like(p) if g is None else g).reshape(-1)
                    for p, g in zip(module.parameters(), gradients, strict=True)
                ]
            )
            step = rates[walk % len(rates)] * length * flat / flat.norm().clamp_min(1e-12)
            at = torch.cat([at[:size] - step, at[size:]])
            found.append((at, start))
    return found


def spread(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation ``(6,)`` of the signs ``(m, 6)`` of honest models, the deviation no smaller than `FLOORS`."""
    deviation = values.std(0, unbiased=False) if len(values) > 1 else torch.zeros_like(values[0])
    return values.mean(0), torch.maximum(deviation, torch.tensor(FLOORS, dtype=values.dtype))
