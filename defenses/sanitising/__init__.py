"""Clients that clean their own data before they train on them."""

from .suspects import label_suspicion, mark_suspects

__all__ = ["label_suspicion", "mark_suspects"]
