"""Clipping against a slow truth, one row and one coordinate at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedsec.defenses.clipping.norms import clip_layers, clip_norms, clip_values, layer_spans
from fedsec.models.flat import Layout, Slot
from fedsec.randomness import generator

LAYOUT = Layout(
    (
        Slot("a.weight", (2, 2), 0, 4, True),
        Slot("a.bias", (2,), 4, 6, True),
        Slot("b.weight", (3,), 6, 9, True),
        Slot("a.running", (2,), 9, 11, False),
    )
)


def slow_clip(row: list[float], bound: float) -> list[float]:
    norm = math.sqrt(math.fsum(x * x for x in row))
    return [x * bound / norm for x in row] if norm > bound else row


def rows(seed: int, n: int, d: int, scale: float) -> Tensor:
    return scale * torch.randn(n, d, generator=generator("clip", seed))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(0, 5),
    d=st.integers(1, 40),
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e3, 1e25]),
    bound=st.floats(1e-3, 1e3),
)
def test_norm_matches_slow_truth(seed: int, n: int, d: int, scale: float, bound: float) -> None:
    updates = rows(seed, n, d, scale)
    before = updates.clone()
    result, clipped = clip_norms(updates, bound)
    assert torch.equal(updates, before)
    expected = torch.tensor([slow_clip(row, bound) for row in updates.double().tolist()]).reshape(n, d)
    assert torch.allclose(result, expected.float(), rtol=2e-6, atol=0.0)
    assert (result.double().norm(dim=1) <= bound).all()
    assert torch.equal(clipped, updates.double().norm(dim=1) > bound)
    again, changed = clip_norms(result, bound)
    assert torch.equal(again, result)
    assert not changed.any()


def test_zero_row_stays_zero() -> None:
    result, clipped = clip_norms(torch.zeros(2, 3), 1.0)
    assert torch.equal(result, torch.zeros(2, 3))
    assert not clipped.any()


def test_rows_inside_the_bound_pass_bit_for_bit() -> None:
    updates = rows(1, 4, 10, 0.01)
    assert torch.equal(clip_norms(updates, 1.0)[0], updates)


def test_buffers_count_in_the_joint_norm() -> None:
    update = torch.zeros(1, LAYOUT.size)
    update[0, 9] = 5.0
    assert clip_norms(update, 1.0)[0][0, 9] == pytest.approx(1.0, rel=1e-6)


def test_values() -> None:
    updates = torch.tensor([[-3.0, -0.5, 0.0, 0.5, 3.0]])
    result, clipped = clip_values(updates, 0.5)
    assert torch.equal(result, torch.tensor([[-0.5, -0.5, 0.0, 0.5, 0.5]]))
    assert clipped.tolist() == [[True, False, False, False, True]]
    assert updates[0, 0] == -3.0


def test_layer_spans_join_parameters_and_buffers() -> None:
    assert layer_spans(LAYOUT) == {"a": (slice(0, 6), slice(9, 11)), "b": (slice(6, 9),)}


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), bound_a=st.floats(0.01, 5), bound_b=st.floats(0.01, 5))
def test_layers_match_slow_truth(seed: int, bound_a: float, bound_b: float) -> None:
    updates = rows(seed, 3, LAYOUT.size, 1.0)
    result, clipped = clip_layers(updates, {"a": bound_a, "b": bound_b}, layer_spans(LAYOUT))
    for row in range(3):
        values = updates[row].double().tolist()
        a, b = [*values[:6], *values[9:]], values[6:9]
        a, b = slow_clip(a, bound_a), slow_clip(b, bound_b)
        assert result[row].tolist() == pytest.approx([*a[:6], *b, *a[6:]], rel=1e-5)
    assert clipped.shape == (3, 2)
    assert (result.norm(dim=1) <= math.hypot(bound_a, bound_b) * (1 + 1e-6)).all()


def test_layers_without_a_bound_stay() -> None:
    updates = rows(3, 2, LAYOUT.size, 10.0)
    result, _ = clip_layers(updates, {"b": 0.1}, layer_spans(LAYOUT))
    assert torch.equal(result[:, :6], updates[:, :6])
    assert torch.equal(result[:, 9:], updates[:, 9:])
    with pytest.raises(KeyError):
        clip_layers(updates, {"c": 0.1}, layer_spans(LAYOUT))
