"""Shamir's secret sharing of 32-byte secrets over the field of 2**521 - 1 elements (Shamir, CACM 1979)."""

from __future__ import annotations

import itertools
import math
import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache

PRIME = (1 << 521) - 1
SECRET_BYTES = 32
SHARE_BYTES = 66


def split(secret: bytes, *, threshold: int, points: Sequence[int]) -> list[bytes]:
    """One share per point: any ``threshold`` of them give the secret, fewer give nothing.

    Args:
        secret: 32 bytes; one number of the field, not many small ones.
        threshold: shares that are needed.
        points: where the polynomial is evaluated, distinct and positive, one per holder.

    Returns:
        Shares of 66 bytes, in the order of ``points``.

    Raises:
        ValueError: the secret has another length, or points or threshold make no sense.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret has {SECRET_BYTES} bytes, not {len(secret)}")
    if not 1 <= threshold <= len(points) or len(set(points)) < len(points) or min(points) < 1:
        raise ValueError(f"cannot share among {len(points)} points with threshold {threshold}")
    # 2**521 equally likely numbers, of which one stands twice for zero: uniform up to 2**-521
    coefficients = [secrets.randbits(521) % PRIME for _ in range(threshold - 1)]
    shares = []
    for point in points:
        value = 0
        for coefficient in coefficients:
            value = (value + coefficient) * point % PRIME
        shares.append(((value + int.from_bytes(secret, "little")) % PRIME).to_bytes(SHARE_BYTES, "little"))
    return shares


@lru_cache(maxsize=4096)
def coefficients_at_zero(points: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange's coefficients: ``f(0) = sum(c_i f(x_i))`` for polynomials of degree below ``len(points)``.

    Kept, because a server opens many secrets from shares of the same holders.
    """
    # products of small differences are small, so they are reduced once; one inversion serves all of them
    below = [math.prod(other - this for other in points if other != this) * this % PRIME for this in points]
    running = list(itertools.accumulate(below, lambda a, b: a * b % PRIME, initial=1))
    inverse, above = pow(running[-1], -1, PRIME), math.prod(points) % PRIME
    coefficients = []
    for value, before in zip(reversed(below), reversed(running[:-1]), strict=True):
        coefficients.append(above * before * inverse % PRIME)
        inverse = inverse * value % PRIME
    return tuple(reversed(coefficients))


def combine(shares: Mapping[int, bytes], *, threshold: int) -> bytes:
    """The secret, from the first ``threshold`` shares by point.

    Args:
        shares: by point.
        threshold: as in `split`.

    Raises:
        ValueError: too few shares, or shares that are not of one secret (found with all but certainty).
    """
    if len(shares) < threshold:
        raise ValueError(f"{len(shares)} shares do not open what {threshold} open")
    points = tuple(sorted(shares)[:threshold])
    values = (int.from_bytes(shares[point], "little") for point in points)
    pairs = zip(coefficients_at_zero(points), values, strict=True)
    secret = sum(coefficient * value for coefficient, value in pairs) % PRIME
    if secret >> (8 * SECRET_BYTES):
        raise ValueError("the shares are not of one secret")
    return secret.to_bytes(SECRET_BYTES, "little")
