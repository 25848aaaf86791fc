"""Gradients of lanes that share one model: all dummy batches run as one batch, and gradients are told apart after it.

A parameter's gradient is a product of what enters its layer and of the loss's slope at what leaves it. Both come from
one ordinary forward and backward pass over the batch of all lanes, so no convolution is grouped by lane; only the
products are taken lane by lane. Batch norm with known statistics that follows a convolution or a linear layer is
folded into it, and its gradients follow from those of the folded layer, in which they are linear.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from fedsec.models.flat import FlatModel, Slot

from .lane_products import Layer, Norm, Products, Scale, channels, rows
from .winograd import WinogradConv, fits

WIDE = 20
"""3x3 convolutions of at least this many channels in and out, on the mean, run by Winograd's algorithm on a CPU."""


class Unsupported(Exception):
    """The model has parameters whose gradients are not known as products of activations and slopes."""


class LaneNorm(nn.Module):
    """Batch norm by the statistics of each lane's own batch, without the part that has parameters."""

    def __init__(self, eps: float) -> None:
        """Args: eps: added to the variance."""
        super().__init__()
        self.eps, self.lanes = eps, 1

    def forward(self, x: Tensor) -> Tensor:
        """``(l * b, c, *)`` to ``(l * b, c, *)``."""
        parts = x.reshape(self.lanes, -1, *x.shape[1:])
        over = [d for d in range(1, parts.ndim) if d != 2]
        variance, mean = torch.var_mean(parts, over, correction=0, keepdim=True)
        return ((parts - mean) * (variance + self.eps).rsqrt()).reshape(x.shape)


