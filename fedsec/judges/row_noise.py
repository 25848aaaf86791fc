"""Rows of a table changed at random as much as an attack changed them, and rows that an attack made impossible."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsec.data.examples import DatasetInfo


def row_noise(x: Tensor, attacked: Tensor, info: DatasetInfo, generator: torch.Generator) -> Tensor:
    """Rows that differ from ``x`` by as much as the attacked ones do, where nobody looked at the model.

    The changes of a row's numbers are shuffled, with random signs, among the numbers that the attack touched in some
    row; as many of its categories as the attack swapped take another value at random, among the columns that it
    touched. What the attack left alone everywhere stays as it was.

    Args:
        x: ``(m, d)`` rows.
        attacked: ``(m, d)`` the same after the attack.
        info: of the table; without named columns every input is a number.
        generator: draws the changes.
    """
    groups = category_inputs(info)
    numbers = torch.ones(x.shape[1], dtype=torch.bool)
    for at, end in groups:
        numbers[at:end] = False
    moved = (attacked != x).cpu()
    noisy = x.clone().cpu()
    touched = (numbers & moved.any(0)).nonzero()[:, 0]
    if len(touched):
        delta = (attacked - x).cpu()[:, touched]
        order = torch.rand(delta.shape, generator=generator).argsort(1)
        sign = torch.rand(delta.shape, generator=generator).round() * 2 - 1
        noisy[:, touched] += delta.gather(1, order) * sign
    swapped = [(at, end) for at, end in groups if moved[:, at:end].any()]
    if swapped:
        count = torch.stack([moved[:, at:end].any(1) for at, end in swapped]).sum(0)
        rank = torch.rand(len(x), len(swapped), generator=generator).argsort(1).argsort(1)
        for number, (at, end) in enumerate(swapped):
            step = 1 + (torch.rand(len(x), generator=generator) * (end - at - 1)).long()
            other = (noisy[:, at:end].argmax(1) + step) % (end - at)
            chosen = torch.eye(end - at, dtype=noisy.dtype)[other]
            noisy[:, at:end] = torch.where((rank[:, number] < count)[:, None], chosen, noisy[:, at:end])
    return noisy.to(x)


def impossible(attacked: Tensor, info: DatasetInfo) -> Tensor:
    """``(m,)`` whether some category of a row is not exactly one of its values."""
    broken = torch.zeros(len(attacked), dtype=torch.bool, device=attacked.device)
    for at, end in category_inputs(info):
        block = attacked[:, at:end]
        broken |= ~(((block == 0) | (block == 1)).all(1) & (block.sum(1) == 1))
    return broken


def category_inputs(info: DatasetInfo) -> tuple[tuple[int, int], ...]:
    """The inputs ``(from, to)`` of each column that holds categories."""
    found, at = [], 0
    for feature in info.features:
        if len(feature.values) > 1:
            found.append((at, at + feature.width))
        at += feature.width
    return tuple(found)
