"""FoolsGold's experiment: ten clients with one digit each, Sybils with mislabelled digits, softmax regression.

A federation of its own, because many rules and numbers of Sybils are trained at once: every client draws one batch,
and the gradients of all federations that it is in are one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from fedsec.data.examples import Examples
from fedsec.randomness import generator

Rule = Callable[[Tensor, Tensor | None], Tensor]
"""``(updates (n, d), their sums so far (n, d) or None) -> what is added to the model (d,)``."""

Flip = tuple[int, int]
"""What a Sybil teaches: the digit that it holds, and the label that it gives it."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One federation.

    Attributes:
        name: of its results.
        rule: what the server does.
        sybils: how many of the experiment's Sybils take part, the first ones.
        remembers: whether the rule reads the sums of the updates so far.
    """

    name: str
    rule: Rule
    sybils: int
    remembers: bool = False


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What all federations share; the defaults are those of FoolsGold's authors (their code, ``ML_main.py``).

    Attributes:
        rounds: each client takes one step per round.
        batch: examples of a step, drawn without replacement.
        rate: learning rate.
        decay: L2 penalty.
        bound: norm to which a longer update is cut.
        scale: of the pixels in [0, 1]; the authors divide bytes by 100.
        classes: labels ``0..classes - 1``; the i-th honest client holds label i.
    """

    rounds: int = 3000
    batch: int = 50
    rate: float = 0.01
    decay: float = 0.01
    bound: float = 1.0
    scale: float = 2.55
    classes: int = 10

    def train(self, cells: Sequence[Cell], sybils: Sequence[Flip], pool: Examples, *, seed: int) -> dict[str, Tensor]:
        """Train all federations on the same draws.

        Args:
            cells: federations, with different names.
            sybils: what each Sybil teaches; a federation has a number of the first ones.
            pool: training examples; every honest client holds one label, every Sybil those of the label it changes.
            seed: of the initial model and the batches; a client's batches are the same in every federation.

        Returns:
            name to the final model, ``(classes, features)``, without a bias.
        """
        ordered = sorted(cells, key=lambda cell: -cell.sybils)
        x = pool.x.flatten(1) * self.scale
        held = [(pool.y == label).nonzero().flatten() for label in range(self.classes)]
        who = [(label, label) for label in range(self.classes)] + list(sybils)
        groups = _groups(ordered, self.classes, len(sybils))
        draws = [generator(seed, "one digit", client) for client in range(len(who))]
        first = torch.rand(self.classes, x.shape[1], generator=generator(seed, "initial")) / 100
        models = first.repeat(len(ordered), 1, 1)
        size, longest = first.numel(), float(x.norm(dim=1).max())
        updates = models.new_zeros(len(ordered), len(who), size)
        sums = [models.new_zeros(self.classes + c.sybils, size) if c.remembers else None for c in ordered]
        for _ in range(self.rounds):
            for clients, active in groups:
                rows = [held[who[c][0]][self._draw(len(held[who[c][0]]), draws[c])] for c in clients]
                batch = x.index_select(0, torch.cat(rows)).view(len(clients), -1, x.shape[1])
                labels = torch.tensor([who[c][1] for c in clients])
                updates[:active, clients.start : clients.stop] = self._steps(models[:active], batch, labels)
            # a softmax gradient is no longer than sqrt(2) times the longest input
            norms = models.flatten(1).norm(dim=1)
            if self.rate * (1.4143 * longest + self.decay * float(norms.max())) > self.bound:
                updates.mul_((self.bound / updates.norm(dim=2, keepdim=True)).clamp_max(1.0))
            for place, cell in enumerate(ordered):
                sent, total = updates[place, : self.classes + cell.sybils], sums[place]
                if total is not None:
                    total += sent
                models[place] += cell.rule(sent, total).view_as(first)
        return {cell.name: model for cell, model in zip(ordered, models, strict=True)}

    def _draw(self, examples: int, source: torch.Generator) -> Tensor:
        return torch.randperm(examples, generator=source)[: self.batch]

    def _steps(self, models: Tensor, batch: Tensor, labels: Tensor) -> Tensor:
        """One step of ``a`` clients in ``m`` federations, ``(m, a, d)``.

        Args:
            models: ``(m, classes, features)``.
            batch: ``(a, b, features)``.
            labels: ``(a,)``, one for all examples of a client.
        """
        m, classes, features = models.shape
        a, b, _ = batch.shape
        logits = batch.view(a * b, features) @ models.view(m * classes, features).t()
        residual = logits.view(a, b, m, classes).softmax(dim=3)
        residual -= torch.nn.functional.one_hot(labels, classes).to(residual).view(a, 1, 1, classes)
        gradient = residual.view(a, b, m * classes).transpose(1, 2).bmm(batch).div_(b)
        gradient = gradient.view(a, m, classes, features).add_(models, alpha=self.decay)
        return gradient.mul_(-self.rate).transpose(0, 1).reshape(m, a, classes * features)


def attack_rate(model: Tensor, test: Examples, flip: Flip) -> float:
    """Share of the test examples of one label that the model ``(classes, features)`` takes for the other."""
    source, target = flip
    asked = test.x[test.y == source].flatten(1)
    return float(((asked @ model.t()).argmax(dim=1) == target).double().mean())


def accuracy(model: Tensor, test: Examples) -> float:
    """Share of test examples that the model ``(classes, features)`` gets right."""
    return float(((test.x.flatten(1) @ model.t()).argmax(dim=1) == test.y).double().mean())


def _groups(ordered: Sequence[Cell], honest: int, sybils: int) -> list[tuple[range, int]]:
    """Runs of clients that are in the same federations, with the number of these, which come first."""
    groups = [(range(honest), len(ordered))]
    edges = sorted({cell.sybils for cell in ordered} | {0})
    if edges[-1] > sybils:
        raise ValueError(f"a federation wants {edges[-1]} Sybils, and there are {sybils}")
    for low, high in pairwise(edges):
        groups.append((range(honest + low, honest + high), sum(cell.sybils >= high for cell in ordered)))
    return groups
