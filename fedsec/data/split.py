"""Cut a dataset into what clients hold, what the judge keeps back, what is public and what is tested on."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from fedsec.data.examples import Dataset, Examples
from fedsec.errors import ConfigurationError, Problem


@dataclass(frozen=True)
class Split:
    """Four disjoint parts of a dataset.

    Attributes:
        clients: the pool that a partition spreads over the clients; members.
        holdout: examples of the same distribution that no client holds; non-members.
        auxiliary: examples of the same distribution that are public.
        test: the first examples of the dataset's test part.
    """

    clients: Examples
    holdout: Examples
    auxiliary: Examples
    test: Examples

    def to(self, device: str | torch.device) -> Split:
        """The parts on a device."""
        parts = (self.clients, self.holdout, self.auxiliary, self.test)
        return Split(*(part.to(device) for part in parts))


def split(
    dataset: Dataset,
    *,
    train: int | None,
    holdout: int,
    auxiliary: int,
    test: int | None,
    generator: np.random.Generator,
) -> Split:
    """Shuffle the train pool and cut it; the test part is truncated, never shuffled.

    Args:
        dataset: what to cut.
        train: examples for the clients; ``None`` for all that the other parts leave.
        holdout: examples held out as non-members.
        auxiliary: public examples.
        test: test examples; ``None`` for all.
        generator: draws which examples go where.

    Raises:
        ConfigurationError: a size is negative or zero where it may not be, or the pool is too small.
    """
    pool, tests = len(dataset.train), len(dataset.test)
    problems = [
        Problem(path=f"data.{name}", found=str(value), expected=f"must be at least {least}")
        for name, value, least in (
            ("train", train, 1),
            ("holdout", holdout, 0),
            ("auxiliary", auxiliary, 0),
            ("test", test, 1),
        )
        if value is not None and value < least
    ]
    wanted = (1 if train is None else train) + holdout + auxiliary
    if not problems and wanted > pool:
        parts = f"{'at least 1' if train is None else train} train + {holdout} hold-out + {auxiliary} auxiliary"
        problems.append(
            Problem(
                path="data",
                found=f"{parts} = {wanted} examples",
                expected=f"the train part of {dataset.info.name!r} has {pool} examples and the parts may not overlap",
                hint=f"Ask for {wanted - pool} fewer",
            )
        )
    if test is not None and test > tests:
        problems.append(
            Problem(
                path="data.test",
                found=str(test),
                expected=f"the test part of {dataset.info.name!r} has {tests} examples",
                hint=f"Use at most {tests}, or leave it out for all",
            )
        )
    if problems:
        raise ConfigurationError(problems)
    order = torch.from_numpy(generator.permutation(pool))
    count = pool - holdout - auxiliary if train is None else train
    cuts = (0, count, count + holdout, count + holdout + auxiliary)
    clients, held, public = (dataset.train.take(order[a:b]) for a, b in pairwise(cuts))
    return Split(
        clients=clients,
        holdout=held,
        auxiliary=public,
        test=dataset.test if test is None else dataset.test.take(torch.arange(test)),
    )
