"""Partitions: how a pool of examples is spread over the clients of a population."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedsec.data.allocation import (
    apportion,
    attribute_of,
    dirichlet_clients,
    equal_sizes,
    fill_up,
    gather,
    labels_of,
    mixed_counts,
    offsets_of,
    refuse,
    require_rows,
)
from fedsec.data.environments import ConceptShift, FeatureSkew
from fedsec.data.examples import Examples
from fedsec.data.source import ClientIndex, Partition
from fedsec.threat import Paper

__all__ = [
    "AttributeSkew",
    "ConceptShift",
    "Dirichlet",
    "FeatureSkew",
    "Natural",
    "QuantitySkew",
    "Shards",
    "Shuffle",
    "WithReplacement",
]

Minimum = Annotated[int, Field(ge=1, description="smallest number of examples of a client")]
Sigma = Annotated[float, Field(ge=0, le=10, description="standard deviation of the logarithm of the lognormal sizes")]

_NIID_BENCH = "Federated Learning on Non-IID Data Silos: An Experimental Study"


@dataclass(frozen=True, kw_only=True)
class Shuffle(Partition):
    """The pool shuffled and cut; every example has one client and sizes differ by at most 1."""

    name: ClassVar[str] = "shuffle"
    summary: ClassVar[str] = (
        "Shuffle the examples and deal equal shares: independent and identically distributed clients"
    )
    family: ClassVar[str] = "iid"

    def assign(self, pool: Examples, clients: int, *, generator: np.random.Generator) -> ClientIndex:
        """Spread the pool.

        Raises:
            ConfigurationError: there are fewer examples than clients.
        """
        require_rows(pool, clients, minimum=1)
        return ClientIndex(order=generator.permutation(len(pool)), offsets=offsets_of(equal_sizes(len(pool), clients)))


@dataclass(frozen=True, kw_only=True)
class WithReplacement(Partition):
    """Every client draws its examples from the whole pool, so a small pool serves any number of clients."""

    name: ClassVar[str] = "with-replacement"
    summary: ClassVar[str] = "Each client draws its examples from the whole pool with replacement; clients overlap"
    family: ClassVar[str] = "iid"

    size: Annotated[int, Field(ge=1, description="examples of each client")] = 20

    def assign(self, pool: Examples, clients: int, *, generator: np.random.Generator) -> ClientIndex:
        """Spread the pool.

        Raises:
            ConfigurationError: the pool is empty.
        """
        require_rows(pool, clients, minimum=0)
        if len(pool) == 0:
            raise refuse("0 examples", "there is nothing to draw from")
        return ClientIndex(
            order=generator.integers(0, len(pool), size=clients * self.size),
            offsets=np.arange(clients + 1, dtype=np.int64) * self.size,
        )


@dataclass(frozen=True, kw_only=True)
class Dirichlet(Partition):
    """Label skew: each class is divided over the clients in proportions drawn from Dirichlet(alpha).

    The papers draw again until every client has enough; here clients below ``minimum`` are filled up with random
    surplus examples of the others, which always ends and changes as few examples as possible.
    """

    name: ClassVar[str] = "dirichlet"
    summary: ClassVar[str] = (
        "Divide every class over the clients in Dirichlet proportions; small alpha is strong label skew"
    )
    family: ClassVar[str] = "label skew"
    paper: ClassVar[Paper | None] = Paper(
        "Bayesian Nonparametric Federated Learning of Neural Networks",
        "Yurochkin, Agarwal, Ghosh, Greenewald, Hoang, Khazaeni",
        "ICML 2019",
        "section 4, heterogeneous partition",
    )

    alpha: Annotated[float, Field(gt=0, description="concentration; 0.1 is strong skew, 100 is nearly none")] = 0.5
    minimum: Minimum = 1

    def assign(self, pool: Examples, clients: int, *, generator: np.random.Generator) -> ClientIndex:
        """Spread the pool.

        Raises:
            ConfigurationError: there are fewer than ``minimum`` examples per client, or the targets are not classes.
        """
        require_rows(pool, clients, minimum=self.minimum, field="minimum")
        client, row = dirichlet_clients(labels_of(pool), clients, alpha=self.alpha, generator=generator)
        client = fill_up(client, clients, minimum=self.minimum, generator=generator)
        return gather(client, row, clients, generator=generator)


@dataclass(frozen=True, kw_only=True)
class Shards(Partition):
    """The pathological split: examples sorted by label, cut into equal shards, a few shards dealt to each client."""

    name: ClassVar[str] = "shards"
    summary: ClassVar[str] = "Sort by label, cut into shards and deal a few to each client, so each sees few classes"
    family: ClassVar[str] = "label skew"
    paper: ClassVar[Paper | None] = Paper(
        "Communication-Efficient Learning of Deep Networks from Decentralized Data",
        "McMahan, Moore, Ramage, Hampson, Aguera y Arcas",
        "AISTATS 2017",
        "section 3, pathological non-IID partition",
    )

    shards_per_client: Annotated[int, Field(ge=1, description="label-sorted shards dealt to each client")] = 2

    def assign(self, pool: Examples, clients: int, *, generator: np.random.Generator) -> ClientIndex:
        """Spread the pool.

        Raises:
            ConfigurationError: there are fewer examples than shards, or the targets are not classes.
        """
        require_rows(pool, clients, minimum=self.shards_per_client, field="shards_per_client")
        labels = labels_of(pool)
        shards = clients * self.shards_per_client
        shuffled = generator.permutation(len(pool))
        row = shuffled[np.argsort(labels[shuffled], kind="stable")]
        owner = generator.permutation(shards) // self.shards_per_client
        client = np.repeat(owner, equal_sizes(len(pool), shards))
        return gather(client, row, clients, generator=generator)


@dataclass(frozen=True, kw_only=True)
class QuantitySkew(Partition):
    """Clients of very different size and the same distribution."""

    name: ClassVar[str] = "quantity-skew"
    summary: ClassVar[str] = "Identically distributed clients of lognormal or power-law sizes"
    family: ClassVar[str] = "quantity skew"
    paper: ClassVar[Paper | None] = Paper(_NIID_BENCH, "Li, Diao, Chen, He", "ICDE 2022", "section 4, quantity skew")

    law: Annotated[
        Literal["lognormal", "power-law"], Field(description="how sizes above the minimum are distributed")
    ] = "lognormal"
    skew: Annotated[
        float,
        Field(
            ge=0,
            le=10,
            description="lognormal: standard deviation of the logarithm of a size; "
            "power-law: exponent s of size ~ rank^-s; 0 gives equal sizes",
        ),
    ] = 1.0
    minimum: Minimum = 1

    def assign(self, pool: Examples, clients: int, *, generator: np.random.Generator) -> ClientIndex:
        """Spread the pool; every example has one client.

        Raises:
            ConfigurationError: there are fewer than ``minimum`` examples per client.
        """
        require_rows(pool, clients, minimum=self.minimum, field="minimum")
        if self.law == "lognormal":
            weight = generator.lognormal(0.0, self.skew, size=clients)
        else:
            weight = generator.permutation(np.arange(1, clients + 1, dtype=np.float64) ** -self.skew)
        sizes = apportion(len(pool), weight, minimum=self.minimum)
        return ClientIndex(order=generator.permutation(len(pool)), offsets=offsets_of(sizes))


@dataclass(frozen=True, kw_only=True)
class AttributeSkew(Partition):
    """Clients dominated by one value of a sensitive attribute: what property inference looks for.

    A share ``majority`` of the clients (drawn at random) has a part ``purity`` of examples whose attribute is 1, the
    other clients a part ``purity`` of examples whose attribute is another known value. No example has two clients; the
    sizes are as large as the scarcer group allows, and what is then left of the other group is not used. A client of
    1 or 2 examples holds the rounded counts, up or down at random.
    """

    name: ClassVar[str] = "attribute-skew"
    summary: ClassVar[str] = "Some clients hold mostly examples with a sensitive attribute, the others mostly without"
    family: ClassVar[str] = "attribute skew"

    attribute: Annotated[str, Field(description="name of the attribute; empty for the only one there is")] = ""
    purity: Annotated[float, Field(ge=0.5, le=1, description="part of a client's examples of its own group")] = 0.9
    majority: Annotated[float, Field(ge=0, le=1, description="share of clients whose own group is attribute = 1")] = 0.5
    sizes: Annotated[Literal["equal", "lognormal"], Field(description="how many examples the clients hold")] = "equal"
    sigma: Sigma = 1.0
    minimum: Minimum = 1

    def assign(self, pool: Examples, clients: int, *, generator: np.random.Generator) -> ClientIndex:
        """Spread the pool.

        Raises:
            ConfigurationError: the attribute does not exist, or too few examples have or lack it.
        """
        value = attribute_of(pool, self.attribute)
        require_rows(pool, clients, minimum=self.minimum, field="minimum")
        groups = (np.flatnonzero((value != 1) & (value >= 0)), np.flatnonzero(value == 1))
        major = generator.permutation(clients) < round(self.majority * clients)
        weight: NDArray[np.float64] = np.ones(clients)
        if self.sizes == "lognormal":
            weight = generator.lognormal(0.0, self.sigma, size=clients)
        counts = mixed_counts(
            weight,
            np.where(major, self.purity, 1.0 - self.purity),
            supply=(len(groups[0]), len(groups[1])),
            minimum=self.minimum,
            generator=generator,
        )
        row = [generator.permutation(group)[: count.sum()] for group, count in zip(groups, counts, strict=True)]
        client = [np.repeat(np.arange(clients), count) for count in counts]
        return gather(np.concatenate(client), np.concatenate(row), clients, generator=generator)


@dataclass(frozen=True, kw_only=True)
class Natural(Partition):
    """A client is one value of an attribute, such as a publication, a speaker or a person.

    The clients are drawn from the values that enough examples have; examples of other values, and of an unknown
    value, are not used.
    """

    name: ClassVar[str] = "natural"
    summary: ClassVar[str] = "One client per value of an attribute, such as a speaker or a publication"
    family: ClassVar[str] = "natural"

    attribute: Annotated[str, Field(description="the client key; empty for the only attribute there is")] = ""
    minimum: Minimum = 1

    def assign(self, pool: Examples, clients: int, *, generator: np.random.Generator) -> ClientIndex:
        """Spread the pool.

        Raises:
            ConfigurationError: the attribute does not exist, or too few of its values have enough examples.
        """
        value = attribute_of(pool, self.attribute)
        require_rows(pool, clients, minimum=1)
        keys, counts = np.unique(value[value >= 0], return_counts=True)
        keys = keys[counts >= self.minimum]
        if len(keys) < clients:
            raise refuse(
                f"{clients} clients",
                f"{len(keys)} values of the attribute have at least {self.minimum} examples, and each is one client",
                f"Use at most {len(keys)} clients",
            )
        chosen = generator.permutation(keys)[:clients]
        number = np.full(int(value.max()) + 1, -1, dtype=np.int64)
        number[chosen] = np.arange(clients)
        row = np.flatnonzero(value >= 0)
        row = row[number[value[row]] >= 0]
        return gather(number[value[row]], row, clients, generator=generator)
