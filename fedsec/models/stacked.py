"""Several models of one architecture in one call: batched matrix products, or ``vmap`` for everything else."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedsec.models.dense_plan import Apply, Drop, Flatten, Linear, Plan, dense_plan
from fedsec.models.dropout import CounterDropout
from fedsec.models.flat import FlatModel
from fedsec.models.lanes import Lanes


def why_not_stackable(model: FlatModel) -> str:
    """Why the lanes of this model cannot share a call; empty if they can."""
    for part in model.module.modules():
        if isinstance(part, nn.RNNBase):
            return f"torch.func.vmap has no rule for {type(part).__name__}"
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.track_running_stats and part.momentum is None:
            return "cumulative batch-norm statistics (momentum=None) count batches in Python"
    return ""


def stacked_lanes(model: FlatModel, state: Tensor) -> StackedLanes:
    """Lanes over the rows of ``state (l, d)``; parameters and statistics are views into it.

    Raises:
        ValueError: the architecture cannot be batched (`why_not_stackable`).
    """
    if reason := why_not_stackable(model):
        raise ValueError(f"{model.name} cannot be stacked: {reason}")
    plan = dense_plan(model)
    return VmapLanes(model, state) if plan is None else DenseLanes(model, state, plan)


class StackedLanes(Lanes):
    """Lanes whose parameters are views into the rows of one matrix.

    Attributes:
        state: ``(l, d)``, in layout order.
    """

    def __init__(self, model: FlatModel, state: Tensor) -> None:
        self.model, self.state = model, state
        tensors = {
            s.name: state[:, s.start : s.stop].view(state.shape[0], *s.shape).detach() for s in model.layout.slots
        }
        self.parameters = tuple(tensors[s.name].requires_grad_() for s in model.layout.parameters)
        self.statistics = {s.name: tensors[s.name] for s in model.layout.buffers}
        self.keys = torch.zeros(state.shape[0], dtype=torch.int64, device=state.device)
        self.moved = False

    def begin_step(self, keys: Tensor) -> None:
        """Start a local step with these keys ``(l,)``: running statistics move once more."""
        self.keys, self.moved = keys, False

    def gather(self, gradients: tuple[Tensor, ...]) -> Tensor:
        """Gradients as one matrix ``(l, trainable)``."""
        return torch.cat([gradient.detach().flatten(1) for gradient in gradients], dim=1)

    @abstractmethod
    def over(self, state: Tensor) -> StackedLanes:
        """The same lanes over another state."""


class VmapLanes(StackedLanes):
    """Any module that `torch.func.vmap` can batch; autograd stays outside, so every order of gradient works."""

    def __init__(self, model: FlatModel, state: Tensor, module: nn.Module | None = None) -> None:
        super().__init__(model, state)
        if module is None:
            module = copy.deepcopy(model.module).to(device=state.device, dtype=state.dtype)
        self._module = module
        self._names = tuple(slot.name for slot in model.layout.parameters)
        self._dropouts = tuple(
            f"{name}.key" if name else "key"
            for name, part in module.named_modules()
            if isinstance(part, CounterDropout)
        )

    def over(self, state: Tensor) -> VmapLanes:
        """See `StackedLanes.over`."""
        return VmapLanes(self.model, state, self._module)

    def outputs(self, x: Tensor, *, train: bool) -> Tensor:
        """See `Lanes.outputs`."""
        self._module.train(train)
        statistics = self.statistics
        if train and self.moved:
            statistics = {name: tensor.clone() for name, tensor in statistics.items()}
        self.moved = self.moved or train

        def one(parameters: tuple[Tensor, ...], statistics: dict[str, Tensor], key: Tensor, x: Tensor) -> Tensor:
            tensors = dict(zip(self._names, parameters, strict=True)) | statistics
            tensors.update(dict.fromkeys(self._dropouts, key))
            outputs: Tensor = functional_call(self._module, tensors, (x,))
            return outputs

        batched: Callable[..., Tensor] = vmap(one)
        return batched(self.parameters, statistics, self.keys, x)


class DenseLanes(StackedLanes):
    """A chain of linear layers and elementwise functions as batched matrix products."""

    def __init__(self, model: FlatModel, state: Tensor, plan: Plan) -> None:
        super().__init__(model, state)
        self.plan = plan

    def over(self, state: Tensor) -> DenseLanes:
        """See `StackedLanes.over`."""
        return DenseLanes(self.model, state, self.plan)

    def outputs(self, x: Tensor, *, train: bool) -> Tensor:
        """See `Lanes.outputs`."""
        for op in self.plan:
            match op:
                case Flatten():
                    x = x.flatten(2)
                case Linear(weight, None):
                    x = torch.bmm(x, self.parameters[weight].mT)
                case Linear(weight, bias):
                    x = torch.baddbmm(self.parameters[bias].unsqueeze(1), x, self.parameters[weight].mT)
                case Apply(function):
                    x = function(x)
                case Drop(layer):
                    x = x * layer.mask(self.keys, x) if train else x
        return x
