"""Small contexts and settings for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fedsec.models.flat import Layout, Slot
from fedsec.protocol.stage import RoundContext, Setting


def layout(d: int) -> Layout:
    return Layout((Slot("w", (d,), 0, d, True),))


@pytest.fixture(scope="session")
def context() -> Callable[..., RoundContext]:
    def make(d: int, clients: tuple[int, ...], **changes: Any) -> RoundContext:
        values: dict[str, Any] = {
            "round": 0, "rounds": 10, "clients": clients, "layout": layout(d), "population": 100,
            "cohort": float(len(clients)), "sampling": "poisson", "seed": 5,
        }  # fmt: skip
        return RoundContext(**{**values, **changes})

    return make


@pytest.fixture(scope="session")
def setting() -> Callable[..., Setting]:
    def make(**changes: Any) -> Setting:
        values: dict[str, Any] = {
            "population": 1000, "cohort": 100, "rounds": 100, "sampling": "poisson", "layout": layout(3),
            "local_steps": 1, "batch_size": None, "has_batch_norm": False, "task": "classification", "bounds": None,
            "stack": (),
        }  # fmt: skip
        return Setting(**{**values, **changes})

    return make
