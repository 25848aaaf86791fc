"""Memory for large results: of the right kind, and every result that is made in it is as it was."""

import pytest
import torch

from fedsec.geometry import combine_many
from fedsec.pages import unfilled
from fedsec.randomness import generator


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_is_like_its_model_and_can_be_written(dtype):
    like = torch.zeros(3, 4, dtype=dtype)
    made = unfilled(5, 7, like)
    assert made.shape == (5, 7)
    assert made.dtype == dtype
    assert made.is_contiguous()
    made.fill_(2.0)
    assert float(made.double().sum()) == 70.0


def test_mixtures_of_large_rows_do_not_share_memory_with_them():
    rows = torch.randn(3, 1_500_000, generator=generator("pages"))
    before = rows.clone()
    for weights in (torch.eye(3), torch.full((3, 3), 1 / 3)):
        mixed = combine_many(rows, weights.double())
        torch.testing.assert_close(mixed, weights @ before, atol=1e-6, rtol=0)
        mixed.zero_()
        assert torch.equal(rows, before)
