"""What several local steps on a dummy batch would have sent: local training, unrolled and differentiable.

Sources: Geiping et al. 2020, section 6 (matching the update of several steps); Dimitrov et al. 2022, Data Leakage in
Federated Averaging, section 4 (unknown order: separate variables per epoch, and a prior that ties the epochs).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fedsec.federation.optimizers import initial_state, local_step, penalised
from fedsec.federation.training import LocalTraining
from fedsec.models.flat import Layout
from fedsec.protocol.outcome import NotApplicable

from .batchnorm import Statistics

UNROLLED = ("sgd", "momentum")
"""Local optimizers whose steps are differentiable everywhere; the square roots of the adaptive ones are not at zero."""

LossOf = Callable[[Mapping[str, Tensor], Tensor, Tensor], tuple[Tensor, Statistics]]
"""``(parameters (l, *shape) by name, x (l, b, *), y (l, b, *)) -> (mean loss (l,), batch-norm statistics)``."""


@dataclass(frozen=True)
class Simulation:
    """Local training as the attacker replays it.

    Attributes:
        local: how clients train.
        rows: one ``(l, o, b_s)`` int64 per local step: which of a lane's dummy inputs it reads in each of ``o`` rounds.
    """

    local: LocalTraining
    rows: tuple[Tensor, ...]

    def of(self, lanes: Tensor) -> Simulation:
        """The simulation of some lanes, ``(k,)`` int64."""
        return replace(self, rows=tuple(rows[lanes] for rows in self.rows))


def refuse_optimizer(local: LocalTraining) -> None:
    """Raises `NotApplicable` for local training that cannot be unrolled."""
    if local.optimizer not in UNROLLED:
        raise NotApplicable(f"local steps of {local.optimizer} are not unrolled; only those of {', '.join(UNROLLED)}")
    if local.schedule != "constant":
        raise NotApplicable("local steps are unrolled at one learning rate, and here it changes over the rounds")


def unrolled_gradient(
    loss_of: LossOf, layout: Layout, start: Tensor, simulation: Simulation, x: Tensor, y: Tensor
) -> tuple[Tensor, Statistics]:
    """``-update / (learning_rate * steps)`` of local training on dummy batches, ``(l * o, p)``, with a graph to them.

    The same steps as the client's (`fedsec.federation.optimizers`): momentum from rest, weight decay and proximal term.

    Args:
        loss_of: the model's loss at given parameters.
        layout: of the model.
        start: ``(l * o, p)`` the parameters that the training starts from, ``o`` rounds per lane.
        simulation: batches and optimizer.
        x: ``(l * o, n, *input_shape)`` dummy inputs.
        y: ``(l * o, n, *)`` their labels.

    Returns:
        The mean gradient along the way, and the batch-norm statistics of the first step.
    """
    local = simulation.local
    vectors = start.detach().requires_grad_()
    origin, state = vectors, initial_state(local.optimizer, vectors)
    lane = torch.arange(len(x), device=x.device).unsqueeze(1)
    first: Statistics = ()
    for index, rows in enumerate(simulation.rows):
        split = {slot.name: vectors[:, slot.start : slot.stop].view(-1, *slot.shape) for slot in layout.parameters}
        read = rows.flatten(0, 1)
        loss, statistics = loss_of(split, x[lane, read], y[lane, read])
        (gradient,) = torch.autograd.grad(loss.sum(), vectors, create_graph=True)
        vectors, state = local_step(local, vectors, penalised(local, gradient, vectors, origin), state, step=index)
        first = statistics if index == 0 else first
    return (vectors - origin) / (-local.learning_rate * len(simulation.rows)), first


def step_sizes(examples: int, local: LocalTraining) -> tuple[int, ...]:
    """Examples in each local step's batch."""
    size = examples if local.batch_size is None else min(local.batch_size, examples)
    epoch = [min(size, examples - first) for first in range(0, examples, size)]
    return tuple((epoch * local.epochs)[: local.steps(examples)])


def unknown_order(examples: int, lanes: int, rounds: int, local: LocalTraining) -> tuple[Simulation, int]:
    """A replay with variables of its own for each epoch, read in their own order.

    Which input meets which label in which batch is then a matter of how labels are dealt to the variables
    (`deal_labels`), one dealing per restart.

    Returns:
        The simulation, and how many epochs there are.
    """
    sizes, rows, first = step_sizes(examples, local), [], 0
    for size in sizes:
        rows.append(torch.arange(first, first + size).expand(lanes, rounds, -1))
        first += size
    return Simulation(local, tuple(rows)), math.ceil(first / examples)


def deal_labels(labels: Tensor, epochs: int, *, generator: torch.Generator) -> Tensor:
    """Random orders of each lane's labels, one per epoch: ``(l, n)`` to ``(l, epochs * n)``."""
    order = torch.rand((len(labels), epochs, labels.shape[1]), generator=generator, device=generator.device).argsort(-1)
    return labels.unsqueeze(1).expand(-1, epochs, -1).gather(2, order.to(labels.device)).flatten(1)


def epochs_differ(x: Tensor, epochs: int) -> Tensor:
    """How much the epochs of each lane differ as sets, ``(l,)``; ``x`` is ``(l, epochs * n, *input_shape)``.

    Mean squared difference of every epoch to the epochs' mean, after maps that do not see the order: the mean and the
    largest value over the set, pixel by pixel (Dimitrov et al. 2022, section 4.3, order-invariant priors).
    """
    sets = x.reshape(len(x), epochs, -1, math.prod(x.shape[2:]))
    seen = torch.cat([sets.mean(2), sets.amax(2)], 2)
    return (seen - seen.mean(1, keepdim=True)).square().flatten(1).mean(1)


def merge_epochs(x: Tensor, labels: Tensor, epochs: int) -> tuple[Tensor, Tensor]:
    """One set out of each lane's epochs: matched to the first one to one, within classes, and averaged.

    Args:
        x: ``(v, epochs * n, *input_shape)``.
        labels: ``(v, epochs * n)`` int64.
        epochs: how many.

    Returns:
        Inputs ``(v, n, *input_shape)`` and their labels ``(v, n)``.
    """
    many = x.shape[1] // epochs
    parts, claims = x.reshape(len(x), epochs, many, *x.shape[2:]), labels.reshape(len(x), epochs, many)
    merged = parts[:, 0].clone()
    for lane in range(len(x)):
        base = parts[lane, 0].flatten(1).double()
        for epoch in range(1, epochs):
            cost = torch.cdist(base, parts[lane, epoch].flatten(1).double()).square()
            apart = claims[lane, 0].unsqueeze(1) != claims[lane, epoch].unsqueeze(0)
            cost = cost.nan_to_num(nan=1e9, posinf=1e9) + 1e12 * apart
            _, columns = linear_sum_assignment(cost.cpu().numpy())
            merged[lane] += parts[lane, epoch][torch.as_tensor(columns, device=x.device)]
    return merged / epochs, claims[:, 0]
