import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from fedsec.attacks.inversion.lbfgs import History, minimise_lanes
from fedsec.randomness import generator


def quadratics(lanes, n, *, condition, seed=0):
    """``x' A x / 2 - b' x`` per lane, with eigenvalues from 1 to ``condition``, and its minimisers."""
    draw = generator(seed, "quadratics")
    basis = torch.linalg.qr(torch.randn(lanes, n, n, generator=draw, dtype=torch.float64)).Q
    spectrum = torch.logspace(0, float(np.log10(condition)), n, dtype=torch.float64)
    matrix = basis @ torch.diag_embed(spectrum.expand(lanes, n)) @ basis.mT
    linear = torch.randn(lanes, n, generator=draw, dtype=torch.float64)

    def problem(rows):
        a, b = matrix[rows], linear[rows]

        def objective(x):
            product = (a @ x.unsqueeze(2)).squeeze(2)
            return (0.5 * x * product - b * x).sum(1), product - b

        return objective

    return problem, torch.linalg.solve(matrix, linear)


def rosenbrock(rows):
    def objective(x):
        a, b = x[:, :-1], x[:, 1:]
        slope = torch.zeros_like(x)
        slope[:, :-1] += -400 * a * (b - a**2) - 2 * (1 - a)
        slope[:, 1:] += 200 * (b - a**2)
        return (100 * (b - a**2) ** 2 + (1 - a) ** 2).sum(1), slope

    return objective


def scipy_of(problem, x, lane):
    """SciPy's L-BFGS-B on one lane."""
    objective = problem(torch.tensor([lane]))

    def both(z):
        value, slope = objective(torch.from_numpy(z).unsqueeze(0))
        return float(value), slope.squeeze(0).numpy()

    options = {"maxcor": 20, "ftol": 0.0, "gtol": 1e-9}
    return minimize(both, x.numpy(), jac=True, method="L-BFGS-B", options=options)


@pytest.mark.parametrize("condition", [1.0, 10.0, 100.0])
def test_quadratics_end_after_as_many_steps_as_variables(condition):
    n = 12
    problem, truth = quadratics(5, n, condition=condition)
    start = torch.zeros(5, n, dtype=torch.float64)
    found = minimise_lanes(problem, start, evaluations=100, curvature=1e-6)
    assert int(found.iterations.max()) <= n + 3
    assert torch.allclose(found.x, truth, rtol=0, atol=1e-9)
    for lane in range(5):
        peer = scipy_of(problem, start[lane], lane)
        # At machine precision the value has half the digits of the point to spare.
        assert float(found.value[lane]) == pytest.approx(peer.fun, rel=1e-14)
        assert np.allclose(found.x[lane].numpy(), peer.x, atol=1e-6)


def test_a_loose_line_search_needs_no_more_evaluations_than_scipy():
    problem, truth = quadratics(6, 12, condition=100.0)
    start = torch.zeros(6, 12, dtype=torch.float64)
    found = minimise_lanes(problem, start, evaluations=200)
    peers = [scipy_of(problem, start[lane], lane).nfev for lane in range(6)]
    assert int(found.evaluations.sum()) <= sum(peers)
    assert torch.allclose(found.x, truth, atol=1e-5)


def test_rosenbrock_ends_in_a_minimum_as_scipy_does():
    start = 2 * torch.randn(8, 10, generator=generator(0, "rosenbrock"), dtype=torch.float64)
    found = minimise_lanes(rosenbrock, start, evaluations=400)
    _, slope = rosenbrock(None)(found.x)
    assert float(slope.abs().max()) < 1e-4
    for lane in range(8):
        # The function has two minima: the global one, at 0, and one near 3.99.
        assert min(abs(float(found.value[lane])), abs(float(found.value[lane]) - 3.98658)) < 1e-3
        assert scipy_of(rosenbrock, start[lane], lane).fun == pytest.approx(float(found.value[lane]), abs=1e-8)
    assert int((found.value < 1e-10).sum()) >= 5


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_a_lane_does_not_depend_on_the_others(seed, alone):
    start = 2 * torch.randn(6, 4, generator=generator(seed, "lanes"), dtype=torch.float64)
    start[0] = 1  # a lane that drops out at once
    together = minimise_lanes(rosenbrock, start, evaluations=60)
    single = minimise_lanes(rosenbrock, start[alone : alone + 1], evaluations=60)
    assert torch.allclose(together.x[alone], single.x[0], rtol=0, atol=1e-6)
    assert int(together.evaluations[alone]) == int(single.evaluations[0])
    assert int(together.iterations[alone]) == int(single.iterations[0])


