"""What is likely of images before any gradient is seen, and what restarts owe each other."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def total_variation(x: Tensor) -> Tensor:
    """Mean absolute difference of neighbours along height plus that along width; ``(l, b, c, h, w)`` to ``(l,)``."""
    down = (x[..., 1:, :] - x[..., :-1, :]).abs().flatten(1).mean(1)
    across = (x[..., :, 1:] - x[..., :, :-1]).abs().flatten(1).mean(1)
    return down + across


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether inputs have two directions in which neighbours mean something."""
    return len(shape) == 3 and shape[1] > 1 and shape[2] > 1


def energy(x: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Mean square of the distance to the middle of the bounds, in widths; ``(l, b, *)`` to ``(l,)``."""
    low, high = bounds
    return ((x - (low + high) / 2) / (high - low)).square().flatten(1).mean(1)


def shifts(images: Tensor, to: Tensor, *, most: int) -> tuple[Tensor, Tensor]:
    """The translation of each image that correlates best with another image, and the correlation there.

    Args:
        images: ``(m, c, h, w)``.
        to: ``(m, c, h, w)``.
        most: pixels that an image may be moved by in each direction.

    Returns:
        ``(m, 2)`` int64, rows down and columns right by which to roll each image; ``(m,)`` the sum of products of the
        centred images then.
    """
    centred = [part - part.mean((-2, -1), keepdim=True) for part in (images, to)]
    spectrum = (torch.fft.rfft2(centred[1]) * torch.fft.rfft2(centred[0]).conj()).sum(1)
    height, width = images.shape[-2:]
    fit = torch.fft.irfft2(spectrum, s=(height, width))
    down, right = min(most, (height - 1) // 2), min(most, (width - 1) // 2)
    near = fit.roll((down, right), (1, 2))[:, : 2 * down + 1, : 2 * right + 1].flatten(1)
    peak, best = near.max(1)
    return torch.stack([best // (2 * right + 1) - down, best % (2 * right + 1) - right], 1), peak


def moved(images: Tensor, by: Tensor) -> Tensor:
    """Each image ``(m, c, h, w)`` rolled by its ``(m, 2)`` shift."""
    rolled = [image.roll(tuple(shift), (1, 2)) for image, shift in zip(images, by.tolist(), strict=True)]
    return torch.stack(rolled)


def consensus(x: Tensor, match: Tensor, *, most: int) -> Tensor:
    """What the restarts of one victim agree on, registered to each of them (Yin et al. 2021, eq. 11 and 12).

    The images of each restart are paired one to one with those of the restart with the best gradient match (the order
    within a batch is arbitrary), by how well they correlate once registered, and averaged; the average is moved back to
    where each restart has it. Differs from the paper: registration is a translation of at most ``most`` pixels, found
    by cross-correlation, not RANSAC-flow; inputs that are no images are not registered.

    Args:
        x: ``(r, b, *input_shape)``.
        match: ``(r,)`` how far each restart's gradient is from the target.
        most: pixels.

    Returns:
        ``(r, b, *input_shape)`` what each restart is drawn to.
    """
    base = x[int(match.argmin())]
    image = is_image(tuple(x.shape[2:]))
    aligned, back = [], []
    for one in x:
        if image:
            many = len(base)
            _, peak = shifts(one.repeat(many, 1, 1, 1), base.repeat_interleave(many, 0), most=most)
            cost = -peak.view(many, many)
        else:
            cost = torch.cdist(base.flatten(1), one.flatten(1)).square()
        _, columns = linear_sum_assignment(cost.nan_to_num(nan=1e9, posinf=1e9, neginf=-1e9).cpu().numpy())
        order = torch.as_tensor(columns, device=x.device)
        paired = one[order]
        by = shifts(paired, base, most=most)[0] if image else None
        aligned.append(paired if by is None else moved(paired, by))
        back.append((order.argsort(), by))
    mean = torch.stack(aligned).mean(0)
    return torch.stack([(mean if by is None else moved(mean, -by))[order] for order, by in back])
