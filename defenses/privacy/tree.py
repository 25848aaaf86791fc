"""Noise for sums that grow: a binary tree over the rounds, and what it costs to be counted in some of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedsec.randomness import generator


def finished_nodes(rounds: int) -> list[tuple[int, int]]:
    """The nodes ``(level, index)`` whose sum is that of the first rounds: one for each binary digit that is 1.

    A node of level ``j`` and index ``i`` covers the rounds ``i 2^j`` to ``(i + 1) 2^j - 1``, counted from 0.
    """
    nodes, first = [], 0
    for level in reversed(range(rounds.bit_length())):
        if rounds >> level & 1:
            nodes.append((level, first >> level))
            first += 1 << level
    return nodes


def prefix_noise(rounds: int, like: Tensor, *, seed: int) -> Tensor:
    """Noise in the sum of the first ``rounds`` rounds, ``(d,)``, of variance 1 per finished node.

    Args:
        rounds: how many rounds are in the sum.
        like: ``(d,)``, gives dtype and device.
        seed: of the tree; the same node gets the same noise in whichever sum.
    """
    return _of_nodes(finished_nodes(rounds), like, seed=seed)


def noise_of_round(number: int, like: Tensor, *, seed: int) -> Tensor:
    """What a round adds to the noise of the sum: that of the nodes that it finishes minus those that they replace.

    Args:
        number: of the round, counted from 0.
        like: see `prefix_noise`.
        seed: see `prefix_noise`.
    """
    before, after = set(finished_nodes(number)), set(finished_nodes(number + 1))
    added = _of_nodes(sorted(after - before), like, seed=seed)
    return added.sub_(_of_nodes(sorted(before - after), like, seed=seed))


def _of_nodes(nodes: list[tuple[int, int]], like: Tensor, *, seed: int) -> Tensor:
    total = torch.zeros(like.shape, dtype=like.dtype)
    for level, index in nodes:
        total += torch.randn(like.shape, generator=generator(seed, "tree", level, index), dtype=like.dtype)
    return total.to(like.device)


def tree_sensitivity(rounds: int, *, participations: int, separation: int = 1) -> float:
    """How far one client moves the vector of all nodes that are ever used, in units of its bound per round (L2).

    Of the two halves of a node only the first is used: the second is finished when the node itself is.

    A client that is counted in the rounds ``S`` moves a node by at most ``|S in the node|`` bounds. With ``k`` rounds
    that lie at least ``s`` apart, a node of ``2^j`` rounds holds at most ``m = min(k, ceil(2^j / s))`` of them and a
    level at most ``k``, so the level adds at most ``m^2`` for each of ``k // m`` nodes and the square of the rest.
    Once counted: the root of the number of levels, ``rounds.bit_length()``. In every round: exact.

    Args:
        rounds: of the whole training.
        participations: most rounds that count one client, ``k``.
        separation: fewest rounds from one of them to the next, ``s``.
    """
    possible = math.ceil(rounds / separation)
    most = min(participations, possible)
    total = 0
    for level in range(rounds.bit_length()):
        nodes = ((rounds >> level) + 1) // 2
        inside = min(most, math.ceil((1 << level) / separation))
        full, rest = divmod(most, inside)
        total += nodes * inside**2 if full >= nodes else full * inside**2 + rest**2
    return math.sqrt(total)