class KnownNorm(nn.Module):
    """Batch norm by known statistics, without the part that has parameters."""

    mean: Tensor
    factor: Tensor

    def __init__(self, mean: Tensor, variance: Tensor, eps: float) -> None:
        """Args: mean, variance: ``(c,)``; eps: added to the variance."""
        super().__init__()
        self.register_buffer("mean", mean.clone(), persistent=False)
        self.register_buffer("factor", (variance + eps).rsqrt(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, c, *)`` to ``(n, c, *)``."""
        return (x - channels(self.mean, x)) * channels(self.factor, x)


class SharedGradients:
    """The gradients of one model at many dummy batches, each lane its own.

    Raises:
        Unsupported: a parameter belongs to something else than convolutions (without groups), linear layers,
            batch norm and group norm, or is used twice.
    """

    def __init__(self, model: FlatModel, state: Tensor, *, running: bool = False) -> None:
        """Prepare the model.

        Args:
            model: the architecture.
            state: ``(d,)`` its state.
            running: batch norm uses the statistics in the state; else those of each lane's batch.
        """
        self.size = model.layout.trainable
        slots = {slot.name: slot for slot in model.layout.parameters}
        module = copy.deepcopy(model.instance(state))
        self._layers: list[Layer] = []
        self._module = self._convert(module, "", slots, running)
        if len({id(layer.module) for layer in self._layers}) != len(self._layers) or slots:
            raise Unsupported(f"parameters of unknown use: {', '.join(slots)}")
        for each in self._module.modules():
            if "inplace" in vars(each):
                vars(each)["inplace"] = False  # what a layer gave must still be there when its slope is asked for
        self._module.requires_grad_(False)
        if state.device.type == "cpu":
            self._use_winograd()
        self._norms = [each for each in self._module.modules() if isinstance(each, LaneNorm)]
        self._seen: list[tuple[int, Tensor, Tensor]] = []
        for index, layer in enumerate(self._layers):
            layer.module.register_forward_hook(self._notice(index))

    def _use_winograd(self) -> None:
        """Put `WinogradConv` in the place of convolutions that are wide enough."""
        places = {
            id(child): (parent, name) for parent in self._module.modules() for name, child in parent.named_children()
        }
        for index, layer in enumerate(self._layers):
            module = layer.module
            if not isinstance(module, nn.Conv2d) or not fits(module):
                continue
            if module.in_channels * module.out_channels < WIDE**2:
                continue
            fast = WinogradConv(module)
            if id(module) in places:
                parent, name = places[id(module)]
                setattr(parent, name, fast)
            else:
                self._module = fast
            self._layers[index] = replace(layer, module=fast)

    def _notice(self, index: int) -> Any:
        def hook(_: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
            self._seen.append((index, given[0], out))

        return hook

    def _convert(self, module: nn.Module, name: str, slots: dict[str, Slot], running: bool) -> nn.Module:
        """The module with normalisations taken apart or folded; used slots are taken out of ``slots``."""
        for known in (nn.Conv2d, nn.Linear, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            if type(module) is known:
                return self._layer(module, name, slots, running)
        before: nn.Module | None = None
        for child_name, child in list(module.named_children()):
            full = f"{name}.{child_name}" if name else child_name
            folds = running and isinstance(module, nn.Sequential) and type(before) in (nn.Conv2d, nn.Linear)
            known_norm = isinstance(child, nn.modules.batchnorm._BatchNorm) and child.running_mean is not None
            if folds and known_norm and child.affine:
                self._fold(cast(nn.modules.batchnorm._BatchNorm, child), full, slots)
                converted: nn.Module = nn.Identity()
            else:
                converted = self._convert(child, full, slots, running)
            setattr(module, child_name, converted)
            before = converted
        return module

    def _layer(self, module: nn.Module, name: str, slots: dict[str, Slot], running: bool) -> nn.Module:
        own = {part: slots.pop(f"{name}.{part}" if name else part, None) for part in ("weight", "bias")}
        if isinstance(module, nn.Conv2d) and (
            module.groups != 1 or module.padding_mode != "zeros" or isinstance(module.padding, str)
        ):
            raise Unsupported(f"convolution {name}: groups or padding by name")
        plain: nn.Module | None = None
        if isinstance(module, nn.GroupNorm):
            plain = nn.GroupNorm(module.num_groups, module.num_channels, eps=module.eps, affine=False)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            use = running and module.running_mean is not None and module.running_var is not None
            plain = (
                KnownNorm(cast(Tensor, module.running_mean), cast(Tensor, module.running_var), module.eps)
                if use
                else LaneNorm(module.eps)
            )
        if own["weight"] is None:
            if plain is None or own["bias"] is not None:
                raise Unsupported(f"{name} uses another layer's parameter")
            return plain
        if plain is None:
            self._layers.append(Layer(module, own["weight"], own["bias"]))
            return module
        if own["bias"] is None:
            raise Unsupported(f"{name} scales without shift")
        scale = Scale(own["weight"].shape[0]).to(cast(Tensor, module.weight))
        with torch.no_grad():
            scale.weight.copy_(cast(Tensor, module.weight))
            scale.bias.copy_(cast(Tensor, module.bias))
        self._layers.append(Layer(scale, own["weight"], own["bias"]))
        return nn.Sequential(plain, scale)

    def _fold(self, norm: nn.modules.batchnorm._BatchNorm, name: str, slots: dict[str, Slot]) -> None:
        layer = self._layers.pop()
        module = cast(nn.Conv2d | nn.Linear, layer.module)
        mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
        factor = (variance + norm.eps).rsqrt()
        scale = norm.weight.detach() * factor
        own = module.weight.detach()
        bias = torch.zeros_like(mean) if module.bias is None else module.bias.detach()
        centre = (bias - mean) * factor
        folded = Norm(
            slots.pop(f"{name}.weight"), slots.pop(f"{name}.bias"), scale, own * rows(factor, own, lead=0), centre
        )
        module.bias = nn.Parameter(norm.weight.detach() * centre + norm.bias.detach())
        module.weight = nn.Parameter(own * rows(scale, own, lead=0))
        self._layers.append(Layer(module, layer.weight, layer.bias, folded))

    def outputs(self, x: Tensor) -> Tensor:
        """``(l, b, *input_shape)`` to ``(l, b, *)``."""
        for norm in self._norms:
            norm.lanes = len(x)
        self._seen = []
        flat = (x if x.requires_grad else x.detach().requires_grad_()).flatten(0, 1)
        if flat.ndim == 4 and flat.device.type == "cpu":
            flat = flat.contiguous(memory_format=torch.channels_last)
        out = cast(Tensor, self._module(flat))
        return out.view(len(x), -1, *out.shape[1:])

    def __call__(self, outputs: Tensor, losses: Tensor) -> Tensor:
        """The gradient of each lane's loss, ``(l, p)``, with a graph back to the inputs.

        Args:
            outputs: what `outputs` gave last.
            losses: ``(l,)`` computed from it.
        """
        seen, self._seen = self._seen, []
        if sorted(index for index, _, _ in seen) != list(range(len(self._layers))):
            raise Unsupported("a layer runs never or twice")
        slopes = torch.autograd.grad(losses.sum(), [out for _, _, out in seen], create_graph=True)
        layers = tuple(self._layers[index] for index, _, _ in seen)
        return cast(
            Tensor,
            Products.apply(  # type: ignore[no-untyped-call]
                layers, len(outputs), self.size, *(given for _, given, _ in seen), *slopes
            ),
        )
