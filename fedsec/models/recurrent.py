"""Recurrent models of token sequences, their cells written out (fused kernels have no second derivative)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsec.data.examples import DatasetInfo
from fedsec.models.source import ModelSource
from fedsec.models.tokens import Embedding, head_width, mean_of_words, sequence_shape
from fedsec.threat import Paper


class Recurrence(nn.Module):
    """One LSTM or GRU layer over a sequence, equal to ``nn.LSTM`` and ``nn.GRU`` with ``batch_first``.

    ``torch.func.vmap`` and double backward have no rule for those; matrix products they have.
    """

    def __init__(self, inputs: int, width: int, *, cell: str) -> None:
        super().__init__()
        self.width, self.cell = width, cell
        gates = {"lstm": 4, "gru": 3}[cell]
        bound = width**-0.5
        self.weight_ih = nn.Parameter(torch.empty(gates * width, inputs).uniform_(-bound, bound))
        self.weight_hh = nn.Parameter(torch.empty(gates * width, width).uniform_(-bound, bound))
        self.bias_ih = nn.Parameter(torch.empty(gates * width).uniform_(-bound, bound))
        self.bias_hh = nn.Parameter(torch.empty(gates * width).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """``(b, t, inputs)`` to the hidden state after each token, ``(b, t, width)``."""
        projected = x @ self.weight_ih.mT + self.bias_ih
        hidden = x.new_zeros(x.shape[0], self.width)
        memory = hidden
        states = []
        for given in projected.unbind(1):
            recurrent = hidden @ self.weight_hh.mT + self.bias_hh
            if self.cell == "lstm":
                hidden, memory = _lstm(given + recurrent, memory)
            else:
                hidden = _gru(given, recurrent, hidden)
            states.append(hidden)
        return torch.stack(states, 1)


def _lstm(gates: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Input, forget, cell and output gate (Gers et al. 2000), in the order of ``nn.LSTM``."""
    enter, forget, candidate, leave = gates.chunk(4, -1)
    memory = forget.sigmoid() * memory + enter.sigmoid() * candidate.tanh()
    return leave.sigmoid() * memory.tanh(), memory


def _gru(given: Tensor, recurrent: Tensor, hidden: Tensor) -> Tensor:
    """Reset, update and new gate (Cho et al. 2014), in the order and with the reset-after form of ``nn.GRU``."""
    given_reset, given_update, given_new = given.chunk(3, -1)
    reset, update, new = recurrent.chunk(3, -1)
    kept = (given_update + update).sigmoid()
    candidate = (given_new + (given_reset + reset).sigmoid() * new).tanh()
    return candidate + kept * (hidden - candidate)


class SequenceModel(nn.Module):
    """Embedding, recurrent layers with dropout between them, and a linear head per token or per sequence."""

    def __init__(
        self,
        vocabulary: int,
        outputs: int,
        *,
        embedding: int,
        width: int,
        layers: int,
        cell: str,
        dropout: float,
        every_token: bool,
    ) -> None:
        super().__init__()
        self.embedding = Embedding(vocabulary, embedding)
        self.layers = nn.ModuleList(
            Recurrence(embedding if index == 0 else width, width, cell=cell) for index in range(layers)
        )
        self.dropouts = nn.ModuleList(nn.Dropout(dropout) for _ in range(layers))
        self.head = nn.Linear(width, outputs)
        self.every_token = every_token

    def forward(self, tokens: Tensor) -> Tensor:
        """``(b, t)`` to ``(b, t, outputs)``, or ``(b, outputs)`` for whole sequences."""
        hidden = self.embedding(tokens)
        for layer, dropout in zip(self.layers, self.dropouts, strict=True):
            hidden = dropout(layer(hidden))
        out: Tensor = self.head(hidden if self.every_token else mean_of_words(hidden, tokens))
        return out


@dataclass(frozen=True, kw_only=True)
class CharRNN(ModelSource):
    """The character model of McMahan et al.: embedding 8, LSTM layers; the paper has two of 256 units.

    For whole sequences the states at the tokens that are no padding (token 0) are averaged.
    """

    name: ClassVar[str] = "char-rnn"
    summary: ClassVar[str] = "Recurrent network over characters or words (LSTM or GRU)"
    family: ClassVar[str] = "recurrent"
    paper: ClassVar[Paper] = Paper(
        "Communication-Efficient Learning of Deep Networks from Decentralized Data",
        "McMahan, Moore, Ramage, Hampson, Agüera y Arcas",
        "AISTATS 2017",
        "Section 3 (the character LSTM)",
    )
    cost: ClassVar[str] = "one small matrix product per token and layer; slow for long sequences"

    cell: Annotated[Literal["lstm", "gru"], Field(description="kind of recurrent cell")] = "lstm"
    embedding: Annotated[int, Field(ge=1, description="numbers per token")] = 8
    width: Annotated[int, Field(ge=1, description="units of each recurrent layer")] = 128
    layers: Annotated[int, Field(ge=1, description="recurrent layers")] = 1
    dropout: Annotated[float, Field(ge=0, lt=1, description="probability of dropping a state after a layer")] = 0.0

    def build(self, info: DatasetInfo) -> nn.Module:
        """See `ModelSource.build`."""
        _, vocabulary = sequence_shape(self.name, info)
        return SequenceModel(
            vocabulary,
            head_width(self.name, info),
            embedding=self.embedding,
            width=self.width,
            layers=self.layers,
            cell=self.cell,
            dropout=self.dropout,
            every_token=info.task == "next-token",
        )
