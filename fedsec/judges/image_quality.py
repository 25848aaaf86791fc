"""How alike two inputs are: squared error, and for images PSNR and SSIM; and which pairs to show."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsec.judges.matching import Pairs

PSNR_CAP = 80.0
"""In dB; an exact copy has an infinite ratio, which no mean survives."""
SMALLEST_SSIM = 11
"""Side in pixels that the usual window (Gaussian, sigma 1.5, 11 x 11) needs with room to spare."""
GALLERY = 8
"""Pairs that are shown, from the best to the worst."""


def psnr(found: Tensor, true: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Peak signal-to-noise ratio in dB per pair, at most `PSNR_CAP`; ``(p, c, h, w)`` to ``(p,)``."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    width = bounds[1] - bounds[0]
    ratio = peak_signal_noise_ratio(found, true, data_range=width, reduction="none", dim=(1, 2, 3))
    return torch.as_tensor(ratio).clamp_max(PSNR_CAP)


def ssim(found: Tensor, true: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Structural similarity per pair (Wang et al. 2004); ``(p, c, h, w)`` to ``(p,)``.

    Images too small for the usual Gaussian window of 11 x 11 are measured with a uniform window of 7 x 7 or the
    largest odd side that fits.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    side = min(found.shape[-2:])
    small = side <= SMALLEST_SSIM
    window = min(7, side - 1 + side % 2)
    value = structural_similarity_index_measure(
        found,
        true,
        gaussian_kernel=not small,
        kernel_size=window if small else SMALLEST_SSIM,
        data_range=bounds[1] - bounds[0],
        reduction="none",
    )
    return torch.as_tensor(value)


def squared_error(found: Tensor, true: Tensor) -> Tensor:
    """Mean squared error per pair, ``(p,)``, in squared units of the inputs."""
    return (found - true).square().flatten(1).mean(1)


def gallery(pairs: Pairs, scores: Tensor) -> dict[str, Tensor]:
    """Evenly spaced pairs from the best to the worst, the median among them.

    Args:
        pairs: matched pairs.
        scores: ``(p,)``, higher is better.
    """
    order = scores.argsort(descending=True)
    shown = order[torch.linspace(0, len(order) - 1, min(GALLERY - 1, len(order))).round().long()]
    return {
        "gallery/original": pairs.true[shown],
        "gallery/reconstruction": pairs.found[shown],
        "gallery/score": scores[shown],
    }
