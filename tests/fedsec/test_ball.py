import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.ball import lengths, project, steepest, uniform_in_ball

NORMS = ["linf", "l2", "l1"]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.sampled_from(NORMS), st.floats(0, 3))
def test_projection_is_inside_idempotent_and_nearest(seed, norm, eps):
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randn(5, 2, 3, generator=generator, dtype=torch.float64)
    inside = project(delta, eps, norm)
    # In l1 one size is subtracted from another: the rounding is that of the sizes, however small eps is.
    assert (lengths(inside, norm) <= eps * (1 + 1e-12) + 1e-14).all()
    assert torch.allclose(project(inside, eps, norm), inside)
    other = project(torch.randn(delta.shape, generator=generator, dtype=torch.float64), eps, norm)
    assert ((delta - inside).flatten(1).norm(dim=1) <= (delta - other).flatten(1).norm(dim=1) + 1e-9).all()


@pytest.mark.parametrize("norm", NORMS)
def test_steepest_has_length_one_and_no_direction_without_gradient(norm):
    gradient = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    gradient[1] = 0
    gradient[2] = torch.nan
    direction = steepest(gradient, norm)
    assert lengths(direction, norm).flatten().tolist() == pytest.approx([1, 0, 0])


def test_two_leading_dimensions_are_lanes_of_examples():
    delta = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    assert lengths(delta, "l2", lead=2).shape == (2, 3, 1, 1)
    for lane in range(2):
        assert torch.equal(project(delta, 0.7, "l2", lead=2)[lane], project(delta[lane], 0.7, "l2"))


def test_the_start_is_uniform_in_volume():
    generator = torch.Generator().manual_seed(2)
    unit, radius = torch.rand(20000, 3, generator=generator), torch.rand(20000, generator=generator)
    size = lengths(uniform_in_ball(unit, radius, 2.0, "l2"), "l2").flatten()
    assert size.max() <= 2 + 1e-5
    # half of a ball's volume lies within (1/2)^(1/3) of its radius
    assert (size < 2 * 0.5 ** (1 / 3)).float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert uniform_in_ball(unit, radius, 2.0, "linf").mean(0).abs().max() < 0.05


def test_the_l1_projection_is_that_of_a_slow_bisection():
    generator = torch.Generator().manual_seed(5)
    delta = torch.randn(30, 3, 5, generator=generator, dtype=torch.float64)
    for eps in (0.0, 0.5, 3.0, 50.0):
        for row, found in zip(delta, project(delta, eps, "l1"), strict=True):
            low, high = 0.0, float(row.abs().max())
            for _ in range(80):
                middle = (low + high) / 2
                low, high = (middle, high) if (row.abs() - middle).clamp_min(0).sum() > eps else (low, middle)
            expected = row if row.abs().sum() <= eps else row.sign() * (row.abs() - high).clamp_min(0)
            assert torch.allclose(found, expected, atol=1e-12)


def test_a_step_in_l1_goes_to_the_largest_hundredth_of_the_features():
    gradient = torch.arange(400.0).reshape(1, 20, 20) - 100
    direction = steepest(gradient, "l1").flatten()
    assert direction[-4:].tolist() == [0.25] * 4
    assert direction[:-4].abs().sum() == 0
    assert steepest(torch.tensor([[1.0, -3.0, 2.0]]), "l1").tolist() == [[0, -1, 0]]


def test_the_start_in_l1_is_uniform_in_volume():
    generator = torch.Generator().manual_seed(2)
    unit, radius = torch.rand(20000, 3, generator=generator), torch.rand(20000, generator=generator)
    drawn = uniform_in_ball(unit, radius, 2.0, "l1")
    size = lengths(drawn, "l1").flatten()
    assert size.max() <= 2 + 1e-5
    assert (size < 2 * 0.5 ** (1 / 3)).float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert drawn.mean(0).abs().max() < 0.02
    # a coordinate of the octahedron has density 3 (1 - |t|)^2 / 2 on its half-axis of length 1
    assert (drawn[:, 0].abs() < 1.0).float().mean().item() == pytest.approx(1 - 0.5**3, abs=0.02)
