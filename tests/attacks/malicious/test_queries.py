import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.attacks.malicious.queries import (
    alone,
    brightness,
    cosine_mode,
    gaussian_quantiles,
    share_alone,
    shares_below,
    smoothed_quantiles,
)
from fedsec.randomness import generator


def test_brightness_is_the_mean():
    x = torch.rand(3, 2, 4, 5, dtype=torch.float64)
    assert torch.allclose(x.flatten(1) @ brightness((2, 4, 5)), x.flatten(1).mean(1))


def test_cosine_modes_are_orthogonal_and_the_first_is_the_mean():
    shape = (2, 4, 6)
    modes = [cosine_mode(shape, (u, v)) for u in range(3) for v in range(3)]
    gram = torch.stack(modes) @ torch.stack(modes).T
    assert torch.allclose(gram - gram.diag().diag(), torch.zeros_like(gram), atol=1e-12)
    assert torch.allclose(modes[0], brightness(shape))
    assert all(float(mode.abs().sum()) == pytest.approx(1.0) for mode in modes)
    assert cosine_mode((7,), (0, 2)).shape == (7,)
    with pytest.raises(ValueError, match="not one of"):
        cosine_mode((7,), (1, 0))


def test_smoothed_quantiles_of_a_normal_sample_are_those_of_the_normal_distribution():
    sample = 2 + 3 * torch.randn(4000, generator=generator(0), dtype=torch.float64)
    shares = shares_below(20)
    assert torch.allclose(smoothed_quantiles(sample, shares), gaussian_quantiles(2, 3, shares), atol=0.3)


def test_smoothing_makes_bins_of_more_equal_mass_than_sample_quantiles():
    draw = generator(1)
    sample = torch.randn(600, generator=draw, dtype=torch.float64)
    shares = shares_below(200)
    many = torch.randn(400_000, generator=draw, dtype=torch.float64)

    def unevenness(edges):
        return float(torch.bincount(torch.bucketize(many, edges), minlength=200).double().std())

    assert unevenness(smoothed_quantiles(sample, shares)) < 0.7 * unevenness(torch.quantile(sample, shares))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(2, 9))
def test_who_is_alone_against_counting(seed, examples, bins):
    draw = generator(seed)
    values = torch.rand(examples, generator=draw, dtype=torch.float64)
    edges = torch.rand(bins - 1, generator=draw, dtype=torch.float64).sort().values
    places = [sum(float(edge) < float(value) for edge in edges) for value in values]
    counts = Counter(places)
    assert alone(values, edges).tolist() == [counts[place] == 1 for place in places]


@pytest.mark.parametrize(
    ("examples", "bins", "share"),
    [(64, 64, 0.371), (64, 128, 0.610), (64, 256, 0.781), (64, 512, 0.884), (64, 1024, 0.940), (8, 64, 0.896)],
)
def test_the_share_alone_in_closed_form_and_by_simulation(examples, bins, share):
    assert share_alone(examples, bins) == pytest.approx(share, abs=6e-4)
    draw = generator(examples, bins)
    edges = shares_below(bins)
    drawn = torch.stack([alone(torch.rand(examples, generator=draw), edges).double().mean() for _ in range(400)])
    assert float(drawn.mean()) == pytest.approx(share, abs=4 * float(drawn.std()) / math.sqrt(400) + 1e-3)
