"""Properties: statements about single examples that a sensitive attribute makes true or false."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedsec.data.examples import Attribute, DatasetInfo, Examples

SYNTAX = "write attribute, attribute=value, attribute=value|value or attribute!=value"


@dataclass(frozen=True)
class Property:
    """One property.

    Attributes:
        name: as in ``sex`` or ``race=Black``, without blanks and slashes.
        attribute: the attribute that decides.
        codes: codes of its values that have the property.
    """

    name: str
    attribute: str
    codes: tuple[int, ...]

    def holds(self, examples: Examples) -> Tensor:
        """Whether each example has it, ``(n,)`` bool; false where the attribute is unknown."""
        return torch.isin(examples.attributes[self.attribute], torch.tensor(self.codes))

    def known(self, examples: Examples) -> Tensor:
        """Whether each example's attribute is known, ``(n,)`` bool."""
        return examples.attributes[self.attribute] >= 0

    def share(self, examples: Examples) -> float | None:
        """Share of the examples with a known attribute that have it; ``None`` if none is known."""
        known = self.known(examples)
        return float(self.holds(examples)[known].double().mean()) if bool(known.any()) else None


def resolve(texts: Sequence[str], info: DatasetInfo) -> tuple[Property, ...]:
    """Properties as typed; without any, the first attribute.

    An attribute of two values stands for its second one. Values are compared without regard to case, blanks and
    hyphens; a code (0, 1, ...) is one too.

    Args:
        texts: see `SYNTAX`.
        info: of the dataset that the attributes are from.

    Raises:
        ValueError: there is no such attribute or value, or a value has to be chosen; lists what there is.
    """
    offered = {attribute.name: attribute for attribute in info.attributes}
    if not offered:
        raise ValueError(f"the dataset {info.name} has no attribute")
    found = [_resolved(text, info.name, offered) for text in texts or (next(iter(offered)),)]
    return tuple({one.name: one for one in found}.values())


def _resolved(text: str, dataset: str, offered: dict[str, Attribute]) -> Property:
    name, negated, wanted = re.fullmatch(r"([^=!]*)(!?)=?(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    name = name.strip()
    if name not in offered:
        raise ValueError(f"the dataset {dataset} has no attribute {name!r}; it has {', '.join(offered)}")
    values = offered[name].values
    listed = f"its values are {', '.join(values)}" if values else "its values are codes 0, 1, ..."
    if "=" not in text:
        if len(values) != 2:
            raise ValueError(f"choose which value of {name!r} is the property: {listed}; {SYNTAX}")
        return Property(name, name, (1,))
    codes = {_code(part, name, values, listed) for part in wanted.split("|")}
    if negated:
        codes = set(range(len(values))) - codes
    if not codes or (values and len(codes) == len(values)):
        raise ValueError(f"{text!r} holds for {'every' if codes else 'no'} value of {name!r}: {listed}")
    return Property(re.sub(r"[\s/]+", "-", text.strip()), name, tuple(sorted(codes)))


def _code(part: str, name: str, values: tuple[str, ...], listed: str) -> int:
    names = {_plain(value): code for code, value in enumerate(values)}
    if _plain(part) in names:
        return names[_plain(part)]
    if part.strip().isdigit() and (not values or int(part) < len(values)):
        return int(part)
    raise ValueError(f"the attribute {name!r} has no value {part.strip()!r}; {listed}; {SYNTAX}")


def _plain(value: str) -> str:
    return re.sub(r"[\s/_-]+", "-", value.strip()).casefold()


def combinations(properties: Sequence[Property], examples: Examples) -> Tensor:
    """Which of the properties each example has, as a number with bit ``p`` for property ``p``, ``(n,)`` int64.

    It is -1 where one of the attributes is unknown.
    """
    code = torch.zeros(len(examples), dtype=torch.long)
    for number, one in enumerate(properties):
        code += one.holds(examples).long() << number
    for one in properties:
        code[~one.known(examples)] = -1
    return code


def mix(counts: Tensor, shares: Sequence[float], classes: Tensor | None) -> Tensor:
    """The table nearest to ``counts`` in which the properties have given shares: iterative proportional fitting.

    The odds ratios are those of ``counts`` (Deming and Stephan 1940), so that women in a client of mostly women are
    like women elsewhere.

    Args:
        counts: ``(c, 2^p)`` examples of each class and combination (`combinations`).
        shares: of the ``p`` properties.
        classes: ``(c,)`` share of each class, or ``None`` to let it follow from the properties.

    Returns:
        ``(c, 2^p)`` shares, float64, that add up to 1.

    Raises:
        ValueError: no mixture of these examples has such shares (to 0.01).
    """
    table = counts.double() / counts.sum()
    bits = torch.arange(counts.shape[1])
    having = [(bits >> number) & 1 == 1 for number in range(len(shares))]
    for _ in range(500):
        for which, share in zip(having, shares, strict=True):
            both = torch.stack([table[:, ~which].sum(), table[:, which].sum()])
            wanted = torch.tensor([1 - share, share], dtype=torch.float64)
            table = table * (wanted / both.clamp_min(1e-300))[which.long()]
        if classes is not None:
            table = table * (classes.double() / table.sum(1).clamp_min(1e-300))[:, None]
        errors = [abs(float(table[:, which].sum()) - share) for which, share in zip(having, shares, strict=True)]
        if max(errors, default=0.0) < 1e-6:
            break
    missing = [] if classes is None else [float((table.sum(1) - classes).abs().max())]
    if not max([*errors, *missing], default=0.0) < 0.01:
        raise ValueError("these properties go together in the examples: no mixture has them in the wanted shares")
    return table / table.sum()
