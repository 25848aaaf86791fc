"""Several models of one architecture in one call: batched matrix products, or ``vmap`` for everything else."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedsec.models.dense_plan import Apply, Drop, Flatten, Linear, Plan, dense_plan, plan_place
from fedsec.models.dropout import CounterDropout
from fedsec.models.flat import FlatModel
from fedsec.models.lanes import Lanes
from fedsec.models.layers import run_until, shifting
from fedsec.models.memory import LaneMemory, Place


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
        self.memory, self.place = LaneMemory(state.shape[0]), slice(0, state.shape[0])

    def begin_step(self, keys: Tensor) -> None:
        """Start a local step with these keys ``(l,)``."""
        self.keys = keys
        self.present = None

    def end_step(self) -> None:
        """Write running statistics back to the state, as the step's first pass in train mode moved them.

        Not before the gradients are taken: parameters lie in the same state, and autograd counts writes to it.
        """

    def gather(self, gradients: tuple[Tensor, ...]) -> Tensor:
        """Gradients as one matrix ``(l, trainable)``."""
        return torch.cat([gradient.detach().flatten(1) for gradient in gradients], dim=1)

    @abstractmethod
    def over(self, state: Tensor) -> StackedLanes:
        """The same lanes over another state."""

    def part(self, state: Tensor, place: Place) -> StackedLanes:
        """The lanes ``place`` of these, over their rows of the state or a copy of them; the memory is shared."""
        lanes = self.over(state)
        rows = range(self.state.shape[0])[place] if isinstance(place, slice) else place.tolist()
        lanes.memory, lanes.place, lanes.round = self.memory, place, self.round
        lanes.steps = tuple(self.steps[row] for row in rows)
        lanes.expected = tuple(self.expected[row] for row in rows) if self.expected else ()
        return lanes


class VmapLanes(StackedLanes):
    """Any module that `torch.func.vmap` can batch; autograd stays outside, so every order of gradient works."""

    def __init__(self, model: FlatModel, state: Tensor, module: nn.Module | None = None) -> None:
        super().__init__(model, state)
        self._pending: dict[str, Tensor] | None = None
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

    def outputs(self, x: Tensor, *, train: bool, shift: Tensor | None = None, at: str = "") -> Tensor:
        """See `Lanes.outputs`."""

        def one(tensors: dict[str, Tensor], statistics: dict[str, Tensor], x: Tensor, shift: Tensor | None) -> Tensor:
            with nullcontext() if shift is None else shifting(self._module, at, shift):
                outputs: Tensor = functional_call(self._module, tensors | statistics, (x,))
            return outputs

        outputs, statistics = self._batched(one, x, shift, train=train)
        if train and self._pending is None:
            self._pending = {name: tensor.detach() for name, tensor in statistics.items()}
        return outputs

    def output_of(self, x: Tensor, at: str, *, train: bool) -> Tensor:
        """See `Lanes.output_of`."""

        def one(tensors: dict[str, Tensor], statistics: dict[str, Tensor], x: Tensor, _: Tensor | None) -> Tensor:
            return run_until(self._module, at, lambda: functional_call(self._module, tensors | statistics, (x,)))

        return self._batched(one, x, None, train=train)[0]

    def _batched(
        self, one: Callable[..., Tensor], x: Tensor, shift: Tensor | None, *, train: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """``one`` in every lane, and copies of the statistics that it may have moved."""
        self._module.train(train)
        # vmap moves statistics in place only if they are contiguous, which columns of the state are not.
        moved = self.statistics if self._pending is None else self._pending
        statistics = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in moved.items()}
        tensors = dict(zip(self._names, self.parameters, strict=True)) | dict.fromkeys(self._dropouts, self.keys)
        batched: Callable[..., Tensor] = vmap(one, in_dims=(0, 0, 0, None if shift is None else 0))
        return batched(tensors, statistics, x, shift), statistics

    def end_step(self) -> None:
        """See `StackedLanes.end_step`."""
        if self._pending is not None:
            for name, tensor in self.statistics.items():
                tensor.copy_(self._pending[name])
            self._pending = None


class DenseLanes(StackedLanes):
    """A chain of linear layers and elementwise functions as batched matrix products."""

    def __init__(self, model: FlatModel, state: Tensor, plan: Plan) -> None:
        super().__init__(model, state)
        self.plan = plan

    def over(self, state: Tensor) -> DenseLanes:
        """See `StackedLanes.over`."""
        return DenseLanes(self.model, state, self.plan)

    def outputs(self, x: Tensor, *, train: bool, shift: Tensor | None = None, at: str = "") -> Tensor:
        """See `Lanes.outputs`."""
        if shift is None:
            return self._run(self.plan, x, train=train)
        place = plan_place(self.model, at)
        return self._run(self.plan[place:], self._run(self.plan[:place], x, train=train) + shift, train=train)

    def output_of(self, x: Tensor, at: str, *, train: bool) -> Tensor:
        """See `Lanes.output_of`."""
        return self._run(self.plan[: plan_place(self.model, at)], x, train=train)

    def _run(self, plan: Plan, x: Tensor, *, train: bool) -> Tensor:
        for op in plan:
            match op:
                case Flatten():
                    x = x.flatten(2)
                case Linear(weight, bias):
                    kernel = self.parameters[weight].mT
                    x = torch.bmm(x, kernel) if bias is None else self._affine(bias, x, kernel)
                case Apply(function):
                    x = function(x)
                case Drop():
                    x = x * op.mask(self.keys, x) if train else x
        return x

    def _affine(self, bias: int, x: Tensor, kernel: Tensor) -> Tensor:
        return torch.baddbmm(self.parameters[bias].unsqueeze(1), x, kernel)
