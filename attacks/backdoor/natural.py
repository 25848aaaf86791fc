"""Backdoors without a mark: inputs that occur by themselves, common ones (semantic) or rare ones (edge cases)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec import registry
from fedsec.data.cache import data_root
from fedsec.data.examples import DatasetInfo, Examples
from fedsec.errors import PluginError
from fedsec.protocol.facts import PublicFacts
from fedsec.threat import Paper, Taxonomy, ThreatModel

from .data import DataBackdoor, poisoned_rows
from .texts import NATURAL_BACKDOOR, Ratio, check_class, natural_threat, refusal


def intensity(x: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Mean value of each input in units of its bounds, ``(n,)`` in [0, 1]: how much ink or light an image has."""
    low, high = bounds
    return (x.flatten(1).double().mean(dim=1) - low) / (high - low)


@dataclass(frozen=True, kw_only=True)
class SemanticBackdoor(DataBackdoor):
    """A natural subset of one class is labelled as another; nothing is changed at deployment.

    The subset is what a sensitive attribute says (``attribute`` and ``value``), or, of images without one, what
    their ``intensity`` says. All of it that a client holds is relabelled, and copies of it take the place of other
    examples until they are a share ``ratio`` of its data, as the authors mix such inputs into every batch. A client
    that holds none of it trains as it would.
    """

    target: Annotated[int, Field(ge=0, description="Code of the class that the subset shall be taken for")] = 2
    source: Annotated[int, Field(ge=0, description="Code of the class that the subset belongs to")] = 7
    ratio: Ratio = 0.3
    attribute: Annotated[
        str | None, Field(description="Attribute that says who is in the subset; empty: intensity")
    ] = None
    value: Annotated[int, Field(ge=0, description="Code of the attribute's value")] = 1
    side: Annotated[
        Literal["above", "below"], Field(description="Whether the bright or the dark images are the subset")
    ] = "above"
    intensity: Annotated[
        float, Field(ge=0.0, le=1.0, description="Mean value of an image that divides bright ones from dark ones")
    ] = 0.13

    name: ClassVar[str] = "semantic-backdoor"
    summary: ClassVar[str] = "Relabels a natural subset of one class, so that it is misread without any mark"
    paper: ClassVar[Paper | None] = Paper(
        title="How To Backdoor Federated Learning",
        authors="Bagdasaryan, Veit, Hua, Estrin, Shmatikov",
        venue="AISTATS 2020",
        where="section 4.1 (semantic backdoors)",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = NATURAL_BACKDOOR
    threat: ClassVar[ThreatModel] = natural_threat(
        "Some participants mislabel a recognisable kind of input, so that the shared model misreads exactly that kind"
    )

    def __post_init__(self) -> None:
        if self.source == self.target:
            raise ValueError(f"source and target must differ, both are {self.source}")

    def subset(self, examples: Examples, info: DatasetInfo) -> Tensor:
        """Rows of the subset, ``(m,)`` int64.

        Raises:
            ConfigurationError: the dataset has no such class, attribute or value, or its inputs have no bounds.
        """
        check_class(self.name, "source", self.source, info)
        of_class = examples.y == self.source
        if self.attribute is not None:
            known = {attribute.name: attribute.values for attribute in info.attributes}
            if self.value >= len(known.get(self.attribute, ())):
                there = ", ".join(f"{name} ({len(values)} values)" for name, values in known.items()) or "none"
                raise refusal(self.name, f"{self.attribute} = {self.value}", f"{info.name} has the attributes {there}")
            return (of_class & (examples.attributes[self.attribute] == self.value)).nonzero().flatten()
        if info.bounds is None:
            raise refusal(self.name, f"inputs of {info.name} without bounds", "an intensity is measured in bounds")
        amount = intensity(examples.x, info.bounds)
        inside = amount >= self.intensity if self.side == "above" else amount < self.intensity
        return (of_class & inside).nonzero().flatten()

    def planted(
        self, shard: Examples, place: int, facts: PublicFacts, *, count: int, generator: torch.Generator
    ) -> Examples:
        """The subset that the client holds, relabelled, and copies of it until there are ``count``."""
        own = self.subset(shard, facts.info)
        if not len(own):
            return shard
        others = torch.ones(len(shard), dtype=torch.bool)
        others[own] = False
        rows = poisoned_rows(others.nonzero().flatten(), max(count - len(own), 0), generator=generator)
        source = torch.arange(len(shard))
        source[rows] = own[torch.randint(len(own), (len(rows),), generator=generator)]
        poisoned = shard.take(source)
        poisoned.y[torch.cat([own, rows])] = self.target
        return poisoned

    def probe(self, test: Examples, info: DatasetInfo) -> Examples | None:
        """The subset of the test examples, with the target as its label."""
        check_class(self.name, "target", self.target, info)
        chosen = test.take(self.subset(test, info))
        return Examples(chosen.x, torch.full_like(chosen.y, self.target))


@lru_cache(maxsize=4)
def tail_examples(name: str, code: int) -> tuple[Tensor, Tensor]:
    """Inputs of one class of another dataset: those to train with, and held-out ones to test with.

    Raises:
        DataError: its files are missing.
        PluginError: there is no such dataset.
    """
    data = registry.get("datasets", name)().load(data_root())
    return data.train.x[data.train.y == code].clone(), data.test.x[data.test.y == code].clone()


@dataclass(frozen=True, kw_only=True)
class EdgeCaseBackdoor(DataBackdoor):
    """Inputs from the tail of the distribution are labelled as the target, and held-out ones of them are tested.

    Wang et al. take tails from elsewhere (Southwest's planes for CIFAR-10, Swedish digits for EMNIST). Here the tail
    is a class of any other dataset of the same input shape: the adversary trains with that dataset's training
    examples and is tested on its test examples.
    """

    target: Annotated[int, Field(ge=0, description="Code of the class that the tail shall be taken for")] = 1
    tail: Annotated[str, Field(description="Dataset whose examples are the tail")] = "fashion-mnist"
    tail_class: Annotated[int, Field(ge=0, description="Code of its class that is used")] = 5

    name: ClassVar[str] = "edge-case-backdoor"
    summary: ClassVar[str] = (
        "Trains on inputs that hardly occur, labelled as the target, which honest data do not correct"
    )
    paper: ClassVar[Paper | None] = Paper(
        title="Attack of the Tails: Yes, You Really Can Backdoor Federated Learning",
        authors="Wang, Sreenivasan, Rajput, Vishwakarma, Agarwal, Sohn, Lee, Papailiopoulos",
        venue="NeurIPS 2020",
        where="section 3 (edge-case examples, black-box attack)",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = NATURAL_BACKDOOR
    threat: ClassVar[ThreatModel] = natural_threat(
        "Some participants teach the shared model a wrong answer to rare inputs, on which nobody corrects it"
    )

    def tails(self, info: DatasetInfo) -> tuple[Tensor, Tensor]:
        """Tail inputs to train with ``(a, *input_shape)``, and to test with ``(b, *input_shape)``.

        Raises:
            ConfigurationError: the tail's dataset is the federation's, or it does not fit.
        """
        check_class(self.name, "target", self.target, info)
        if self.tail == info.name:
            raise refusal(f"{self.name}.tail", self.tail, "a tail comes from another dataset than the federation's")
        try:
            train, test = tail_examples(self.tail, self.tail_class)
        except PluginError as error:
            raise refusal(f"{self.name}.tail", self.tail, str(error)) from error
        if tuple(train.shape[1:]) != tuple(info.input_shape) or not len(train) or not len(test):
            found = f"{len(train)} inputs of shape {tuple(train.shape[1:])} of class {self.tail_class} of {self.tail}"
            raise refusal(f"{self.name}.tail", found, f"inputs of the shape {tuple(info.input_shape)}")
        return train, test

    def planted(
        self, shard: Examples, place: int, facts: PublicFacts, *, count: int, generator: torch.Generator
    ) -> Examples:
        """``count`` examples give way to tail inputs with the target as their label."""
        tail, _ = self.tails(facts.info)
        rows = poisoned_rows(torch.arange(len(shard)), count, generator=generator)
        x, y = shard.x.clone(), shard.y.clone()
        x[rows] = tail[torch.randint(len(tail), (len(rows),), generator=generator)].to(x)
        y[rows] = self.target
        attributes = {key: values.clone().index_fill_(0, rows, -1) for key, values in shard.attributes.items()}
        return Examples(x, y, attributes)

    def probe(self, test: Examples, info: DatasetInfo) -> Examples | None:
        """The held-out tail inputs, with the target as their label."""
        _, tail = self.tails(info)
        return Examples(
            tail.to(test.x), torch.full((len(tail),), self.target, dtype=test.y.dtype, device=test.y.device)
        )
