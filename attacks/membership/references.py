"""Shadow federations for membership inference: which examples each of them is trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedsec.data.examples import Examples
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.randomness import generator


@dataclass(frozen=True)
class References:
    """Shadow models and what they were trained on.

    Attributes:
        models: ``(s, d)`` released models.
        candidates: ``(s, m)`` bool, whether a model was trained on a candidate.
        public: ``(s, a)`` bool, whether it was trained on a public example.
    """

    models: Tensor
    candidates: Tensor
    public: Tensor


def draw(candidates: int, public: int, *, shadows: int, online: bool, examples: int) -> tuple[Tensor, Tensor]:
    """Which candidates and which public examples each shadow federation is trained on.

    Shadows come in pairs: the second of a pair gets the candidates that the first does not, so that each candidate is
    in exactly half of an even number of shadows. The draws depend on nothing but the arguments, so every attack of an
    audit asks for the same shadows, and fewer shadows are the first of more.

    Args:
        candidates: number of candidates.
        public: number of public examples.
        shadows: number of shadow federations.
        online: whether candidates are trained on; without them shadows hold public examples alone.
        examples: size of a training set; 0 for half of all there is. What candidates leave is filled with public
            examples, as far as there are any.

    Returns:
        ``(s, m)`` and ``(s, a)`` bool.
    """
    ours = torch.zeros(shadows, candidates, dtype=torch.bool)
    theirs = torch.zeros(shadows, public, dtype=torch.bool)
    for number in range(shadows):
        random = generator("membership references", candidates if online else 0, public, examples, number // 2)
        others = torch.randperm(public, generator=random)
        order = torch.randperm(candidates, generator=random)
        if number % 2:
            order, others = order.flip(0), others.flip(0)
        half = candidates // 2 + (candidates % 2) * (1 - number % 2) if online else 0
        ours[number, order[:half]] = True
        fill = min(public, max(0, examples - half)) if examples else public // 2
        theirs[number, others[:fill]] = True
    return ours, theirs


def references(facts: PublicFacts, *, shadows: int, online: bool, examples: int = 0) -> References:
    """Train shadow federations (or take those that another attack of the audit had trained).

    Args:
        facts: with candidates, public examples and the federation's algorithm.
        shadows: how many.
        online: whether candidates are trained on.
        examples: size of a training set, see `draw`.

    Raises:
        NotApplicable: too few public examples to train a shadow on.
    """
    candidates, auxiliary = facts.candidates, facts.auxiliary
    ours, theirs = draw(len(candidates), len(auxiliary), shadows=shadows, online=online, examples=examples)
    sets = [
        _joined(candidates.take(a.nonzero().flatten()), auxiliary.take(b.nonzero().flatten()))
        for a, b in zip(ours, theirs, strict=True)
    ]
    if min(len(one) for one in sets) < facts.population:
        raise NotApplicable("there are fewer examples to train shadow federations on than clients")
    return References(facts.federate(sets, int(online)), ours, theirs)


def _joined(first: Examples, second: Examples) -> Examples:
    return Examples(torch.cat([first.x, second.x]), torch.cat([first.y, second.y]))
