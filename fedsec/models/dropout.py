"""Dropout whose mask is a pure function of a key, so that batched and one-by-one training draw the same."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedsec.errors import ConfigurationError, Problem
from fedsec.randomness import counter_uniform, salted


class CounterDropout(nn.Module):
    """Inverted dropout with a mask drawn from ``key`` (see `fedsec.randomness.counter_uniform`).

    The key is a buffer that the trainer sets for each lane and step; it is not part of the model's state.
    Draws depend on the example's place in the batch, so equal batches give equal masks in every engine.

    Attributes:
        p: probability of zeroing an element.
        salt: sets the layers of one model apart.
        feature: whole channels are dropped together (``nn.Dropout2d``).
    """

    key: Tensor

    def __init__(self, p: float, *, salt: int, feature: bool = False) -> None:
        super().__init__()
        self.p, self.salt, self.feature = p, salt, feature
        self.register_buffer("key", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements in train mode; the identity in eval mode."""
        if not self.training or self.p == 0.0:
            return x
        shape = (*x.shape[:2], *(1 for _ in x.shape[2:])) if self.feature else tuple(x.shape)
        keep = counter_uniform(salted(self.key, self.salt), shape) >= self.p
        return x * keep.to(x.dtype) / (1.0 - self.p)


def replace_dropout(module: nn.Module) -> nn.Module:
    """Replace a module's dropout layers in place; refuses those that cannot be drawn by counter."""
    salt = 1
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.modules.dropout._DropoutNd):
                if isinstance(child, nn.AlphaDropout | nn.FeatureAlphaDropout):
                    raise ConfigurationError(
                        [
                            Problem(
                                path="federation.model",
                                found=type(child).__name__,
                                expected="dropout must be nn.Dropout, nn.Dropout1d, nn.Dropout2d or nn.Dropout3d",
                                hint="Use nn.Dropout.",
                            )
                        ]
                    )
                feature = not isinstance(child, nn.Dropout)
                setattr(parent, name, CounterDropout(child.p, salt=salt, feature=feature))
                salt += 1
    return module
