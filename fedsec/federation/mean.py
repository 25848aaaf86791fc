"""The mean rule: streams, never needs the matrix, and works on sums that nobody can read."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsec.protocol.payload import Payload, Plain, Sealed
from fedsec.protocol.stage import Cohort


def mean(cohort: Cohort, *, size: int, like: Tensor) -> Payload:
    """Weighted mean of a cohort, chunk by chunk (McMahan et al. 2017, Algorithm 1, with the cohort's own weights).

    Args:
        cohort: the uploads.
        size: the length ``d`` of an update.
        like: gives dtype and device of an empty result.

    Returns:
        One row: the mean and the total weight; for a sealed cohort the sum of its ciphertexts. A cohort in
        which nobody answered gives a zero update of weight 0.

    Raises:
        TypeError: the payload kind has no sum here.
    """
    total: Tensor | None = None
    weight = 0.0
    sealed: Sealed | None = None
    accumulator: object = None
    terms = 0
    for _, payload in cohort.chunks():
        if isinstance(payload, Plain):
            weights = payload.weights.to(payload.values)
            part = weights @ payload.values
            total = part if total is None else total.add_(part)
            weight += float(payload.weights.double().sum())
        elif isinstance(payload, Sealed):
            for row in payload.ciphertexts:
                accumulator = payload.scheme.start(row) if terms == 0 else payload.scheme.add(accumulator, row)
                terms += 1
            sealed = payload
        else:
            raise TypeError(f"the mean cannot sum {payload.kind} uploads")
    if sealed is not None and terms:
        return Sealed((sealed.scheme.finish(accumulator),), sealed.scheme, sealed.holders, terms)
    if total is None or weight <= 0.0:
        return Plain(like.new_zeros(1, size), like.new_zeros(1, dtype=torch.float64))
    return Plain((total / weight).unsqueeze(0), like.new_full((1,), weight, dtype=torch.float64))
