"""Pre-aggregators around their matrices: one Gram per round, who stands behind a row, what is refused."""

import pytest
import torch

from fedsec import geometry
from fedsec.defenses.aggregation import (
    adaptive_clipping,
    bucketing,
    coordinate_median,
    krum,
    multi_krum,
    nearest_neighbor_mixing,
    trimmed_mean,
)
from fedsec.defenses.aggregation.coordinate_rules import CoordinateMedian, TrimmedMean
from fedsec.defenses.aggregation.foolsgold import FoolsGold
from fedsec.defenses.aggregation.mixing_stages import AdaptiveClipping, Bucketing, NearestNeighborMixing
from fedsec.defenses.aggregation.neighbour_rules import Krum, MultiKrum
from fedsec.defenses.encryption.ckks import CKKS
from fedsec.models.flat import Layout, Slot
from fedsec.protocol.compose import check_stack
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import Cohort, RoundContext, Setting
from fedsec.randomness import generator
from fedsec.round_geometry import matrix_of

LAYOUT = Layout((Slot("w", (6,), 0, 6, True),))
MIXERS = (NearestNeighborMixing(), Bucketing(), AdaptiveClipping())


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "mixing"))


def context(cohort=None, number=0):
    return RoundContext(
        round=number, rounds=5, clients=(), layout=LAYOUT, population=20, cohort=10.0, sampling="all", seed=1,
        members={} if cohort is None else cohort.members,
    )  # fmt: skip


def setting(cohort, stack=()):
    return Setting(
        population=20, cohort=cohort, rounds=5, sampling="fixed", layout=LAYOUT, local_steps=1, batch_size=None,
        has_batch_norm=False, task="classification", bounds=None, stack=tuple(d.name for d in stack),
    )  # fmt: skip


def cohort_of(values, weights=None):
    clients = tuple(range(10, 10 + len(values)))
    return Cohort([(clients, Plain(values, torch.ones(len(values)) if weights is None else weights))])


def through(stack, values, number=0):
    """The stack's aggregate and the contexts of its stages."""
    cohort, contexts = cohort_of(values), []
    for stage in stack[:-1]:
        contexts.append(context(cohort, number))
        cohort = stage.preaggregate(cohort, contexts[-1])
    contexts.append(context(cohort, number))
    return stack[-1].aggregate(cohort, contexts[-1]).values[0], contexts


def excluded(ctx):
    return {int(key.partition(":")[2]) for key in ctx.report if key.startswith("excluded:")}


def scored(ctx):
    return {int(key.partition(":")[2]) for key in ctx.report if key.startswith("score:")}


@pytest.mark.parametrize(
    ("stack", "expected"),
    [
        ((NearestNeighborMixing(), MultiKrum()), lambda U: multi_krum(nearest_neighbor_mixing(U, f=2), f=2)),
        ((NearestNeighborMixing(f=1), Krum(f=1)), lambda U: krum(nearest_neighbor_mixing(U, f=1), f=1)),
        ((AdaptiveClipping(), TrimmedMean()), lambda U: trimmed_mean(adaptive_clipping(U, f=2), f=2)),
        (
            (AdaptiveClipping(), NearestNeighborMixing(), CoordinateMedian()),
            lambda U: coordinate_median(nearest_neighbor_mixing(adaptive_clipping(U, f=2), f=2)),
        ),
    ],
)
def test_a_stack_is_the_composition_of_its_rules(stack, expected):
    U = normal(10, 6) * torch.arange(1.0, 11.0).unsqueeze(1)
    before = U.clone()
    torch.testing.assert_close(through(stack, U)[0], expected(U), rtol=1e-5, atol=1e-6)
    assert torch.equal(U, before)


def test_mixing_and_multi_krum_form_one_gram_of_the_rows(monkeypatch):
    formed = []
    original = geometry.gram

    def counted(rows, **options):
        formed.append(rows.shape)
        return original(rows, **options)

    monkeypatch.setattr(geometry, "gram", counted)
    through((NearestNeighborMixing(), MultiKrum()), normal(10, 6))
    # a sample of coordinates may be looked at to find a centre
    assert len([shape for shape in formed if shape == (10, 6)]) <= 2
    assert all(shape[0] == 10 for shape in formed)


def test_a_mixed_row_still_stands_for_its_client():
    U = 0.1 * normal(10, 6)
    U[3] += 50.0
    _, (_, ctx) = through((NearestNeighborMixing(f=1), MultiKrum(f=1)), U)
    assert len(excluded(ctx)) == 1
    assert scored(ctx) == set(range(10, 20))


def test_buckets_are_drawn_anew_each_round_and_hold_everybody_once():
    U = normal(9, 6)
    seen = []
    for number in (0, 0, 1):
        ctx = context(number=number)
        mixed = Bucketing(s=2).preaggregate(cohort_of(U), ctx)
        clients, payload = mixed.matrix()
        groups = [mixed.members[client] for client in clients]
        assert sorted(sum(groups, ())) == list(range(10, 19))
        assert sorted(len(group) for group in groups) == [1, 2, 2, 2, 2]
        for group, row in zip(groups, payload.values, strict=True):
            torch.testing.assert_close(row, U[[client - 10 for client in group]].mean(dim=0))
        seen.append(groups)
    assert seen[0] == seen[1] != seen[2]
    expected = bucketing(U, s=2, generator=context().generator("buckets"))
    torch.testing.assert_close(Bucketing(s=2).preaggregate(cohort_of(U), context()).matrix()[1].values, expected)


