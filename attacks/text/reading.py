"""A transformer as its attacker runs it: what its layers would be given for guessed tokens, and its gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from fedsec.data.tokens import PADDING
from fedsec.models.flat import FlatModel
from fedsec.models.transformers import Layer, Transformer
from fedsec.protocol.outcome import NotApplicable

FIRST = "layers.0.attention.project.weight"
PERCEPTRON = "layers.0.perceptron.0.weight"
TOKENS, POSITIONS = "embedding.tokens.weight", "embedding.positions"


@dataclass(frozen=True)
class Reader:
    """One state of a pre-norm transformer.

    Attributes:
        model: the architecture.
        module: in this state, in eval mode.
        state: ``(d,)`` the same as a vector.
        second: the weight whose inputs `deep` gives: the second layer's attention projection, or, where there is only
            one layer, the first layer's perceptron.
    """

    model: FlatModel
    module: Transformer
    state: Tensor
    second: str

    @classmethod
    def of(cls, model: FlatModel, state: Tensor) -> Reader:
        """Take a model apart.

        Raises:
            NotApplicable: it is no `Transformer` with positions.
        """
        if not isinstance(model.module, Transformer) or model.module.embedding.positions is None:
            raise NotApplicable("the span check needs a transformer whose first attention reads embeddings")
        module = model.instance(state)
        if not isinstance(module, Transformer):
            raise TypeError("an instance of a transformer is a transformer")
        second = "layers.1.attention.project.weight" if len(module.layers) > 1 else PERCEPTRON
        return cls(model, module, state, second)

    @property
    def causal(self) -> bool:
        """Whether a token is read without those after it."""
        return self.module.causal

    def shallow(self, tokens: Tensor, length: int) -> Tensor:
        """What the first attention is given for each token at each place: ``(n,)`` to ``(n, length, w)``."""
        with torch.no_grad():
            given: Tensor = self._layer(0).norm_attention(self.embedded(tokens, length))
        return given

    def deep(self, sentences: Tensor) -> Tensor:
        """What `second` is given: ``(k, t)`` to ``(k, t, w)``; rows of padding mean nothing."""
        t = sentences.shape[-1]
        if self.causal:
            place = torch.arange(t)
            visible = place.unsqueeze(0) <= place.unsqueeze(1)
        else:
            visible = (sentences != PADDING).unsqueeze(-2).unsqueeze(-2)
        with torch.no_grad():
            hidden = self.module.embedding(sentences)
            first = self._layer(0)
            if len(self.module.layers) > 1:
                given: Tensor = self._layer(1).norm_attention(first(hidden, visible))
            else:
                given = first.norm_perceptron(hidden + first.attention(first.norm_attention(hidden), visible))
        return given

    def embedded(self, tokens: Tensor, length: int) -> Tensor:
        """Embeddings of each token at each place: ``(n,)`` to ``(n, length, w)``."""
        table, places = self.module.embedding.tokens.weight, self.module.embedding.positions
        if places is None:
            raise TypeError("positions were checked in `of`")
        return (table[tokens].unsqueeze(1) + places[:length]).detach()

    def context(self, sentence: Tensor) -> Tensor:
        """What the first attention of an encoder adds at each place of a sentence, ``(t,)`` to ``(t, w)``."""
        first, seen = self._layer(0), torch.ones(1, 1, 1, len(sentence), dtype=torch.bool)
        with torch.no_grad():
            added: Tensor = first.attention(first.norm_attention(self.module.embedding(sentence.unsqueeze(0))), seen)
        return added[0]

    def centred(self, hidden: Tensor) -> Tensor:
        """The linear part of the norm before the first perceptron: centred and scaled, not divided by the deviation."""
        scaled: Tensor = (hidden - hidden.mean(-1, keepdim=True)) * self._layer(0).norm_perceptron.weight.detach()
        return scaled

    def gradient(self, sentence: Tensor, label: int) -> Tensor:
        """Gradient of the loss of one sentence ``(t,)`` of class ``label``, ``(p,)``."""
        tensors = {name: part.detach().requires_grad_() for name, part in self.module.named_parameters()}
        outputs = functional_call(self.module, tensors, (sentence.unsqueeze(0),))
        loss = self.model.loss(outputs, torch.tensor([label])).sum()
        parts = torch.autograd.grad(loss, list(tensors.values()))
        return torch.cat([part.reshape(-1) for part in parts])

    def _layer(self, number: int) -> Layer:
        layer = self.module.layers[number]
        if not isinstance(layer, Layer):
            raise TypeError("layers of a transformer are layers")
        return layer
