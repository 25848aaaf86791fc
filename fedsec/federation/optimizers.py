"""Optimizers as pure functions on flat vectors: local ones equal to ``torch.optim``, and the server's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedsec.federation.training import LocalTraining

State = Mapping[str, Tensor]

LOCAL_OPTIMIZERS = ("sgd", "momentum", "adagrad", "rmsprop", "adam")
SERVER_OPTIMIZERS = ("sgd", "adagrad", "adam", "yogi")

_LOCAL_STATE: dict[str, tuple[str, ...]] = {
    "sgd": (),
    "momentum": ("velocity",),
    "adagrad": ("squares",),
    "rmsprop": ("squares",),
    "adam": ("velocity", "squares"),
}


def initial_state(name: str, vectors: Tensor) -> dict[str, Tensor]:
    """The state before the first step: zeros shaped like the vectors ``(*lead, d)``.

    Raises:
        ValueError: no such optimizer.
    """
    if name not in _LOCAL_STATE:
        raise ValueError(f"no local optimizer {name!r}; there are {', '.join(LOCAL_OPTIMIZERS)}")
    return {key: torch.zeros_like(vectors) for key in _LOCAL_STATE[name]}


def local_step(
    local: LocalTraining, vectors: Tensor, gradients: Tensor, state: State, *, step: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """One step of the local optimizer, without weight decay and proximal term (see `penalised`).

    The formulas and constants are those of ``torch.optim`` (SGD without dampening; Adagrad with eps 1e-10; RMSprop
    with decay 0.99 and eps 1e-8; Adam with betas 0.9, 0.999 and eps 1e-8).

    Args:
        local: names the optimizer, its learning rate and momentum.
        vectors: ``(*lead, d)``.
        gradients: ``(*lead, d)``.
        state: as `initial_state` or the last step gave it.
        step: counted from 0.

    Returns:
        The new vectors and the new state.
    """
    rate = local.learning_rate
    match local.optimizer:
        case "sgd":
            return vectors.add(gradients, alpha=-rate), {}
        case "momentum":
            velocity = state["velocity"].mul(local.momentum).add_(gradients)
            return vectors.add(velocity, alpha=-rate), {"velocity": velocity}
        case "adagrad":
            squares = state["squares"].addcmul(gradients, gradients)
            return vectors.addcdiv(gradients, squares.sqrt().add_(1e-10), value=-rate), {"squares": squares}
        case "rmsprop":
            squares = state["squares"].mul(0.99).addcmul_(gradients, gradients, value=0.01)
            return vectors.addcdiv(gradients, squares.sqrt().add_(1e-8), value=-rate), {"squares": squares}
        case "adam":
            velocity = state["velocity"].lerp(gradients, 0.1)
            squares = state["squares"].mul(0.999).addcmul_(gradients, gradients, value=0.001)
            scale = squares.sqrt().div_((1 - 0.999 ** (step + 1)) ** 0.5).add_(1e-8)
            new = vectors.addcdiv(velocity, scale, value=-rate / (1 - 0.9 ** (step + 1)))
            return new, {"velocity": velocity, "squares": squares}
    raise ValueError(f"no local optimizer {local.optimizer!r}; there are {', '.join(LOCAL_OPTIMIZERS)}")


def penalised(local: LocalTraining, gradients: Tensor, vectors: Tensor, start: Tensor) -> Tensor:
    """The gradient with weight decay and FedProx's term (Li et al. 2020, eq. 2); ``start`` is the global model."""
    if local.weight_decay:
        gradients = gradients.add(vectors, alpha=local.weight_decay)
    if local.proximal:
        gradients = gradients.add(vectors - start, alpha=local.proximal)
    return gradients


def server_step(
    name: str,
    model: Tensor,
    aggregate_delta: Tensor,
    state: State,
    *,
    learning_rate: float = 1.0,
    momentum: float = 0.0,
    beta1: float = 0.9,
    beta2: float = 0.99,
    tau: float = 1e-3,
    trainable: int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The server's step on the pseudo-gradient ``-aggregate_delta`` (Reddi et al. 2021, Algorithm 2).

    ``sgd`` with learning rate 1 and no momentum is FedAvg exactly; with momentum it is FedAvgM (Hsu et al. 2019):
    ``v = momentum v + delta; x += learning_rate v``. The adaptive ones have no bias correction, ``v_{-1} = tau^2``:
    ``m = beta1 m + (1 - beta1) delta``, ``x += learning_rate m / (sqrt(v) + tau)`` with, for the squares ``s`` of
    delta, ``v + s`` (adagrad), ``beta2 v + (1 - beta2) s`` (adam), ``v - (1 - beta2) s sign(v - s)`` (yogi).

    Args:
        name: ``sgd``, ``adagrad``, ``adam`` or ``yogi``.
        model: ``(d,)`` the global model.
        aggregate_delta: ``(d,)`` the aggregated updates (trained minus start).
        state: empty before the first round, then what the last round gave.
        learning_rate: the server's.
        momentum: of ``sgd``.
        beta1: decay of the first moment of the adaptive ones.
        beta2: decay of the second moment of ``adam`` and ``yogi``.
        tau: degree of adaptivity.
        trainable: coordinates from here on are buffers (batch-norm statistics): they are averaged, never stepped,
            for a step could make a variance negative; ``None`` if there are none.

    Returns:
        The new model and the new state.

    Raises:
        ValueError: no such optimizer.
    """
    cut = model.shape[0] if trainable is None else trainable
    delta = aggregate_delta[:cut]
    kept: dict[str, Tensor] = {}
    if name == "sgd":
        direction = delta
        if momentum:
            direction = delta + momentum * state["velocity"] if "velocity" in state else delta
            kept["velocity"] = direction.clone()
        stepped = model[:cut] + direction if learning_rate == 1.0 else model[:cut] + learning_rate * direction
    else:
        first = state["velocity"] if "velocity" in state else torch.zeros_like(delta)
        second = state["squares"] if "squares" in state else torch.full_like(delta, tau**2)
        squares = delta.square()
        match name:
            case "adagrad":
                second = second + squares
            case "adam":
                second = beta2 * second + (1 - beta2) * squares
            case "yogi":
                second = second - (1 - beta2) * squares * (second - squares).sign()
            case _:
                raise ValueError(f"no server optimizer {name!r}; there are {', '.join(SERVER_OPTIMIZERS)}")
        first = beta1 * first + (1 - beta1) * delta
        kept = {"velocity": first, "squares": second}
        stepped = model[:cut] + learning_rate * first / (second.sqrt() + tau)
    return torch.cat([stepped, model[cut:] + aggregate_delta[cut:]]), kept