def two_loops(pairs, gradient):
    """Nocedal and Wright, algorithm 7.4, as it is printed."""
    q, kept = gradient.clone(), []
    for s, y in reversed(pairs):
        alpha = (s @ q) / (s @ y)
        kept.append(alpha)
        q = q - alpha * y
    if pairs:
        s, y = pairs[-1]
        q = q * (s @ y) / (y @ y)
    for (s, y), alpha in zip(pairs, reversed(kept), strict=True):
        q = q + s * (alpha - (y @ q) / (s @ y))
    return -q


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_the_triangular_recursion_is_the_two_loop_recursion(seed, size):
    draw = generator(seed, "recursion")
    lanes, n = 3, 5
    memory = History(torch.zeros(lanes, n, dtype=torch.float64), size)
    pairs = [[] for _ in range(lanes)]
    for _ in range(7):
        pushed = torch.rand(lanes, generator=draw) < 0.7
        step, change = torch.randn(2, lanes, n, generator=draw, dtype=torch.float64)
        memory.push(pushed, step, change)
        emptied = torch.rand(lanes, generator=draw) < 0.1
        memory.forget(emptied)
        for lane in range(lanes):
            s, y = step[lane], change[lane]
            if bool(pushed[lane]) and float(s @ y) > 1e-15 * float(s.norm() * y.norm()):
                pairs[lane] = [*pairs[lane], (s, y)][-size:]
            if bool(emptied[lane]):
                pairs[lane] = []
    gradient = torch.randn(lanes, n, generator=draw, dtype=torch.float64)
    found = memory.direction(gradient)
    for lane in range(lanes):
        assert torch.allclose(found[lane], two_loops(pairs[lane], gradient[lane]), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("evaluations", [1, 2, 7, 30])
def test_the_budget_is_kept_and_the_best_point_returned(evaluations):
    seen = []

    def problem(rows):
        inner = rosenbrock(rows)

        def objective(x):
            value, slope = inner(x)
            seen.append((rows, x, value))
            return value, slope

        return objective

    start = torch.randn(4, 6, generator=generator(3), dtype=torch.float64)
    found = minimise_lanes(problem, start, evaluations=evaluations)
    assert len(seen) == evaluations
    assert found.evaluations.tolist() == [evaluations] * 4
    for lane in range(4):
        points = [(float(v[i]), x[i]) for rows, x, v in seen for i in (rows == lane).nonzero().flatten()]
        value, x = min(points, key=lambda point: point[0])
        assert float(found.value[lane]) == value
        assert torch.equal(found.x[lane], x)


def test_lanes_that_converged_are_evaluated_no_more():
    sizes = []

    def problem(rows):
        inner = rosenbrock(rows)

        def objective(x):
            sizes.append(len(x))
            return inner(x)

        return objective

    start = torch.ones(4, 6, dtype=torch.float64)
    start[2] = -1
    found = minimise_lanes(problem, start, evaluations=200)
    assert sizes[0] == 4
    assert set(sizes[1:]) == {1}
    assert found.evaluations.tolist()[:2] == [1, 1]
    assert found.iterations.tolist() == [0, 0, int(found.iterations[2]), 0]


def test_not_finite_is_a_step_too_far_and_a_lane_that_starts_there_is_given_up():
    def problem(rows):
        def objective(x):
            return (x - x.log()).sum(1), 1 - 1 / x

        return objective

    start = torch.tensor([[0.02, 3.0], [-1.0, 1.0], [50.0, 0.5]], dtype=torch.float64)
    found = minimise_lanes(problem, start, evaluations=100)
    assert torch.allclose(found.x[[0, 2]], torch.ones(2, 2, dtype=torch.float64), atol=1e-5)
    assert float(found.value[1]) == torch.inf
    assert torch.equal(found.x[1], start[1])
    assert int(found.evaluations[1]) == 1


def test_a_wrong_slope_stalls_and_ends():
    def problem(rows):
        return lambda x: (x.square().sum(1), -2 * x)

    start = torch.ones(2, 3, dtype=torch.float64)
    found = minimise_lanes(problem, start, evaluations=1000)
    assert int(found.evaluations.max()) <= 45
    assert torch.equal(found.x, start)
