"""FLAME: distances of models against slow cosines, clustering against a dendrogram, clipping, noise, its limits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import linkage, to_tree
from scipy.spatial.distance import squareform

from fedsec.defenses.aggregation.flame import Flame, densest_majority, flame, model_cosine_distances
from fedsec.models.flat import Layout, Slot
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import Cohort, RoundContext
from fedsec.randomness import generator
from fedsec.round_geometry import RoundGeometry

D = 50
LAYOUT = Layout((Slot("w", (D,), 0, D, True),))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "flame"))


def context(model, number=0):
    return RoundContext(
        round=number, rounds=5, clients=(), layout=LAYOUT, population=20, cohort=10.0, sampling="all", seed=1,
        model=model,
    )  # fmt: skip


def run(defense, values, ctx):
    return defense.aggregate(Cohort([(tuple(range(len(values))), Plain(values, torch.ones(len(values))))]), ctx)


def excluded(ctx):
    return {int(key.partition(":")[2]) for key in ctx.report if key.startswith("excluded:")}


def dendrogram_core(distances):
    """Follows the single-linkage tree down while one branch has more than half of the rows."""
    n = len(distances)
    node = to_tree(linkage(squareform(distances, checks=False), "single"))
    while not node.is_leaf():
        large = [child for child in (node.left, node.right) if child.count > n // 2]
        if not large:
            break
        node = large[0]
    found = np.zeros(n, dtype=bool)
    found[node.pre_order()] = True
    return found


@given(n=st.integers(3, 12), scale=st.sampled_from([1.0, 1e-2, 1e-4]), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_distances_are_one_minus_the_cosine_of_whole_models(n, scale, seed):
    U, model = scale * normal(n, D, seed=seed).double(), normal(D, seed=seed + 1).double()
    models = (model + U).numpy().astype(np.longdouble)
    lengths = np.sqrt((models * models).sum(1))
    expected = 1 - models @ models.T / np.outer(lengths, lengths)
    np.fill_diagonal(expected, 0)
    found = model_cosine_distances(RoundGeometry(U), model).numpy()
    np.testing.assert_allclose(found, expected.astype(float), rtol=1e-7, atol=1e-18)


def test_a_model_of_length_zero_is_at_a_right_angle():
    model = normal(D)
    U = torch.cat([normal(3, D, seed=1), -model.unsqueeze(0)])
    found = model_cosine_distances(RoundGeometry(U), model)
    assert found[3, :3].tolist() == [1.0, 1.0, 1.0]
    assert float(found[3, 3]) == 0.0


@given(n=st.integers(3, 16), seed=st.integers(0, 999))
@settings(deadline=None, max_examples=60)
def test_the_admitted_are_the_densest_majority_of_the_single_linkage_tree(n, seed):
    points = normal(n, 3, seed=seed)
    points[: n // 3] *= 3
    distances = torch.cdist(points.double(), points.double())
    found = densest_majority(distances)
    assert int(found.sum()) > n // 2
    assert found.tolist() == dendrogram_core(distances.numpy()).tolist()


@pytest.mark.parametrize("same", [3, 6, 10])
def test_identical_rows_are_a_group_like_any_other(same):
    points = normal(10, 3).double()
    points[:same] = points[0]
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    found = densest_majority(distances)
    assert int(found.sum()) > 5
    if same > 5:
        assert found.tolist() == [True] * same + [False] * (10 - same)


def test_rows_are_clipped_to_the_median_norm_of_all_rows():
    """All point one way (no distance), the lengths are 1, 1, 1, 2 and 100: the median is 1."""
    direction = torch.nn.functional.normalize(normal(1, D), dim=1)
    U = direction * torch.tensor([1.0, 1.0, 1.0, 2.0, 100.0]).unsqueeze(1)
    torch.testing.assert_close(flame(U, model=torch.zeros(D), noise=0.0), direction[0])


def test_backdoored_models_far_in_direction_are_dropped():
    """Directions are of whole models: on a model of some length, a small turned update hides, a long one does not."""
    model, aim = 5 * torch.nn.functional.normalize(normal(1, D), dim=1)[0], normal(D, seed=2)
    honest = 0.3 * aim / aim.norm() + 0.05 * normal(7, D, seed=3)
    bad = -2.0 * aim / aim.norm() + 0.05 * normal(3, D, seed=4)
    ctx = context(model)
    result = run(Flame(noise=0.0), torch.cat([honest, bad]), ctx)
    assert {7, 8, 9} <= excluded(ctx)
    assert float(result.values[0] @ aim) > 0
    assert min(ctx.report[f"score:{c}"] for c in (7, 8, 9)) > max(ctx.report[f"score:{c}"] for c in range(7))


def test_up_to_half_of_the_honest_are_dropped_without_any_attack():
    ctx = context(normal(D))
    run(Flame(), 0.1 * normal(11, D, seed=5), ctx)
    assert 0 < len(excluded(ctx)) <= 5


def test_a_majority_of_attackers_is_what_it_keeps():
    aim = normal(1, D, seed=6)
    honest = aim + 0.3 * normal(4, D, seed=7)
    ctx = context(torch.zeros(D))
    result = run(Flame(noise=0.0), torch.cat([honest, -aim.repeat(6, 1)]), ctx)
    assert excluded(ctx) == {0, 1, 2, 3}
    assert float(result.values[0] @ aim[0]) < 0


def test_noise_is_in_proportion_to_the_median_norm_and_new_each_round():
    U, model = normal(9, 4000), normal(4000, seed=1)
    clean = flame(U, model=model, noise=0.0)
    noisy = flame(U, model=model, noise=0.01, generator=generator(3, "noise"))
    deviation = float((noisy - clean).std())
    assert deviation == pytest.approx(0.01 * float(U.norm(dim=1).median()), rel=0.05)
    with pytest.raises(ValueError, match="generator"):
        flame(U, model=model, noise=0.01)
    small, ground = normal(9, D), normal(D, seed=1)
    first, again, later = (run(Flame(noise=0.1), small, context(ground, number)).values for number in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)


def test_it_says_so_if_it_is_not_told_the_model():
    with pytest.raises(ValueError, match="global one"):
        run(Flame(), normal(5, D), context(None))


def test_the_input_is_not_changed():
    U = normal(7, D)
    before = U.clone()
    flame(U, model=normal(D, seed=1), noise=0.0)
    assert torch.equal(U, before)
