"""SignGuard: sign shares, the norm filter, the largest group, clipping, and what passes it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.defenses.aggregation.signguard import SignGuard, guarded, largest_group, sign_statistics, signguard
from fedsec.models.flat import Layout, Slot
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import Cohort, RoundContext
from fedsec.randomness import generator
from fedsec.round_geometry import RoundGeometry

D = 400
LAYOUT = Layout((Slot("w", (D,), 0, D, True),))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "signguard"))


def honest(n, seed=0):
    """Three of four values are positive."""
    aim = torch.where(torch.arange(D) % 4 == 0, -1.0, 1.0)
    return aim + 0.5 * normal(n, D, seed=seed)


def run(defense, values, seed=1):
    ctx = RoundContext(
        round=0, rounds=5, clients=(), layout=LAYOUT, population=20, cohort=10.0, sampling="all", seed=seed
    )  # fmt: skip
    result = defense.aggregate(Cohort([(tuple(range(len(values))), Plain(values, torch.ones(len(values))))]), ctx)
    return result, ctx, {int(key.partition(":")[2]) for key in ctx.report if key.startswith("excluded:")}


@given(n=st.integers(1, 6), d=st.integers(1, 50), seed=st.integers(0, 99), some=st.booleans())
@settings(deadline=None, max_examples=30)
def test_sign_shares(n, d, seed, some):
    U = normal(n, d, seed=seed).round()
    chosen = torch.randperm(d, generator=generator(seed, "chosen"))[: max(1, d // 2)] if some else None
    part = (U if chosen is None else U[:, chosen]).numpy()
    expected = np.stack([(part > 0).mean(1), (part == 0).mean(1), (part < 0).mean(1)], axis=1)
    np.testing.assert_allclose(sign_statistics(U, chosen).numpy(), expected, atol=1e-12)


def test_the_largest_group_is_found_and_distances_are_in_bandwidths():
    points = torch.tensor([[0.0], [0.1], [0.2], [0.1], [0.15], [5.0], [5.1]], dtype=torch.float64)
    group, away = largest_group(points)
    assert group.tolist() == [True] * 5 + [False] * 2
    assert float(away[:5].max()) < 1 < float(away[5:].min())


def test_one_point_is_a_group():
    group, away = largest_group(torch.ones(4, 3, dtype=torch.float64))
    assert group.all()
    assert not away.any()
    assert largest_group(torch.ones(1, 3, dtype=torch.float64))[0].tolist() == [True]


def test_norms_outside_the_bounds_are_dropped_and_long_ones_clipped_to_the_median():
    """All rows point one way; norms are 1, 1, 1, 2, 3.5 and 0.05 medians."""
    row = torch.nn.functional.normalize(honest(1), dim=1)
    U = row * torch.tensor([1.0, 1.0, 1.0, 1.0, 2.0, 3.5, 0.05]).unsqueeze(1)
    found = guarded(RoundGeometry(U))
    assert found.kept.tolist() == [True] * 5 + [False] * 2
    assert found.limit == pytest.approx(1.0, rel=1e-6)
    assert (found.suspicion[5:] > 1).all()
    assert (found.suspicion[:5] < 1).all()
    torch.testing.assert_close(signguard(U), row[0])


@pytest.mark.parametrize("defense", [SignGuard(), SignGuard(share=1.0)])
def test_flipped_signs_are_dropped(defense):
    result, ctx, excluded = run(defense, torch.cat([honest(8), -honest(3, seed=1)]))
    assert {8, 9, 10} <= excluded
    assert len(excluded) <= 5
    assert min(ctx.report[f"score:{c}"] for c in (8, 9, 10)) > 1
    assert float(result.values[0] @ honest(1)[0]) > 0


def test_an_attack_that_keeps_the_shares_of_signs_passes():
    """Values of honest updates change places: another direction, and the statistics of those updates."""
    good = honest(8)
    _, _, excluded = run(SignGuard(share=1.0), torch.cat([good, good[:3].roll(1, dims=1)]))
    assert [row + 8 in excluded for row in range(3)] == [row in excluded for row in range(3)]
    assert not {8, 9, 10} <= excluded


def test_a_majority_of_attackers_is_the_largest_group():
    result, _, excluded = run(SignGuard(), torch.cat([honest(4), -honest(7, seed=1)]))
    assert {0, 1, 2, 3} <= excluded
    assert float(result.values[0] @ honest(1)[0]) < 0


def test_it_is_its_rule_when_all_signs_count_and_the_input_stays():
    U = torch.cat([honest(8), -2 * honest(3, seed=1)])
    before = U.clone()
    torch.testing.assert_close(run(SignGuard(share=1.0), U)[0].values[0], signguard(U))
    assert torch.equal(U, before)


def test_zero_updates_give_zero():
    assert not run(SignGuard(), torch.zeros(4, D))[0].values.any()
