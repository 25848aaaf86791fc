"""Where rows that read the raw input are put: a block in front of the model, or the model's own first layer."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from fedsec.models.flat import FlatModel
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.parties import Planted

from ..inversion.layers import FirstLayer, first_layer

Rows = tuple[Tensor, Tensor]
"""Weight ``(k, f)`` and bias ``(k,)`` on the flattened raw input."""


class Imprint(nn.Module):
    """``x + out(act(rows(x)))``: the model behind still sees its input, and every active row gets a gradient.

    With equal columns of ``out`` an example sends the same gradient to each row in which it is active; only then do
    differences of neighbouring rows isolate it (Fowl et al. 2022, section 3.2).
    """

    def __init__(self, size: int, rows: int, *, step: float | None) -> None:
        super().__init__()
        self.rows = nn.Linear(size, rows)
        self.act = nn.ReLU() if step is None else nn.Hardtanh(0.0, step)
        self.out = nn.Linear(rows, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(b, *input_shape)`` to the same shape."""
        added: Tensor = self.out(self.act(self.rows(x.flatten(1))))
        return x + added.view_as(x)


def in_front(
    model: FlatModel,
    vector: Tensor,
    rows: Rows,
    *,
    gain: float,
    step: float | None,
    equal: bool,
    generator: torch.Generator,
) -> Planted:
    """The model behind an imprint block: a changed architecture.

    Args:
        model: the public architecture.
        vector: ``(d,)`` the global model.
        rows: what the block reads.
        gain: length of each column of the block's second layer; its direction is drawn.
        step: height at which the activations saturate (each row is then a bin); ``None`` for ReLUs.
        equal: whether all columns of the second layer are one, as differences of rows need.
        generator: draws the directions.
    """
    weight, bias = rows
    block = Imprint(weight.shape[1], len(weight), step=step)
    columns = torch.randn(weight.shape[1], 1 if equal else len(weight), generator=generator)
    with torch.no_grad():
        block.rows.weight.copy_(weight)
        block.rows.bias.copy_(bias)
        block.out.weight.copy_((gain * columns / columns.norm(dim=0)).expand(-1, len(weight)))
    block = block.to(device=vector.device, dtype=vector.dtype)
    whole = nn.Sequential(OrderedDict(imprint=block, model=model.instance(vector)))
    planted = FlatModel.of(whole, task=model.task, name=f"{model.name}+imprint")
    return Planted(planted, planted.vector())


def in_place(
    model: FlatModel,
    vector: Tensor,
    shape: tuple[int, ...],
    rows: Rows,
    *,
    gain: float | None,
    generator: torch.Generator,
) -> Planted:
    """The same architecture with the rows in its own first layer; the other units stay as they were.

    Args:
        model: the public architecture.
        vector: ``(d,)`` the global model.
        shape: of an input.
        rows: what the first units read.
        gain: the next layer's columns for these units become equal and this long; ``None`` leaves them as they were.
        generator: draws their direction.

    Raises:
        NotApplicable: the first layer reads something else, has no bias or too few units, or is not followed by a ReLU
            and a linear layer.
    """
    first, (start, stop, width) = own_rows(model, vector, shape)
    weight, bias = rows
    units = first.slots.weight.shape[0]
    if units < len(weight):
        raise NotApplicable(f"the first layer has {units} units, fewer than the {len(weight)} rows to plant")
    planted = vector.clone()
    scaled = weight.to(vector) / first.scale
    own_weight, own_bias = first.slots.read(planted)
    own_weight[: len(weight)] = scaled
    if own_bias is not None:
        own_bias[: len(weight)] = bias.to(vector) - scaled @ first.shift
    if gain is not None:
        column = torch.randn(width, generator=generator).to(vector)
        following = planted[start:stop].view(width, units)
        following[:, : len(weight)] = (gain * column / column.norm()).unsqueeze(1)
    return Planted(model, planted)


def own_rows(model: FlatModel, vector: Tensor, shape: tuple[int, ...]) -> tuple[FirstLayer, tuple[int, int, int]]:
    """The first layer, and ``(first coordinate, last + 1, units)`` of the weight of the linear layer behind its ReLU.

    Raises:
        NotApplicable: there are no such layers.
    """
    first = first_layer(model, vector, shape)
    if first.slots.bias is None:
        raise NotApplicable("the model's first layer has no bias")
    seen: list[tuple[str, Tensor, Tensor]] = []
    # In train mode, as clients train: dropout between the two would break the equality of columns.
    module = model.instance(vector).train()

    def listen(name: str, layer: nn.Module) -> None:
        layer.register_forward_hook(lambda _, args, out: seen.append((name, args[0].detach(), out.detach())))

    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            listen(name, layer)
    probe = torch.Generator(device="cpu").manual_seed(2)
    with torch.no_grad():
        module(torch.rand((4, *shape), generator=probe, dtype=vector.dtype).to(vector.device))
    hidden = next(out for name, _, out in seen if name == first.slots.weight.layer)
    places = {slot.name: slot for slot in model.layout.parameters}
    for name, read, _ in seen:
        slot = places.get(f"{name}.weight")
        if slot is not None and read.shape == hidden.shape and torch.equal(read, hidden.relu()):
            return first, (slot.start, slot.stop, slot.shape[0])
    raise NotApplicable("the model's first layer is not followed by a ReLU and a linear layer")