def test_a_dropped_bucket_drops_everybody_in_it_and_f_counts_identities():
    U = 0.1 * normal(12, 6)
    U[3] += 50.0
    _, (_, ctx) = through((Bucketing(s=2), MultiKrum(f=1)), U)
    assert 13 in excluded(ctx)
    assert len(excluded(ctx)) == 2
    assert scored(ctx) == set(range(10, 22))
    _, (_, ctx) = through((Bucketing(s=2), TrimmedMean(fraction=0.2)), U)
    assert ctx.report["f wanted"] == 3.0  # ceil(0.2 * 12), of six buckets
    assert ctx.report["f"] == 2.0


def test_buckets_after_buckets_still_know_who_is_in_them():
    cohort = Bucketing(s=2).preaggregate(cohort_of(normal(8, 6)), context())
    again = Bucketing(s=2).preaggregate(cohort, context(cohort))
    clients, _ = again.matrix()
    assert sorted(sum((again.members[client] for client in clients), ())) == list(range(10, 18))


def test_long_updates_are_clipped_and_suspected():
    U = torch.nn.functional.normalize(normal(10, 6), dim=1) * torch.arange(1.0, 11.0).unsqueeze(1)
    ctx = context()
    mixed = AdaptiveClipping(f=2).preaggregate(cohort_of(U), ctx)
    # floor(2 * 2 * 8 / 10) = 3 are shortened to the fourth longest
    torch.testing.assert_close(
        mixed.matrix()[1].values.norm(dim=1), torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 7, 7, 7]), rtol=1e-5, atol=1e-6
    )
    assert ctx.report["clipped"] == 3.0
    assert ctx.report["score:19"] == pytest.approx(0.3)
    assert ctx.report["score:10"] == 0.0


@pytest.mark.parametrize("mixer", MIXERS, ids=lambda d: d.name)
def test_rows_that_are_not_finite_are_dropped_first(mixer):
    U = normal(10, 6)
    broken = U.clone()
    broken[4, 2] = float("nan")
    ctx = context()
    mixed = mixer.preaggregate(cohort_of(broken), ctx)
    assert ctx.report["excluded:14"] == 1.0
    assert mixed.matrix()[1].values.isfinite().all()
    nobody = mixer.preaggregate(cohort_of(torch.full((3, 6), float("inf"))), context())
    assert nobody.matrix()[0] == ()


@pytest.mark.parametrize("mixer", MIXERS, ids=lambda d: d.name)
def test_a_lone_update_passes_as_it_is(mixer):
    U = normal(1, 6)
    torch.testing.assert_close(mixer.preaggregate(cohort_of(U), context()).matrix()[1].values, U)


def test_steps_have_their_matrices_but_for_random_buckets():
    U = normal(10, 6)
    for mixer, rule in (
        (NearestNeighborMixing(), nearest_neighbor_mixing),
        (AdaptiveClipping(), adaptive_clipping),
    ):
        step = mixer.row_function(10)
        assert matrix_of(step) is not None
        torch.testing.assert_close(step(U), rule(U, f=2))
    assert Bucketing().row_function(10) is None


@pytest.mark.parametrize(
    ("mixer", "cohort", "refused"),
    [
        (NearestNeighborMixing(f=5), 10, True),
        (NearestNeighborMixing(f=4), 9, False),
        (AdaptiveClipping(f=5), 10, True),
        (AdaptiveClipping(), 3, False),
        (Bucketing(s=2, f=2), 8, True),
        (Bucketing(s=2, f=2), 9, False),
        (Bucketing(s=3), 10, True),
        (Bucketing(s=5, f=0), 10, False),
    ],
)
def test_cohorts_too_small_are_refused_beforehand(mixer, cohort, refused):
    problems = mixer.problems(setting(float(cohort)))
    assert bool(problems) == refused
    for found, hint in problems:
        assert mixer.name in found
        assert hint


@pytest.mark.parametrize("mixer", MIXERS, ids=lambda d: d.name)
def test_ciphertexts_cannot_be_mixed(mixer):
    stack = (CKKS(), mixer)
    (refusal,) = check_stack(stack, setting(10.0, stack))
    assert f"{mixer.name} behind ckks" in refusal.found
    assert not check_stack((mixer,), setting(10.0, (mixer,)))


@pytest.mark.parametrize("mixer", [NearestNeighborMixing(), Bucketing()], ids=lambda d: d.name)
def test_foolsgold_refuses_rows_that_are_nobodys(mixer):
    stack = (mixer, FoolsGold())
    (refusal,) = check_stack(stack, setting(10.0, stack))
    assert f"foolsgold behind {mixer.name}" in refusal.found
    assert not check_stack((AdaptiveClipping(), FoolsGold()), setting(10.0, (AdaptiveClipping(), FoolsGold())))


def test_mixing_helps_where_honest_updates_differ_and_attackers_hide_among_them():
    """Two groups of honest clients far apart (skewed data); attackers join one. Allouah et al. 2023, section 2."""
    left, right = torch.full((1, 6), -1.0), torch.full((1, 6), 1.0)
    U = torch.cat([left.repeat(5, 1), right.repeat(4, 1), right.repeat(2, 1)]) + 0.01 * normal(11, 6)
    honest = U[:9].mean(dim=0)
    alone = float((through((CoordinateMedian(),), U)[0] - honest).norm())
    mixed = float((through((NearestNeighborMixing(f=2), CoordinateMedian()), U)[0] - honest).norm())
    assert mixed < 0.7 * alone


def test_mixing_alone_is_no_rule():
    """The mean behind it still goes where one huge row pulls it."""
    U = 0.1 * normal(9, 6)
    U[0] = 1e4
    mixed = NearestNeighborMixing(f=2).preaggregate(cohort_of(U), context()).matrix()[1].values
    assert float(mixed.mean(dim=0).norm()) > 100
