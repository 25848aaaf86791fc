"""Pure functions under the partitions: spread rows over clients with arrays alone, never an object per client."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedsec.data.examples import Examples
from fedsec.data.source import ClientIndex
from fedsec.errors import ConfigurationError, Problem

Rows = NDArray[np.int64]


def refuse(found: str, expected: str, hint: str = "", *, field: str = "") -> ConfigurationError:
    """The error of a partition that cannot be made."""
    path = f"partition.{field}" if field else "partition"
    return ConfigurationError([Problem(path=path, found=found, expected=expected, hint=hint)])


def require_rows(pool: Examples, clients: int, *, minimum: int, field: str = "") -> None:
    """Refuse a population that the pool cannot serve with ``minimum`` examples each."""
    if clients < 1:
        raise refuse(f"{clients} clients", "a population needs at least 1 client")
    if clients * minimum > len(pool):
        raise refuse(
            f"{clients} clients and {len(pool)} examples",
            f"every client needs at least {minimum} example{'s' if minimum > 1 else ''} of its own, "
            f"so {clients} clients need {clients * minimum}",
            f"Use at most {len(pool) // max(minimum, 1)} clients, more examples, or the partition 'with-replacement'",
            field=field,
        )


def labels_of(pool: Examples) -> Rows:
    """The classes of the pool, ``(n,)``."""
    if pool.y.ndim != 1 or pool.y.is_floating_point():
        raise refuse(
            f"targets of shape {tuple(pool.y.shape)} and type {pool.y.dtype}",
            "a partition by label needs one class per example (task classification)",
            "Use 'shuffle', 'quantity-skew', 'attribute-skew' or 'natural'",
        )
    return np.asarray(pool.y.cpu().numpy(), dtype=np.int64)


def attribute_of(pool: Examples, name: str) -> Rows:
    """The values of one attribute, ``(n,)``; an empty name means the only attribute there is."""
    known = sorted(pool.attributes)
    if not name and len(known) == 1:
        name = known[0]
    if name not in pool.attributes:
        raise refuse(
            repr(name),
            f"the dataset has the attributes {', '.join(known)}" if known else "the dataset has no attributes",
            "Name one of them" if known else "Choose a dataset with attributes or another partition",
            field="attribute",
        )
    return np.asarray(pool.attributes[name].cpu().numpy(), dtype=np.int64)


def gather(client: Rows, row: Rows, clients: int, *, generator: np.random.Generator) -> ClientIndex:
    """Index of pairs (client, row), the rows of each client in random order.

    Args:
        client: ``(t,)`` client of each pair.
        row: ``(t,)`` pool row of each pair.
        clients: size of the population.
        generator: draws the order within clients.
    """
    shuffled = generator.permutation(len(client))
    order = shuffled[np.argsort(client[shuffled], kind="stable")]
    return ClientIndex(order=row[order], offsets=offsets_of(np.bincount(client, minlength=clients)))


def offsets_of(sizes: NDArray[np.integer]) -> Rows:
    """``(clients + 1,)`` offsets of consecutive runs of these sizes."""
    return np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)


def equal_sizes(rows: int, clients: int) -> Rows:
    """``(clients,)`` sizes that add up to ``rows`` and differ by at most 1."""
    sizes: Rows = np.diff(np.arange(clients + 1, dtype=np.int64) * rows // clients)
    return sizes


def apportion(rows: int, weight: NDArray[np.float64], *, minimum: int) -> Rows:
    """Sizes in proportion to weights: ``minimum`` each and the rest by largest remainders.

    Args:
        rows: what the sizes add up to, at least ``minimum * len(weight)``.
        weight: ``(clients,)`` positive.
        minimum: smallest size.
    """
    rest = rows - minimum * len(weight)
    share = weight / weight.sum() * rest
    sizes: Rows = np.floor(share).astype(np.int64)
    short = rest - int(sizes.sum())
    sizes[np.argsort(sizes - share, kind="stable")[:short]] += 1
    sizes += minimum
    return sizes


def dirichlet_clients(labels: Rows, clients: int, *, alpha: float, generator: np.random.Generator) -> tuple[Rows, Rows]:
    """Client of every row: each class is cut at the proportions of one Dirichlet draw over the clients.

    Returns:
        ``(client, row)``, each ``(n,)``; every row occurs once.
    """
    holders: list[Rows] = []
    rows: list[Rows] = []
    concentration = np.full(clients, alpha)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        share = generator.dirichlet(concentration)
        cuts = (np.cumsum(share)[:-1] * len(members)).astype(np.int64)
        holders.append(np.searchsorted(cuts, np.arange(len(members)), side="right").astype(np.int64))
        rows.append(members)
    return np.concatenate(holders), np.concatenate(rows)


def fill_up(client: Rows, clients: int, *, minimum: int, generator: np.random.Generator) -> Rows:
    """Move random surplus rows to clients below the minimum; the rest stays where it is.

    Args:
        client: ``(n,)`` client of each row, with ``n >= minimum * clients``.
        clients: size of the population.
        minimum: smallest size afterwards.
        generator: draws which rows move.

    Returns:
        ``(n,)`` client of each row; equal to the input if no client is short.
    """
    sizes = np.bincount(client, minlength=clients)
    short = np.maximum(minimum - sizes, 0)
    missing = int(short.sum())
    if missing == 0:
        return client
    shuffled = generator.permutation(len(client))
    order = shuffled[np.argsort(client[shuffled], kind="stable")]
    rank = np.arange(len(client)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    surplus = order[rank >= minimum]
    moved = client.copy()
    moved[generator.choice(surplus, size=missing, replace=False)] = np.repeat(np.arange(clients), short)
    return moved


def mixed_counts(
    weight: NDArray[np.float64],
    share: NDArray[np.float64],
    *,
    supply: tuple[int, int],
    minimum: int,
    generator: np.random.Generator,
) -> tuple[Rows, Rows]:
    """Sizes of clients that mix two groups of rows, as large as the scarcer group allows.

    The counts are rounded systematically (one uniform offset along the cumulated shares), so every client's
    count is its share rounded up or down and the sum is off by less than one.

    Args:
        weight: ``(clients,)`` positive; sizes are in proportion above the minimum.
        share: ``(clients,)`` part of a client's rows that comes from group 1.
        supply: rows of group 0 and of group 1.
        minimum: smallest size of a client.
        generator: draws the rounding.

    Returns:
        rows from group 0 and rows from group 1 of each client, ``(clients,)`` each; no sum exceeds its supply.

    Raises:
        ConfigurationError: the supply does not give every client ``minimum`` rows in these shares.
    """
    offset = generator.random()
    total = sum(supply)
    while total >= minimum * len(weight):
        sizes = apportion(total, weight, minimum=minimum)
        rounded = np.floor(np.concatenate(([0.0], np.cumsum(share * sizes))) + offset).astype(np.int64)
        ones = np.clip(np.diff(rounded), 0, sizes)
        zeros = sizes - ones
        excess = max(int(zeros.sum()) - supply[0], int(ones.sum()) - supply[1])
        if excess <= 0:
            return zeros, ones
        total -= excess  # a group's demand falls by less than this, so the largest total is approached from above
    need = minimum * float(share.sum())
    raise refuse(
        f"{len(weight)} clients of at least {minimum}, {supply[1]} examples with the attribute and {supply[0]} without",
        f"these clients need about {need:.0f} with and {minimum * len(weight) - need:.0f} without",
        "Use fewer clients, a smaller minimum, or a share of majority clients nearer to the dataset's own",
    )
