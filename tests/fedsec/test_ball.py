import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.ball import lengths, project, steepest, uniform_in_ball

NORMS = ["linf", "l2"]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.sampled_from(NORMS), st.floats(0, 3))
def test_projection_is_inside_idempotent_and_nearest(seed, norm, eps):
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randn(5, 2, 3, generator=generator, dtype=torch.float64)
    inside = project(delta, eps, norm)
    assert (lengths(inside, norm) <= eps * (1 + 1e-12)).all()
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
