"""The plugin: exact sums, all servers or nobody, and a bound that controlled clients cannot get around."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from sealed_rounds import summed_shares

from fedsec.defenses.aggregation.neighbour_rules import MultiKrum
from fedsec.defenses.clipping.plugins import ClipNorm
from fedsec.defenses.secret_sharing.messages import Helper, split_row
from fedsec.defenses.secret_sharing.plugin import SecretSharing
from fedsec.errors import ConfigurationError
from fedsec.models.flat import Layout, Slot
from fedsec.protocol.compose import check_stack, opening_coalitions
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import EnforcedBy, RoundContext, Setting
from fedsec.randomness import generator


def context(d: int, n: int, **changes: Any) -> RoundContext:
    values: dict[str, Any] = {
        "round": 0, "rounds": 2, "clients": tuple(range(n)), "layout": Layout((Slot("w", (d,), 0, d, True),)),
        "population": n, "cohort": n, "sampling": "all", "seed": 3,
    }  # fmt: skip
    return RoundContext(**{**values, **changes})


def setting(**changes: Any) -> Setting:
    values: dict[str, Any] = {
        "population": 10, "cohort": 10, "rounds": 2, "sampling": "all",
        "layout": Layout((Slot("w", (30,), 0, 30, True),)), "local_steps": 1, "batch_size": None,
        "has_batch_norm": False, "task": "classification", "bounds": None, "stack": ("secret-sharing",),
    }  # fmt: skip
    return Setting(**{**values, **changes})


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 5), d=st.integers(1, 20), servers=st.integers(2, 5), ring=st.sampled_from([32, 64]),
    scale=st.sampled_from([0.1, 5.0]), seed=st.integers(0, 99),
)  # fmt: skip
def test_opened_sum_is_the_sum_of_the_words(n: int, d: int, servers: int, ring: int, scale: float, seed: int) -> None:
    defense, told = SecretSharing(servers=servers, ring=ring), context(d, n)  # type: ignore[arg-type]
    random = generator("sharing", seed)
    values = scale * torch.randn(n, d, generator=random)
    weights = torch.randint(1, 1024, (n,), generator=random).double()
    sealed = defense.seal(Plain(values, weights), told)
    total = summed_shares(sealed)
    fixed = defense._fixed_point(n, d)
    words = fixed.encode(values, weights, [told.generator("round", c) for c in range(n)])
    exact = words.sum(axis=0, dtype=words.dtype)
    opened = defense.open(total, told)
    assert np.array_equal(sealed.scheme.opened(total.masked[0])[0], exact)  # type: ignore[attr-defined]
    assert float(opened.weights[0]) == float(weights.sum())
    truth = (weights @ values.double().clip(-1, 1)) / weights.sum()
    assert (opened.values[0].double() - truth).abs().max() <= n * fixed.step / float(weights.sum()) + 1e-6
    # all servers together read one row
    one = defense.open(sealed.rows([0]), told)
    assert (one.values[0] - values[0].clip(-1, 1)).abs().max() <= fixed.step / float(weights[0]) + 1e-6


@pytest.mark.parametrize("servers", [2, 3])
def test_only_all_servers_open_a_row(servers: int) -> None:
    sealed = SecretSharing(servers=servers).seal(Plain(torch.zeros(2, 4), torch.ones(2)), context(4, 2))
    every = frozenset({"server", *(f"helper:{i}" for i in range(1, servers))})
    assert sealed.opens(every)
    for party in every:
        assert not sealed.opens(every - {party} | {"client:0", "client:1"})
    total = summed_shares(sealed)
    assert total.opens(frozenset({"server"}))
    assert not total.opens(frozenset({"helper:1"}))
    (secret, coalitions), *_ = opening_coalitions((SecretSharing(servers=servers),))
    assert secret.startswith("one client's update")
    assert sorted(coalitions[0]) == sorted(every)


def test_every_share_but_one_is_uniform_whatever_the_row() -> None:
    """The leader's words, and a helper's: rows of zeros look like any other."""
    helpers = [Helper(0), Helper(1)]
    row = split_row(np.zeros(1 << 15, np.uint32), [h.public for h in helpers], round_index=0, sender=1)
    leader = np.frombuffer(row[-(4 << 15) :], np.uint8)
    assert chisquare(np.bincount(leader, minlength=256)).pvalue > 1e-6
    for helper in helpers:
        share = helper.total([helper.seed(row)], 1 << 15, 32).view(np.uint8)
        assert chisquare(np.bincount(share, minlength=256)).pvalue > 1e-6
    seeds = {helper.seed(row) for helper in helpers}
    assert {len(seed) for seed in seeds} == {32}
    assert not any(seed in row for seed in seeds)


def test_boxes_open_for_one_helper_in_one_round_only() -> None:
    helpers = [Helper(0), Helper(1)]
    row = split_row(np.zeros(4, np.uint32), [h.public for h in helpers], round_index=5, sender=1)
    stranger = Helper(0)
    with pytest.raises(ValueError, match="not authentic"):
        stranger.seed(row)
    replayed = bytearray(row)
    replayed[4] = 6
    with pytest.raises(ValueError, match="not authentic"):
        helpers[0].seed(bytes(replayed))
    told = context(4, 2)
    sealed = SecretSharing().seal(Plain(torch.zeros(2, 4), torch.ones(2)), told)
    scheme = sealed.scheme
    with pytest.raises(ValueError, match="second row"):
        scheme.add(scheme.start(sealed.masked[0]), sealed.masked[0])
    for bad, why in ((sealed.masked[0][:-1], "bytes"), (row, "bytes")):
        with pytest.raises(ValueError, match=why):
            scheme.start(bad)
    later = SecretSharing().seal(Plain(torch.zeros(2, 4), torch.ones(2)), context(4, 2, round=1, vault=told.vault))
    with pytest.raises(ValueError, match="of round 1, not 0"):
        scheme.start(later.masked[0])


def test_bytes_are_one_row_and_a_box_per_helper() -> None:
    for servers in (2, 5):
        sealed = SecretSharing(servers=servers).seal(Plain(torch.zeros(1, 1000), torch.ones(1)), context(1000, 1))
        assert sealed.nbytes(0) == 4 * 1001 + 20 + 80 * (servers - 1)


def test_the_bound_holds_for_clients_that_nothing_else_binds() -> None:
    """Of 6 clients one sends 30 times the bound; without the check it drags the mean, with it it is left out."""
    n, d = 6, 25
    honest = 0.1 * torch.randn(n - 1, d, generator=generator("honest"))
    evil = torch.full((1, d), 6.0)
    results = {}
    for bound in (None, 1.0):
        defense = SecretSharing(ring=64, norm_bound=bound)
        told = context(d, n, clients=tuple(range(n - 1)))
        first = defense.seal(Plain(honest, torch.ones(n - 1)), told)
        theirs = context(d, n, clients=(n - 1,), vault=told.vault, bound=False)
        second = defense.seal(Plain(evil, torch.ones(1)), theirs)
        results[bound] = defense.open(summed_shares(first, second), told), dict(told.report)
    assert results[None][0].values.mean() > 0.9
    opened, report = results[1.0]
    assert (opened.values[0] - honest.mean(0)).abs().max() < 1e-3
    assert float(opened.weights[0]) == n - 1
    assert report[f"excluded:{n - 1}"] == 1.0
    assert report["refused"] == 1.0
    assert report["server_bytes"] > 100 * d


def test_without_a_check_nothing_bounds_anybody() -> None:
    """Its limit: shares hide a poisoned row as well as an honest one."""
    told = context(10, 4, bound=False)
    values = torch.zeros(4, 10)
    values[3] = 7.0
    defense = SecretSharing()
    opened = defense.open(summed_shares(defense.seal(Plain(values, torch.ones(4)), told)), told)
    assert (opened.values[0] - 7.0 / 4).abs().max() < 1e-3


def test_planner() -> None:
    assert not check_stack((ClipNorm(c=1.0), SecretSharing()), setting())
    assert check_stack((SecretSharing(), MultiKrum(f=2)), setting())
    assert check_stack((SecretSharing(), ClipNorm(c=1.0)), setting())
    ((_, hint),) = SecretSharing(norm_bound=1.0).problems(setting())
    assert hint == "set `ring: 64`"
    assert not SecretSharing(norm_bound=1.0, ring=64).problems(setting())
    assert SecretSharing().problems(setting(cohort=100_000))
    ((_, hint),) = SecretSharing().problems(setting(largest_weight=6000.0))
    assert hint == "set `max_weight: 6000`"
    claims = SecretSharing(servers=3, ring=64, norm_bound=1.0).claims(setting())
    assert claims["opened_by"] == "server+helper:1+helper:2"
    assert 1.0 < float(claims["norm_bound_enforced"]) < 1.01
    assert SecretSharing().enforcement == EnforcedBy.FORMAT


def test_refusals() -> None:
    with pytest.raises(ConfigurationError, match="max_weight: 2000"):
        SecretSharing().seal(Plain(torch.zeros(1, 2), torch.tensor([2000.0])), context(2, 1))
    nothing = Plain(torch.zeros(1, 4), torch.zeros(1))
    assert SecretSharing().open(nothing, context(4, 2)) is nothing
    with pytest.raises(TypeError, match="was given"):
        SecretSharing().open(Plain(torch.ones(1, 4), torch.ones(1)), context(4, 2))
    told = context(2, 3)
    small = SecretSharing(capacity=2)
    with pytest.raises(OverflowError, match="capacity"):
        summed_shares(small.seal(Plain(torch.zeros(3, 2), torch.ones(3)), told))
