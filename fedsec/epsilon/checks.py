"""The checks that every bound starts with; messages name the argument."""

from __future__ import annotations


def check_level(confidence: float) -> float:
    """The significance ``1 - confidence``.

    Raises:
        ValueError: the confidence is not in (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), found {confidence}")
    return 1 - confidence


def check_delta(delta: float) -> None:
    """Raises ValueError unless ``delta`` is in [0, 1)."""
    if not 0 <= delta < 1:
        raise ValueError(f"delta must lie in [0, 1), found {delta}")


def check_counts(canaries: int, guesses: int, correct: int) -> None:
    """Raises ValueError unless ``0 <= correct <= guesses <= canaries`` are whole numbers and ``canaries > 0``."""
    for name, value in (("canaries", canaries), ("guesses", guesses), ("correct", correct)):
        if int(value) != value:
            raise ValueError(f"{name} must be a whole number, found {value}")
    if canaries < 1:
        raise ValueError(f"canaries must be at least 1, found {canaries}")
    if not 0 <= guesses <= canaries:
        raise ValueError(f"guesses must lie between 0 and the {canaries} canaries, found {guesses}")
    if not 0 <= correct <= guesses:
        raise ValueError(f"correct must lie between 0 and the {guesses} guesses, found {correct}")
