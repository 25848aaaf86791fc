"""QSGD and eight bits: bytes that read back, right on average, within the paper's variance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compression_scene import context_of, layout_of, received, rows
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.defenses.compression.compression import Compression
from fedsec.defenses.compression.grid import GridCode, common_unit, exact_units
from fedsec.defenses.compression.quantisation import QSGD, Quantize8Bit
from fedsec.protocol.payload import Plain


def sealed(defense: Compression, values: torch.Tensor, layout, clients=(0,), **changes) -> Plain:
    return defense.seal(Plain(values, torch.ones(len(values))), context_of(layout, tuple(clients), **changes))


@settings(deadline=None, max_examples=20)
@given(
    st.integers(1, 90),
    st.integers(0, 4),
    st.integers(1, 127),
    st.integers(1, 40),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([1e-25, 1e-6, 1.0, 1e5]),
)
def test_bytes_are_counted_and_read_back(d, buffers, levels, bucket, dtype, scale) -> None:
    layout = layout_of((d,), (3, 2), buffers=buffers)
    values = rows(2, layout.size, levels, dtype) * scale
    values[1, : d // 2] = 0.0
    for defense in (
        QSGD(levels=levels, bucket=bucket),
        Quantize8Bit(),
        Quantize8Bit(rounding="nearest"),
    ):
        sent = sealed(defense, values, layout, (4, 9))
        for row in range(2):
            assert torch.equal(received(sent, row), sent.values[row])
        assert torch.equal(sent.values[:, layout.trainable :], values[:, layout.trainable :])


def test_sizes_by_hand() -> None:
    layout = layout_of((100, 10), (10,))
    assert sealed(Quantize8Bit(), rows(1, 1010), layout).nbytes(0) == 2 * 4 + 1010 + 4
    assert sealed(QSGD(levels=7, bucket=512), rows(1, 1010), layout).nbytes(0) == 2 * 4 + 1010 // 2 + 4
    assert GridCode(9, 9, torch.float32, (9,), 1).bits == 2
    assert [GridCode(9, 9, torch.float32, (9,), levels).bits for levels in (3, 7, 8, 127)] == [3, 4, 5, 8]


def test_qsgd_known_answer() -> None:
    """A row of norm 5 at one level: each entry is 0 or +-5, up with chance |v| / 5."""
    layout = layout_of((2,))
    values = torch.tensor([[3.0, -4.0]])
    draws = sealed(QSGD(levels=1), values.expand(4000, -1), layout, range(4000)).values
    unit = float(exact_units(torch.tensor(5.0)))
    assert unit == pytest.approx(5.0, rel=4e-5)
    assert set(draws[:, 0].tolist()) == {0.0, unit}
    assert set(draws[:, 1].tolist()) == {0.0, -unit}
    assert (draws[:, 0] > 0).double().mean() == pytest.approx(0.6, abs=0.03)
    assert (draws[:, 1] < 0).double().mean() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(
    "defense", [QSGD(levels=1, bucket=16), QSGD(levels=4, bucket=16), Quantize8Bit(), Quantize8Bit(rounding="nearest")]
)
def test_what_is_claimed_unbiased_is(defense: Compression) -> None:
    layout = layout_of((4, 4), (16,))
    values = rows(1, 32)
    draws = sealed(defense, values.expand(3000, -1), layout, range(3000)).values.double()
    error = (draws.mean(0) - values[0]).abs()
    # a rare step may never have been drawn: its chance is then some 1 / 3000, whatever the draws' deviation says
    step = (draws - values[0]).abs().max()
    within = bool((error <= 5 * draws.std(0) / 3000**0.5 + 20 * step / 3000).all())
    assert within == defense.unbiased
    if isinstance(defense, QSGD):
        # lemma 3.1 of the paper, per bucket: E|Q(v) - v|^2 <= min(b / s^2, sqrt(b) / s) |v|^2
        for start in (0, 16):
            part = values[0, start : start + 16]
            squares = (draws[:, start : start + 16] - part).square().sum(1).mean()
            bound = min(16 / defense.levels**2, 4 / defense.levels) * part.square().sum()
            assert squares <= 1.02 * bound


def test_the_largest_value_never_leaves_the_range_and_nearest_is_near() -> None:
    layout = layout_of((50,))
    for seed in range(20):
        values = rows(3, 50, seed) * 10.0 ** (seed - 10)
        sent = sealed(Quantize8Bit(rounding="nearest"), values, layout, (0, 1, 2))
        half = values.abs().amax(1, keepdim=True) / 127 / 2
        assert bool(((sent.values - values).abs() <= half * (1 + 1e-4)).all())


def test_a_row_off_the_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples"):
        GridCode(3, 3, torch.float32, (3,), 7).encode(torch.tensor([0.1, 0.25, -0.7]))
    unit, multiples = common_unit(np.array([0.5, -1.5, 0.0]))
    assert (unit, multiples.tolist()) == (0.5, [1, -3, 0])


def test_draws_belong_to_the_client_and_the_round() -> None:
    layout = layout_of((40,))
    values = rows(1, 40).repeat(2, 1)
    for defense in (QSGD(), Quantize8Bit()):
        both = sealed(defense, values, layout, (3, 8)).values
        assert not torch.equal(both[0], both[1])
        assert torch.equal(sealed(defense, values[:1], layout, (8,)).values[0], both[1])
        assert not torch.equal(sealed(defense, values[:1], layout, (8,), round=1).values[0], both[1])
