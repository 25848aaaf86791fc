"""Robust error of parts of the test inputs: by class, and as each client would see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedsec.judges.base import Exposure, Measurement

EXPOSED = 10


@dataclass(frozen=True)
class Slices:
    """What parts of the inputs say, and the class and the clients that fare worst.

    ``exhibits`` hold what the same can be said from of other attacks on the model: ``slices/classes`` ``(n,)`` and
    ``slices/mix`` ``(clients, C)``, where clients are told apart.
    """

    measurements: tuple[Measurement, ...] = ()
    exposed: tuple[Exposure, ...] = ()
    exhibits: Mapping[str, Tensor] = field(default_factory=dict)


def slices(misread: Tensor, y: Tensor, names: tuple[str, ...], mix: Tensor | None) -> Slices:
    """Robust error by class and by client.

    Test inputs belong to no client. A client's figure is that of test inputs in the proportions of its own classes
    (each class's error, weighted by its share of the client's examples; classes without a test input are left out). It
    is right where clients differ in classes alone, and says nothing of clients whose inputs look otherwise.

    Args:
        misread: ``(n,)`` bool.
        y: ``(n,)`` int64 true classes.
        names: of the classes.
        mix: ``(clients, C)`` how many examples of each class a client holds; ``None`` if that cannot be told.
    """
    wrong = misread.double()
    counts = torch.bincount(y, minlength=len(names)).double()
    errors = torch.bincount(y, weights=wrong, minlength=len(names)) / counts.clamp_min(1)
    if int((counts > 0).sum()) < 2:
        return Slices()
    worst = int(torch.where(counts > 0, errors, -1.0).argmax())
    measured = [
        Measurement(
            name="worst_class_robust_error",
            statistic="mean",
            units=wrong[y == worst].float(),
            floor=0.0,
            description="Robust error of the class that is misread most. It was picked afterwards: the interval is "
            "that of one class, not of the worst of several.",
        )
    ]
    share = float(errors[worst])
    named = (Exposure(f"class {names[worst]}", share, f"{share:.0%} misread, most of all classes"),)
    if mix is None:
        return Slices(tuple(measured), named)
    by_client, worths, known = by_mix(wrong, y, mix)
    if int(known.sum()) < 2:
        return Slices(tuple(measured), named)
    order = torch.where(known, by_client, -1.0).argsort(descending=True, stable=True)
    first = int(order[0])
    size = max(1, round(float(worths[first])))
    worth = torch.arange(size) < round(size * float(by_client[first]))
    measured += [
        Measurement(
            name="client_robust_error",
            statistic="mean",
            units=by_client[known].float(),
            floor=0.0,
            description="Robust error at the proportions of classes of each client, averaged over clients; the "
            "interval is over clients.",
        ),
        Measurement(
            name="worst_client_robust_error",
            statistic="mean",
            units=worth.float(),
            floor=0.0,
            description="The same of the client that fares worst, rounded to the number of equal observations that the "
            "weighted test inputs are worth. It was picked afterwards, which the interval does not count.",
        ),
    ]
    exposed = tuple(
        Exposure(f"client:{k}", float(by_client[k]), f"{float(by_client[k]):.0%} misread at its proportions of classes")
        for k in order.tolist()[:EXPOSED]
        if known[k]
    )
    kept = {"slices/classes": y.cpu(), "slices/mix": mix.cpu()}
    return Slices(tuple(measured), (*named, *exposed)[:EXPOSED], kept)


def by_mix(values: Tensor, y: Tensor, mix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean of a value over test inputs at the proportions of classes of each client.

    Args:
        values: ``(n,)``, one per test input.
        y: ``(n,)`` int64 classes.
        mix: ``(clients, C)`` how many examples of each class a client holds; classes without a test input are left
            out.

    Returns:
        ``(clients,)`` means; as many equal observations as the weighted ones are worth (Kish 1965), whose interval
        stays within 0 and 1; and bool, which clients hold a class that was tested.
    """
    counts = torch.bincount(y, minlength=mix.shape[1]).double()
    means = torch.bincount(y, weights=values.double(), minlength=mix.shape[1]) / counts.clamp_min(1)
    held = mix.double().to(counts) * (counts > 0)
    shares = held / held.sum(1, keepdim=True).clamp_min(1)
    # the weight of an input is its class's share over the inputs of the class
    squares = (shares.square() / counts.clamp_min(1)).sum(1)
    return shares @ means, torch.where(squares > 0, 1.0 / squares.clamp_min(1e-300), 0.0), held.sum(1) > 0
