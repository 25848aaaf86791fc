"""What the models of token sequences share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedsec.data.examples import DatasetInfo
from fedsec.models.fit import output_width, refuse

PADDING = 0
"""The token that fills short sequences; models of whole sequences do not look at it."""


def sequence_shape(model: str, info: DatasetInfo) -> tuple[int, int]:
    """Length of a sequence, and number of tokens.

    Raises:
        ConfigurationError: the inputs are not token sequences.
    """
    if not info.vocabulary or len(info.input_shape) != 1:
        raise refuse(model, info, "reads sequences of tokens", "Use model mlp.")
    return info.input_shape[0], info.vocabulary


def head_width(model: str, info: DatasetInfo) -> int:
    """Outputs per token (``next-token``) or per sequence."""
    return info.vocabulary if info.task == "next-token" else output_width(model, info)


def mean_of_words(hidden: Tensor, tokens: Tensor) -> Tensor:
    """Mean over the tokens that are no padding, ``(b, t, h)`` to ``(b, h)``; zero if there are none."""
    real = (tokens != PADDING).to(hidden.dtype).unsqueeze(-1)
    return (hidden * real).sum(-2) / real.sum(-2).clamp(min=1.0)


class Embedding(nn.Module):
    """Token embeddings plus, optionally, learned position embeddings."""

    def __init__(self, vocabulary: int, width: int, *, positions: int = 0) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(0.02 * torch.randn(positions, width)) if positions else None

    def forward(self, tokens: Tensor) -> Tensor:
        """``(b, t)`` int64 to ``(b, t, width)``."""
        embedded: Tensor = self.tokens(tokens)
        return embedded if self.positions is None else embedded + self.positions[: tokens.shape[-1]]
