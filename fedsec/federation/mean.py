"""The mean rule: streams, never needs the matrix, and works on sums that nobody can read."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsec.protocol.payload import Code, Masked, OpenPart, Payload, Plain, Sealed, in_clear
from fedsec.protocol.stage import Cohort


def mean(cohort: Cohort, *, size: int, like: Tensor) -> Payload:
    """Weighted mean of a cohort, chunk by chunk (McMahan et al. 2017, Algorithm 1, with the cohort's own weights).

    Args:
        cohort: the uploads.
        size: the length ``d`` of an update.
        like: gives dtype and device of an empty result.

    Returns:
        One row: the mean and the total weight; for a sealed or masked cohort the sum of its rows. A cohort in
        which nobody answered gives a zero update of weight 0. What sealed rows leave open is averaged beside them.
    """
    total: Tensor | None = None
    weight = 0.0
    sealed: Sealed | Masked | None = None
    accumulator: object = None
    terms = 0
    for _, payload in cohort.chunks():
        clear = in_clear(payload)
        if clear is not None:
            weights = clear.weights.to(clear.values)
            part = weights @ clear.values
            total = part if total is None else total.add_(part)
            weight += float(clear.weights.double().sum())
        if not isinstance(payload, Plain):
            for row in payload.ciphertexts if isinstance(payload, Sealed) else payload.masked:
                accumulator = payload.scheme.start(row) if terms == 0 else payload.scheme.add(accumulator, row)
                terms += 1
            sealed = payload
    if sealed is not None and terms:
        summed = sealed.scheme.finish(accumulator)
        if isinstance(sealed, Masked):
            return sealed.summed(summed)
        beside = None
        if sealed.open_part is not None:
            beside = OpenPart(_averaged(total, weight, size, like, sealed.open_part.plain.code), sealed.open_part.where)
        return Sealed((summed,), sealed.scheme, sealed.holders, terms, beside)
    return _averaged(total, weight, size, like)


def _averaged(total: Tensor | None, weight: float, size: int, like: Tensor, code: Code | None = None) -> Plain:
    if total is None or weight <= 0.0:
        return Plain(like.new_zeros(1, size), like.new_zeros(1, dtype=torch.float64))
    return Plain((total / weight).unsqueeze(0), like.new_full((1,), weight, dtype=torch.float64), code)
