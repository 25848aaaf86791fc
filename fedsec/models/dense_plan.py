"""What a dense model does, as a list of operations that take any number of leading axes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedsec.models.dropout import CounterDropout
from fedsec.models.flat import FlatModel
from fedsec.models.layers import find_layer, ran
from fedsec.randomness import counter_uniform, salted


@dataclass(frozen=True)
class Flatten:
    """All axes of an example become one."""


@dataclass(frozen=True)
class Linear:
    """A linear layer: positions of its weight and bias among the parameters."""

    weight: int
    bias: int | None


@dataclass(frozen=True)
class Apply:
    """An elementwise function; ``name`` says which (``relu``, ``sigmoid``, ``tanh``)."""

    function: Callable[[Tensor], Tensor]
    name: str


@dataclass(frozen=True)
class Drop:
    """A dropout layer (see `fedsec.models.dropout`)."""

    p: float
    salt: int

    def mask(self, keys: Tensor, x: Tensor) -> Tensor:
        """What multiplies ``x (l, b, *)``: zero or ``1 / (1 - p)``, of the same draws as `CounterDropout`."""
        keep = counter_uniform(salted(keys, self.salt), tuple(x.shape[1:])) >= self.p
        return keep.to(x.dtype) / (1.0 - self.p)


Plan = tuple[Flatten | Linear | Apply | Drop, ...]

_FUNCTIONS: dict[type[nn.Module], Apply] = {
    nn.ReLU: Apply(torch.relu, "relu"),
    nn.Sigmoid: Apply(torch.sigmoid, "sigmoid"),
    nn.Tanh: Apply(torch.tanh, "tanh"),
}


def dense_plan(model: FlatModel) -> Plan | None:
    """The operations of a model that is nested ``nn.Sequential`` of dense layers; ``None`` for any other.

    A ``nn.Flatten`` must stand before the first linear layer, so that its input is one row per example.
    """
    places = {slot.name: index for index, slot in enumerate(model.layout.parameters)}
    plan: list[Flatten | Linear | Apply | Drop] = []
    if model.layout.buffers or not isinstance(model.module, nn.Sequential):
        return None
    for name, part in _leaves(model.module):
        kind = type(part)
        if isinstance(part, nn.Flatten) and (part.start_dim, part.end_dim) == (1, -1):
            plan.append(Flatten())
        elif kind is nn.Linear and f"{name}.weight" in places:
            plan.append(Linear(places[f"{name}.weight"], places.get(f"{name}.bias")))
        elif kind in _FUNCTIONS:
            plan.append(_FUNCTIONS[kind])
        elif isinstance(part, CounterDropout) and not part.feature:
            if part.p > 0.0:
                plan.append(Drop(part.p, part.salt))
        elif kind is not nn.Identity:
            return None
    kinds = [type(op) for op in plan]
    flat_before_linear = Flatten in kinds and Linear in kinds and kinds.index(Flatten) < kinds.index(Linear)
    return tuple(plan) if flat_before_linear else None


def plan_place(model: FlatModel, name: str) -> int:
    """How many operations of the model's plan have run when the layer of this name has; all for the empty name.

    Raises:
        ConfigurationError: there is no such layer, or it stands in several places.
    """
    wanted = find_layer(model.module, name)
    places: list[int] = []

    def walk(part: nn.Module, done: int) -> int:
        if isinstance(part, nn.Sequential):
            for child in part._modules.values():
                done = done if child is None else walk(child, done)
        elif not (type(part) is nn.Identity or (isinstance(part, CounterDropout) and part.p == 0.0)):
            done += 1
        if part is wanted:
            places.append(done)
        return done

    walk(model.module, 0)
    if len(places) != 1:
        raise ran(name, len(places))
    return places[0]


def _leaves(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, child in module._modules.items():  # named_children() leaves out a layer that stands twice
        if child is None:
            continue
        path = f"{prefix}{name}"
        if isinstance(child, nn.Sequential):
            yield from _leaves(child, f"{path}.")
        else:
            yield path, child
