"""Sybil identities that carry a poisoning attack."""

from .identities import decorrelated, noisy

__all__ = ["decorrelated", "noisy"]
