"""Sentences of a decoder, token by token: what a layer is given at one place depends on the tokens up to it alone."""

from __future__ import annotations

import torch
from torch import Tensor

from .reading import Reader
from .span import Span


def decode(
    reader: Reader, candidates: Tensor, tokens: Tensor, span: Span, *, wanted: int, beam: int
) -> tuple[Tensor, Tensor]:
    """Extend prefixes by each candidate and keep those whose deep inputs lie nearest to the span.

    Petrov et al. (2024, section 4.2) keep all prefixes within a threshold; here the ``beam`` nearest are kept, by the
    largest distance along the prefix, so that no threshold has to fit the noise.

    Args:
        reader: of a causal model.
        candidates: ``(n, t)`` bool, tokens that may stand at each place.
        tokens: ``(n,)`` their ids.
        span: of the deep inputs.
        wanted: sentences.
        beam: prefixes that are kept.

    Returns:
        Sentences ``(k, t)``, ``k <= wanted``, nearest first, and their largest distance ``(k,)``.
    """
    prefixes, worst = torch.zeros(1, 0, dtype=torch.int64), torch.zeros(1, dtype=span.basis.dtype)
    for place in range(candidates.shape[1]):
        ends = tokens[candidates[:, place]]
        if not len(ends):
            break
        longer = torch.cat([prefixes.repeat_interleave(len(ends), 0), ends.repeat(len(prefixes)).unsqueeze(1)], 1)
        parts = [span.distance(reader.deep(part)[:, -1]) for part in torch.tensor_split(longer, -(-len(longer) // 512))]
        distance = torch.maximum(worst.repeat_interleave(len(ends)), torch.cat(parts).to(worst))
        keep = distance.argsort(stable=True)[:beam]
        prefixes, worst = longer[keep], distance[keep]
    return prefixes[:wanted], worst[:wanted]
