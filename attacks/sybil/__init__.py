"""Sybil identities that carry a poisoning attack."""

from .spreading import cautious, decorrelated, noisy

__all__ = ["cautious", "decorrelated", "noisy"]
