"""Solving a small network backwards for its one input, layer by layer (Zhu and Blaschko 2021, R-GAP).

With one example behind a gradient, every layer ``z = W x + b`` gives two sets of equations that are linear in its
input ``x``: its weights, ``W x = z - b``, once its output ``z`` is known from the layer above through an invertible
activation, and its gradient, ``dL/dW = k x^T`` (a correlation for a convolution), once ``k = dL/dz`` is known from
above by the chain rule. The recursion starts at the head, whose input is closed form, and ends at the input.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedsec.models.flat import FlatModel
from fedsec.protocol.outcome import NotApplicable

ROUNDING = 1e-5
"""Share of the largest output below which the output of a ReLU counts as 0."""
LARGEST = 3e8
"""Numbers of the largest linear system that is solved."""
RANK = 1e-9
"""Singular values below this share of the largest count as 0."""

Leaf = tuple[str, nn.Module, tuple[int, ...]]
"""Qualified name, module and the shape of its input (without the batch)."""


def leaves(model: FlatModel, vector: Tensor, input_shape: tuple[int, ...]) -> list[Leaf]:
    """The layers of a purely sequential model in order.

    Args:
        model: the architecture.
        vector: ``(d,)`` its state.
        input_shape: of one example.

    Raises:
        NotApplicable: the model is not a chain of layers, or does not end in a linear layer.
    """
    found: list[tuple[str, nn.Module]] = []

    def walk(name: str, module: nn.Module) -> None:
        parts = list(module.named_children())
        if isinstance(module, nn.Sequential):
            for part, child in parts:
                walk(f"{name}.{part}" if name else part, child)
        elif parts:
            raise NotApplicable(f"the recursion needs a chain of layers, and {type(module).__name__} may branch")
        else:
            found.append((name, module))

    walk("", model.instance(vector).double())
    x = torch.zeros(1, *input_shape, dtype=torch.float64, device=vector.device)
    chain: list[Leaf] = []
    with torch.no_grad():
        for name, module in found:
            chain.append((name, module, tuple(x.shape[1:])))
            x = module(x)
    if not chain or not isinstance(chain[-1][1], nn.Linear):
        raise NotApplicable("the recursion starts at a linear head, and the model does not end in one")
    return chain


@dataclass(frozen=True)
class Known:
    """What is known of the values between two layers.

    Attributes:
        value: ``(n,)``.
        slope: ``(n,)`` gradient of the loss with respect to them.
        precision: ``(n,)`` 1 over the error of each value up to a factor; 0 where it is unknown.
    """

    value: Tensor
    slope: Tensor
    precision: Tensor


def through_activation(module: nn.Module, after: Known, shape: tuple[int, ...]) -> Known | None:
    """What is known before an elementwise layer, given what is known after it; ``None`` for any other layer.

    Sigmoid, tanh and leaky ReLU are inverted. A ReLU passes positive values; of the others only their sign is known,
    and no slope goes through them. A layer without parameters that scales and shifts each value is inverted too.
    """
    v, k, p = after.value, after.slope, after.precision
    if isinstance(module, nn.Identity | nn.Flatten):
        return after
    if isinstance(module, nn.Sigmoid):
        v = v.clamp(1e-12, 1 - 1e-12)
        steep = v * (1 - v)
        return Known(v.logit(), k * steep, p * steep)
    if isinstance(module, nn.Tanh):
        v = v.clamp(-1 + 1e-12, 1 - 1e-12)
        steep = 1 - v.square()
        return Known(v.atanh(), k * steep, p * steep)
    if isinstance(module, nn.LeakyReLU) and module.negative_slope > 0:
        steep = torch.where(v < 0, float(module.negative_slope), 1.0).to(v)
        return Known(v / steep, k * steep, p * steep)
    if isinstance(module, nn.ReLU):
        on = (v > ROUNDING * v.abs().max()).to(v)
        return Known(v * on, k * on, p * on)
    if any(True for _ in module.parameters()):
        return None
    line = _affine(module, shape, v)
    if line is None:
        return None
    scale, shift = line
    return Known((v - shift) / scale, k * scale, p * scale.abs())


def _affine(module: nn.Module, shape: tuple[int, ...], like: Tensor) -> tuple[Tensor, Tensor] | None:
    """``scale`` and ``shift`` of each value if the module is ``scale x + shift`` in eval mode, nowhere flat."""
    probe = torch.Generator(device="cpu").manual_seed(0)
    drawn = torch.rand((1, *shape), generator=probe, dtype=torch.float64).to(like.device)
    x = torch.cat([torch.zeros_like(drawn), torch.ones_like(drawn), drawn])
    with torch.no_grad():
        out = module(x)
    if out.shape != x.shape:
        return None
    shift = out[0]
    scale = out[1] - shift
    if not torch.allclose(out, scale * x + shift, rtol=1e-6, atol=1e-9) or not bool((scale != 0).all()):
        return None
    return scale.flatten(), shift.flatten()


@dataclass(frozen=True)
class Patches:
    """Which input value each kernel weight meets at each output position.

    Attributes:
        index: ``(c * kh * kw, l)`` int64, the input value plus 1; 0 in the padding.
        size: number of input values ``n``.
    """

    index: Tensor
    size: int

    @classmethod
    def of(cls, conv: nn.Conv2d, shape: tuple[int, ...]) -> Patches:
        """Of a convolution on inputs ``(c, h, w)``."""
        size = shape[0] * shape[1] * shape[2]
        plain = torch.arange(1, size + 1, dtype=torch.float64).view(1, *shape)
        up, left = (int(part) for part in conv.padding)
        padded = functional.pad(plain, (left, left, up, up))
        found = functional.unfold(padded, conv.kernel_size, dilation=conv.dilation, stride=conv.stride)
        return cls(found[0].long().to(conv.weight.device), size)

    def rows_of_weights(self, weight: Tensor) -> Tensor:
        """``(o * l, n)`` the convolution as a matrix, for a weight ``(o, c, kh, kw)``."""
        out, (taps, places) = weight.shape[0], self.index.shape
        rows = weight.new_zeros(out, places, self.size + 1)
        rows.scatter_add_(
            2, self.index.T.expand(out, places, taps), weight.reshape(out, 1, taps).expand(out, places, taps)
        )
        return rows[:, :, 1:].reshape(out * places, self.size)

    def rows_of_gradient(self, slope: Tensor) -> Tensor:
        """``(o * c * kh * kw, n)`` the map from the input to the weight's gradient, for slopes ``(o, l)``."""
        out, (taps, places) = slope.shape[0], self.index.shape
        rows = slope.new_zeros(out, taps, self.size + 1)
        rows.scatter_add_(
            2, self.index.expand(out, taps, places), slope.reshape(out, 1, places).expand(out, taps, places)
        )
        return rows[:, :, 1:].reshape(out * taps, self.size)


