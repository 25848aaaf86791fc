"""A watch on the usual generators of pseudo-random numbers: which seeds a stage gives them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np


@contextmanager
def recorded_seeds() -> Iterator[dict[str, list[int]]]:
    """Within, whole-number seeds of new generators of numpy and of Python are noted by the generator's name.

    Generators that a module imported by name before are not seen, nor are torch's, whose seeds have 64 bits, nor
    ciphers, whose keys have at least 128.
    """
    seeds: dict[str, list[int]] = {}

    def note(name: str, seed: object) -> None:
        if isinstance(seed, int | np.integer) and not isinstance(seed, bool):
            seeds.setdefault(name, []).append(int(seed))

    def watched(name: str, make: Any) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            note(name, given[0] if given else named.get("seed", named.get("key")))
            return make(*given, **named)

        return call

    class RandomState(np.random.RandomState):
        def __init__(self, seed: Any = None) -> None:
            note("numpy.random.RandomState", seed)
            super().__init__(seed)

    class Random(random.Random):
        def __init__(self, seed: Any = None) -> None:
            note("random.Random", seed)
            super().__init__(seed)

    with ExitStack() as patches:
        patches.enter_context(patch.object(np.random, "RandomState", RandomState))
        patches.enter_context(patch.object(random, "Random", Random))
        for name in ("default_rng", "seed", "MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"):
            patches.enter_context(
                patch.object(np.random, name, watched(f"numpy.random.{name}", getattr(np.random, name)))
            )
        patches.enter_context(patch.object(random, "seed", watched("random.seed", random.seed)))
        yield seeds


__all__ = ["recorded_seeds"]
