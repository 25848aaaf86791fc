"""The aggregating defenses around their rules: cohort sizes, reports, bad rows, state."""

import pytest
import torch

from fedsec.defenses.aggregation import (
    centered_clipping,
    coordinate_median,
    geometric_median,
    krum,
    multi_krum,
    trimmed_mean,
)
from fedsec.defenses.aggregation.centre_rules import CenteredClipping, GeometricMedian
from fedsec.defenses.aggregation.coordinate_rules import CoordinateMedian, TrimmedMean
from fedsec.defenses.aggregation.foolsgold import FoolsGold
from fedsec.defenses.aggregation.neighbour_rules import Krum, MultiKrum
from fedsec.models.flat import Layout, Slot
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import Cohort, RoundContext, Setting
from fedsec.randomness import generator

LAYOUT = Layout((Slot("w", (6,), 0, 6, True),))
ALL = (Krum(), MultiKrum(), CoordinateMedian(), TrimmedMean(), GeometricMedian(), CenteredClipping(), FoolsGold())


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "plugins"))


def context(state=None):
    return RoundContext(
        round=0, rounds=5, clients=(), layout=LAYOUT, population=20, cohort=10.0, sampling="all", seed=1,
        state={} if state is None else state,
    )  # fmt: skip


def setting(cohort):
    return Setting(
        population=20, cohort=cohort, rounds=5, sampling="fixed", layout=LAYOUT, local_steps=1, batch_size=None,
        has_batch_norm=False, task="classification", bounds=None, stack=(),
    )  # fmt: skip


def run(defense, values, ctx=None, weights=None):
    clients = tuple(range(10, 10 + len(values)))
    weights = torch.ones(len(values)) if weights is None else weights
    # two chunks, as a large federation would send them
    half = len(values) // 2
    chunks = [
        (clients[:half], Plain(values[:half], weights[:half])),
        (clients[half:], Plain(values[half:], weights[half:])),
    ]
    return defense.aggregate(Cohort(chunks), context() if ctx is None else ctx)


@pytest.mark.parametrize(
    ("defense", "rule"),
    [
        (Krum(), lambda U: krum(U, f=2)),
        (MultiKrum(), lambda U: multi_krum(U, f=2)),
        (MultiKrum(f=1, m=3), lambda U: multi_krum(U, f=1, m=3)),
        (CoordinateMedian(), coordinate_median),
        (TrimmedMean(), lambda U: trimmed_mean(U, f=2)),
        (GeometricMedian(), geometric_median),
        (CenteredClipping(tau=0.5, iterations=2), lambda U: centered_clipping(U, tau=0.5, iterations=2)),
    ],
)
def test_a_defense_is_its_rule(defense, rule):
    U = normal(10, 6)
    before = U.clone()
    result = run(defense, U)
    assert result.values.shape == (1, 6)
    assert result.weights.shape == (1,)
    torch.testing.assert_close(result.values[0], rule(U), rtol=1e-5, atol=1e-6)
    assert torch.equal(U, before)


def test_weight_of_what_was_used_and_who_was_excluded():
    U = 0.1 * normal(10, 6)
    U[3] = 50.0
    weights = torch.arange(1.0, 11.0)
    ctx = context()
    result = run(MultiKrum(f=1), U, ctx, weights)
    assert ctx.report["selected"] == 9.0
    assert [key for key in ctx.report if key.startswith("excluded")] == ["excluded:13"]
    assert result.weights.tolist() == [55.0 - 4.0]
    ctx = context()
    result = run(Krum(f=1), U, ctx, weights)
    assert sum(key.startswith("excluded") for key in ctx.report) == 9


@pytest.mark.parametrize("defense", ALL, ids=lambda d: d.name)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_rows_that_are_not_finite_are_dropped_and_reported(defense, bad):
    U = normal(10, 6)
    broken = U.clone()
    broken[4, 2] = bad
    ctx = context()
    result = run(defense, broken, ctx)
    assert ctx.report["excluded:14"] == 1.0
    assert ctx.report["not finite"] == 1.0
    torch.testing.assert_close(result.values, run(defense, U[[0, 1, 2, 3, 5, 6, 7, 8, 9]]).values)


@pytest.mark.parametrize("defense", ALL, ids=lambda d: d.name)
def test_a_round_without_a_finite_row_is_skipped(defense):
    ctx = context()
    result = run(defense, torch.full((3, 6), float("nan")), ctx)
    assert not result.values.any()
    assert ctx.report["skipped"] == 1.0


@pytest.mark.parametrize(
    ("defense", "n", "used"), [(Krum(f=3), 6, 1), (MultiKrum(f=3), 3, 0), (TrimmedMean(f=3), 4, 1)]
)
def test_small_cohorts_lower_f_and_say_so(defense, n, used):
    ctx = context()
    run(defense, normal(n, 6), ctx)
    assert ctx.report["f"] == float(used)
    assert ctx.report["f wanted"] == 3.0


def test_krum_skips_a_cohort_that_it_cannot_judge():
    ctx = context()
    assert not run(Krum(), normal(2, 6), ctx).values.any()
    assert ctx.report["skipped"] == 1.0


@pytest.mark.parametrize(
    ("defense", "cohort", "refused"),
    [
        (Krum(), 10, False),
        (Krum(), 4, True),
        (MultiKrum(f=4), 10, True),
        (MultiKrum(f=3), 9, False),
        (TrimmedMean(f=5), 10, True),
        (TrimmedMean(), 3, False),
        (CoordinateMedian(), 1, False),
        (FoolsGold(), 1, True),
    ],
)
def test_cohorts_too_small_are_refused_beforehand(defense, cohort, refused):
    problems = defense.problems(setting(float(cohort)))
    assert bool(problems) == refused
    for found, hint in problems:
        assert defense.name in found
        assert hint


def test_centered_clipping_remembers_the_previous_aggregate():
    state = {}
    first = run(CenteredClipping(tau=0.5), normal(8, 6), context(state)).values[0]
    torch.testing.assert_close(state["previous"], first)
    U = normal(8, 6, seed=1)
    second = run(CenteredClipping(tau=0.5), U, context(state)).values[0]
    torch.testing.assert_close(second, centered_clipping(U, tau=0.5, start=first))


def test_the_automatic_radius_is_not_moved_by_a_minority():
    U = normal(9, 6)
    clean, attacked = context(), context()
    run(CenteredClipping(), U, clean)
    U[:4] = 1e6
    result = run(CenteredClipping(), U, attacked)
    assert attacked.report["tau"] < 2 * clean.report["tau"]
    assert float(result.values.norm()) < 2 * clean.report["tau"]


def test_robust_rules_cannot_help_where_attackers_are_the_majority():
    U = 0.1 * normal(9, 6)
    U[:5] = 7.0
    for defense in (Krum(), MultiKrum(), CoordinateMedian(), TrimmedMean(), GeometricMedian()):
        assert float(run(defense, U).values.max()) > 1.0
