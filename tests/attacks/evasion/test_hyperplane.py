import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import nn

from fedsec.attacks.evasion.hyperplane import opened, size, toward_plane


def problem(seed, dim=7, share=0.6):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(1, dim, generator=generator, dtype=torch.float64)
    x[0, 0], x[0, 1] = 0.0, 1.0
    w = torch.randn(1, dim, generator=generator, dtype=torch.float64)
    w[0, 2] = 0.0
    reach = torch.where(w > 0, w * (1 - x), -w * x).sum()
    sign = 1 if seed % 2 else -1
    return x, sign * w, sign * share * reach


def shortest(x, w, rise, norm):
    """The least norm of a step onto the plane inside the unit box, by linear programming or by bisection."""
    x, w, dim = x[0].numpy(), w[0].numpy(), x.shape[1]
    if norm == "l2":
        low, high = 0.0, 1e6
        step = None
        for _ in range(200):
            middle = (low + high) / 2
            step = (middle * (w if rise > 0 else -w)).clip(-x, 1 - x)
            low, high = (middle, high) if abs(step @ w) < abs(rise) else (low, middle)
        return float((step**2).sum() ** 0.5)
    # Variables: step parts up and down, and (linf) the largest size.
    bounds = [(0, 1 - v) for v in x] + [(0, v) for v in x]
    equal, cost = [*w, *(-w)], [1.0] * (2 * dim)
    if norm == "l1":
        return linprog(cost, A_eq=[equal], b_eq=[rise], bounds=bounds).fun
    rows = [[*(1.0 if j in (i, i + dim) else 0.0 for j in range(2 * dim)), -1.0] for i in range(dim)]
    return linprog(
        [0.0] * (2 * dim) + [1.0],
        A_ub=rows,
        b_ub=[0.0] * dim,
        A_eq=[[*equal, 0.0]],
        b_eq=[rise],
        bounds=[*bounds, (0, None)],
    ).fun


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), share=st.floats(0.01, 0.99), norm=st.sampled_from(["linf", "l2", "l1"]))
def test_the_step_reaches_the_plane_inside_the_box_and_none_is_shorter(seed, share, norm):
    x, w, rise = problem(seed, share=share)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    step = toward_plane(x, w, rise[None], zero, one, norm)
    assert float((step * w).sum()) == pytest.approx(float(rise), rel=1e-9, abs=1e-9)
    assert (x + step).min() >= -1e-12
    assert (x + step).max() <= 1 + 1e-12
    assert float(size(step, norm)) == pytest.approx(shortest(x, w, float(rise), norm), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_an_unreachable_plane_gives_the_nearest_corner_and_no_normal_no_step(norm):
    x, w, rise = problem(3, share=5.0)
    step = toward_plane(x, w, rise[None], torch.zeros_like(x), torch.ones_like(x), norm)
    corner = torch.where(w * rise > 0, 1.0, 0.0)
    moved = w != 0
    assert torch.allclose((x + step)[moved], corner.double()[moved])
    assert (step[~moved] == 0).all()
    still = toward_plane(x, torch.zeros_like(w), rise[None], torch.zeros_like(x), torch.ones_like(x), norm)
    assert (still == 0).all()


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", torch.inf)])
def test_without_bounds_the_distance_is_that_of_the_dual_norm(norm, dual):
    x, w, rise = problem(5)
    far = torch.full_like(x, torch.inf)
    step = toward_plane(x, w, rise[None], -far, far, norm)
    assert float((step * w).sum()) == pytest.approx(float(rise))
    assert float(size(step, norm)) == pytest.approx(float(rise.abs() / w.norm(p=dual)))


def test_all_classes_gradients_come_from_one_pass():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    x = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    logits, pull = opened(net, x)
    found = pull(torch.eye(3)[:, None].expand(3, 5, 3))
    leaf = x.clone().requires_grad_()
    truth = torch.stack([torch.autograd.grad(net(leaf)[:, k].sum(), leaf)[0] for k in range(3)])
    assert torch.equal(logits, net(x))
    assert torch.allclose(found, truth, atol=1e-6)