def compressed(slope: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient equations of many channels as those of as few as carry them.

    All channels meet the same patches ``X``: ``G = K X^T`` with slopes ``K (o, l)``. Rotating the channels leaves the
    least-squares problem as it is, so that of more channels than places only ``l`` rows are kept.

    Args:
        slope: ``(o, l)``.
        gradient: ``(o, taps)``.

    Returns:
        ``(min(o, l), l)`` and ``(min(o, l), taps)``.
    """
    if slope.shape[0] <= slope.shape[1]:
        return slope, gradient
    rotation, upper = torch.linalg.qr(slope)
    return upper, rotation.T @ gradient


def before_layer(module: nn.Module, after: Known, gradient: Tensor, shape: tuple[int, ...]) -> tuple[Known, float]:
    """What is known before a linear layer or a convolution: the least-squares solution of all its equations.

    Each block of equations is divided by its largest right-hand side, so that equal relative errors weigh alike.

    Args:
        module: in float64.
        after: its output.
        gradient: of its weight, at true scale.
        shape: of its input.

    Returns:
        The input, and the relative error with which it explains the gradient.

    Raises:
        NotApplicable: the layer is of another kind, or the system is too large.
    """
    bias: Tensor | None
    if isinstance(module, nn.Linear) and len(shape) == 1:
        weight = module.weight.detach()
        length = after.slope.norm().clamp_min(1e-300)
        rows, goal = length * torch.eye(weight.shape[1]).to(weight), after.slope @ gradient / length
        forward, bias = weight, module.bias
    elif isinstance(module, nn.Conv2d) and module.groups == 1 and module.padding_mode == "zeros":
        if isinstance(module.padding, str):
            raise NotApplicable("the recursion needs a convolution's padding in numbers")
        patches = Patches.of(module, shape)
        out, (taps, places) = module.weight.shape[0], patches.index.shape
        numbers = (min(out, places) * taps + out * places) * patches.size
        if numbers > LARGEST:
            raise NotApplicable(f"a layer's system of {numbers:.1g} numbers is larger than the recursion solves")
        slope, flat = compressed(after.slope.view(out, places), gradient.reshape(out, taps))
        rows, goal = patches.rows_of_gradient(slope), flat.flatten()
        forward = patches.rows_of_weights(module.weight.detach())
        bias = None if module.bias is None else module.bias.repeat_interleave(places)
    else:
        raise NotApplicable(f"the recursion cannot go backwards through {type(module).__name__}")
    output = after.value if bias is None else after.value - bias.detach()
    use = after.precision > 0
    blocks = [(rows, goal)]
    if bool(use.any()):
        share = (after.precision / after.precision.max())[use]
        blocks.append((forward[use] * share.unsqueeze(1), output[use] * share))
    scaled = [(left / (size := right.abs().max().clamp_min(1e-300)), right / size) for left, right in blocks]
    system = torch.cat([left for left, _ in scaled]).cpu()
    found = torch.linalg.lstsq(
        system, torch.cat([right for _, right in scaled]).cpu().unsqueeze(1), rcond=RANK, driver="gelsy"
    )
    value = found.solution[:, 0].to(forward)
    error = float((rows @ value - goal).norm() / goal.norm().clamp_min(1e-300))
    return Known(value, forward.T @ after.slope, torch.ones_like(value)), error


def solve(chain: list[Leaf], gradients: dict[str, Tensor], top: Known) -> tuple[Tensor, float]:
    """The input of a chain, from what is known before its head.

    Args:
        chain: all layers but the head.
        gradients: of each weight by the layer's name, at true scale.
        top: the input of the head.

    Returns:
        ``(n,)`` and the largest relative error of a layer's gradient equations.

    Raises:
        NotApplicable: a layer cannot be inverted.
    """
    known, worst = top, 0.0
    for name, module, shape in reversed(chain):
        before = through_activation(module, known, shape)
        if before is None:
            before, error = before_layer(module, known, gradients[name], shape) if name in gradients else _stuck(module)
            worst = max(worst, error)
        known = before
    return known.value, worst


def _stuck(module: nn.Module) -> tuple[Known, float]:
    raise NotApplicable(f"the recursion cannot go backwards through {type(module).__name__}, which loses information")
