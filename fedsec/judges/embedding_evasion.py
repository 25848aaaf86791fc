"""How many texts a model misreads after a small change of their embeddings, against random changes of that length."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedsec.ball import TINY, steepest
from fedsec.data.tokens import PADDING
from fedsec.judges.base import Judge, Judgement, Measurement, Truth
from fedsec.judges.passes import passes
from fedsec.models.layers import run_until, shifting
from fedsec.protocol.evidence import Evidence, LayerPerturbations

_BATCH = 500


class EmbeddingEvasionJudge(Judge):
    """Adds the changes to the layer's output itself, at full precision of the released model and in eval mode."""

    name: ClassVar[str] = "embedding-evasion"
    summary: ClassVar[str] = (
        "Share of test texts misread after their embeddings were changed; full success is all of them, the floor is "
        "the error under random changes of the same length"
    )

    def measure(self, evidence: Evidence, truth: Truth) -> Judgement:
        """See `Judge.measure`.

        The size that the attack was allowed stands in its parameters; the length of what it did is measured, in units
        of the embedding and as a share of the length of the text's own embedding. Only the second can be compared
        between models, since training may make embeddings larger instead of robust.

        Raises:
            TypeError: the evidence is of another kind.
            ValueError: its changes are not numbers, or not one vector per token of the test texts.
            ConfigurationError: the model has no such layer.
        """
        if not isinstance(evidence, LayerPerturbations):
            raise TypeError(f"the judge {self.name} measures changes of a layer, not {type(evidence).__name__}")
        count = len(evidence.deltas)
        x, y = truth.test.x[:count], truth.test.y[:count]
        net = truth.model.instance(truth.released)
        place = next(net.parameters())
        deltas = evidence.deltas.to(place)
        if deltas.shape[:-1] != x.shape or not torch.isfinite(deltas).all():
            raise ValueError(f"changes must be finite and of shape {(*x.shape, '*')}, one vector per token")
        words = (x != PADDING).unsqueeze(-1).to(deltas)
        embedded = _embedded(net, evidence.layer, x.to(place.device))
        own = (embedded * words).flatten(1).norm(dim=1)
        length = deltas.flatten(1).norm(dim=1)
        noise = _random(words.expand_as(deltas), length, truth.generator)
        clean, misread, noisy = (
            _misread(net, evidence.layer, shift, x, y) for shift in (torch.zeros_like(deltas), deltas, noise)
        )
        measurements = (
            Measurement(
                name="robust_error",
                statistic="mean",
                units=misread.float(),
                floor_units=noisy.float(),
                headline=True,
                description="Share of test texts that the published model misreads after the attack.",
            ),
            Measurement(
                name="clean_error",
                statistic="mean",
                units=clean.float(),
                floor=0.0,
                description="Share of the same texts that it misreads without any attack.",
            ),
            Measurement(
                name="mean_perturbation_l2",
                statistic="mean",
                units=length.cpu(),
                floor=0.0,
                ceiling=float(own.max().clamp_min(TINY)),
                unit="embedding units",
                description="Euclidean length of the change over all words of a text, averaged over texts.",
            ),
            Measurement(
                name="mean_perturbation_share",
                statistic="mean",
                units=(length / own.clamp_min(TINY)).cpu(),
                floor=0.0,
                description="The same as a share of the length of the text's own embedding.",
            ),
        )
        notes: tuple[str, ...] = ()
        if int(misread.sum()) < int(noisy.sum()):
            notes = (
                "The attack does worse than random changes of the same length, a sign of masked gradients or of a "
                "broken attack.",
            )
        spent = (("forward", evidence.forwards), ("backward", evidence.backwards))
        return Judgement(measurements=(*measurements, *(passes(*one, count) for one in spent)), notes=notes)


def _embedded(net: nn.Module, layer: str, x: Tensor) -> Tensor:
    """What the layer gives for the texts, ``(m, t, w)``."""
    parts = []
    with torch.no_grad():
        for tokens in torch.split(x, _BATCH):
            parts.append(run_until(net, layer, partial(net, tokens)))
    return torch.cat(parts)


def _misread(net: nn.Module, layer: str, shift: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Whether each text is read as a wrong class; outputs that are not numbers are wrong."""
    wrong = []
    with torch.no_grad():
        for delta, tokens, classes in zip(
            torch.split(shift, _BATCH), torch.split(x, _BATCH), torch.split(y, _BATCH), strict=True
        ):
            with shifting(net, layer, delta):
                logits = net(tokens.to(delta.device)).to(classes.device)
            wrong.append((logits.argmax(-1) != classes) | torch.isnan(logits).any(-1))
    return torch.cat(wrong)


def _random(words: Tensor, length: Tensor, generator: torch.Generator) -> Tensor:
    """Changes of words only, of given lengths and in directions drawn uniformly; shaped like ``words``."""
    drawn = torch.randn(words.shape, generator=generator, dtype=words.dtype).to(words.device) * words
    return steepest(drawn, "l2") * length.reshape(len(drawn), *(1 for _ in drawn.shape[1:]))
