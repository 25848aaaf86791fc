"""What an attack says when its question cannot be asked of this federation."""

from __future__ import annotations


class NotApplicable(Exception):
    """The attack has nothing to work on here; the cell's outcome is *not applicable* and carries the reason.

    Says nothing about security: another attack may well succeed. An event that exists and cannot be read is
    *blocked*, which the harness finds by itself.

    Attributes:
        reason: why, in one sentence.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


__all__ = ["NotApplicable"]
