"""Small transformers, their attention written out: fused kernels have no batching rule or second derivative."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsec.data.examples import DatasetInfo
from fedsec.errors import ConfigurationError, Problem
from fedsec.models.fit import output_width, refuse
from fedsec.models.source import ModelSource
from fedsec.models.tokens import PADDING, Embedding, mean_of_words, sequence_shape
from fedsec.threat import Paper

_PAPER = Paper("Attention Is All You Need", "Vaswani et al.", "NeurIPS 2017", "Section 3.2")


class Attention(nn.Module):
    """Multi-head scaled dot-product attention of a sequence to itself."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """``x (b, t, w)``; ``visible`` broadcasts to ``(b, heads, t, t)``, true where a query may look."""
        b, t, w = x.shape
        queries, keys, values = self.project(x).view(b, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        scores = (queries @ keys.mT) / math.sqrt(w // self.heads)
        # Not minus infinity: a sequence of padding alone would give NaN.
        weights = torch.softmax(scores.masked_fill(~visible, -1e9), -1)
        out: Tensor = self.out((weights @ values).transpose(1, 2).reshape(b, t, w))
        return out


class Layer(nn.Module):
    """A pre-norm layer: attention and a two-layer perceptron of four times the width, each with a shortcut."""

    def __init__(self, width: int, heads: int, *, dropout: float) -> None:
        super().__init__()
        self.norm_attention, self.norm_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop_attention, self.drop_perceptron = nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """``(b, t, w)`` to ``(b, t, w)``."""
        x = x + self.drop_attention(self.attention(self.norm_attention(x), visible))
        out: Tensor = x + self.drop_perceptron(self.perceptron(self.norm_perceptron(x)))
        return out


class Transformer(nn.Module):
    """Embedding with learned positions, pre-norm layers, a last norm and a linear head."""

    def __init__(
        self,
        vocabulary: int,
        length: int,
        outputs: int,
        *,
        width: int,
        heads: int,
        layers: int,
        dropout: float,
        causal: bool,
    ) -> None:
        super().__init__()
        self.causal = causal
        self.embedding = Embedding(vocabulary, width, positions=length)
        self.layers = nn.ModuleList(Layer(width, heads, dropout=dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(b, t)`` to ``(b, t, outputs)`` if causal, else ``(b, outputs)``."""
        t = tokens.shape[-1]
        if self.causal:
            place = torch.arange(t, device=tokens.device)
            visible = place.unsqueeze(0) <= place.unsqueeze(1)
        else:
            visible = (tokens != PADDING).unsqueeze(-2).unsqueeze(-2)
        hidden = self.embedding(tokens)
        for layer in self.layers:
            hidden = layer(hidden, visible)
        hidden = self.norm(hidden)
        out: Tensor = self.head(hidden if self.causal else mean_of_words(hidden, tokens))
        return out


@dataclass(frozen=True, kw_only=True)
class _TransformerSource(ModelSource):
    family: ClassVar[str] = "transformer"
    paper: ClassVar[Paper] = _PAPER
    cost: ClassVar[str] = "12 layers x width squared parameters, attention quadratic in the sequence length"

    width: Annotated[int, Field(ge=1, description="numbers per token")] = 64
    heads: Annotated[int, Field(ge=1, description="attention heads; must divide the width")] = 4
    layers: Annotated[int, Field(ge=1, description="layers")] = 2
    dropout: Annotated[float, Field(ge=0, lt=1, description="probability of dropping after each sublayer")] = 0.0

    def _transformer(self, info: DatasetInfo, outputs: int, *, causal: bool) -> nn.Module:
        if self.width % self.heads:
            found, expected = f"{self.heads} heads for width {self.width}", "heads must divide the width"
            raise ConfigurationError([Problem(path="federation.model.heads", found=found, expected=expected)])
        length, vocabulary = sequence_shape(self.name, info)
        return Transformer(
            vocabulary,
            length,
            outputs,
            width=self.width,
            heads=self.heads,
            layers=self.layers,
            dropout=self.dropout,
            causal=causal,
        )


@dataclass(frozen=True, kw_only=True)
class TransformerEncoder(_TransformerSource):
    """Pre-norm encoder; the mean over the tokens that are no padding (token 0) is classified."""

    name: ClassVar[str] = "transformer-encoder"
    summary: ClassVar[str] = "Small transformer that classifies token sequences"

    def build(self, info: DatasetInfo) -> nn.Module:
        """See `ModelSource.build`."""
        sequence_shape(self.name, info)
        return self._transformer(info, output_width(self.name, info), causal=False)


@dataclass(frozen=True, kw_only=True)
class TransformerDecoder(_TransformerSource):
    """Pre-norm decoder with causal attention that predicts each next token."""

    name: ClassVar[str] = "transformer-decoder"
    summary: ClassVar[str] = "Small causal transformer that predicts the next token"

    def build(self, info: DatasetInfo) -> nn.Module:
        """See `ModelSource.build`."""
        if info.task != "next-token":
            raise refuse(self.name, info, "predicts next tokens", "Use model transformer-encoder.")
        return self._transformer(info, info.vocabulary, causal=True)
