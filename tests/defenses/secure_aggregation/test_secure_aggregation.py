"""The plugin: sums to the bit, rows of nobody, dropouts recovered, and refused where it cannot work."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sealed_rounds import summed_shares
from torch import Tensor

from fedsec.defenses.aggregation.neighbour_rules import MultiKrum
from fedsec.defenses.clipping.plugins import ClipNorm
from fedsec.defenses.secure_aggregation.plugin import SecureAggregation
from fedsec.errors import ConfigurationError
from fedsec.models.flat import Layout, Slot
from fedsec.protocol.compose import check_stack, holders_of, opening_coalitions
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import EnforcedBy, RoundContext, Setting
from fedsec.randomness import generator


def context(d: int, clients: tuple[int, ...], participants: tuple[int, ...] = (), **changes: Any) -> RoundContext:
    asked = participants or clients
    values: dict[str, Any] = {
        "round": 0, "rounds": 3, "clients": clients, "layout": Layout((Slot("w", (d,), 0, d, True),)),
        "population": len(asked), "cohort": len(asked), "sampling": "all", "seed": 3, "participants": participants,
    }  # fmt: skip
    return RoundContext(**{**values, **changes})


def setting(**changes: Any) -> Setting:
    values: dict[str, Any] = {
        "population": 10, "cohort": 10, "rounds": 2, "sampling": "all",
        "layout": Layout((Slot("w", (3,), 0, 3, True),)), "local_steps": 1, "batch_size": None,
        "has_batch_norm": True, "task": "classification", "bounds": None, "stack": ("secure-aggregation",),
    }  # fmt: skip
    return Setting(**{**values, **changes})


def quantised(defense: SecureAggregation, values: Tensor, weights: Tensor, told: RoundContext) -> tuple[Tensor, float]:
    """The truth: words in Python integers, no masks."""
    fixed = defense._fixed_point(told.cohort)
    words = fixed.encode(values, weights, [told.generator("round", c) for c in told.clients])
    total = [sum(int(word) for word in column) for column in words.T]
    assert max(total) < 1 << defense.ring
    mean = [word * (fixed.step / total[-1]) - fixed.value_range for word in total[:-1]]
    return torch.tensor(mean, dtype=torch.float64), float(total[-1])


@settings(deadline=None, max_examples=25)
@given(
    n=st.integers(3, 7), gone=st.integers(0, 1), d=st.sampled_from([1, 7, 40]), ring=st.sampled_from([32, 64]),
    neighbours=st.sampled_from([None, 4]), active=st.booleans(), scale=st.sampled_from([0.05, 1.0, 30.0]),
    ones=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_opened_sum_is_exactly_the_quantised_sum(
    n: int, gone: int, d: int, ring: Any, neighbours: int | None, active: bool, scale: float, ones: bool, seed: int
) -> None:
    """Over sizes, signs, saturation, weights and somebody who was asked and never answers, in two chunks."""
    defense = SecureAggregation(ring=ring, neighbours=neighbours, active_server=active, minimum_cohort=2)
    random = generator("secagg", seed)
    values = scale * torch.randn(n, d, generator=random)
    weights = torch.ones(n).double() if ones else torch.randint(1, 1024, (n,), generator=random).double()
    asked = tuple(range(n + gone))
    vault: dict[str, Any] = {}
    told = context(d, tuple(range(n)), asked, vault=vault)
    first = defense.seal(Plain(values[:2], weights[:2]), context(d, (0, 1), asked, vault=vault))
    rest = defense.seal(Plain(values[2:], weights[2:]), context(d, tuple(range(2, n)), asked, vault=vault))
    opened = defense.open(summed_shares(first, rest), told)
    mean, total = quantised(defense, values, weights, told)
    assert isinstance(opened, Plain)
    if told.report["aborted"]:
        assert float(opened.weights[0]) == 0.0
        assert gone
    else:
        assert torch.equal(opened.values[0], mean.float())
        assert float(opened.weights[0]) == total
        assert told.report["recovered"] == gone


def test_results_repeat_although_rows_do_not() -> None:
    update = Plain(torch.randn(3, 50, generator=generator("repeat")), torch.ones(3))
    defense = SecureAggregation()
    runs = []
    for _ in range(2):
        told = context(50, (0, 1, 2), vault={})
        sealed = defense.seal(update, told)
        runs.append((sealed.masked[0], defense.open(summed_shares(sealed), told).values))
    assert runs[0][0] != runs[1][0]
    assert torch.equal(runs[0][1], runs[1][1])


def test_one_client_is_refused() -> None:
    """A round of fewer than the minimum: clients upload nothing, and nothing is opened."""
    defense = SecureAggregation()
    for n in (1, 2):
        told = context(4, tuple(range(n)), vault={}, cohort=8)
        sealed = defense.seal(Plain(torch.ones(n, 4), torch.ones(n)), told)
        assert sealed.masked == (b"",) * n
        opened = defense.open(summed_shares(sealed), told)
        assert isinstance(opened, Plain)
        assert float(opened.weights[0]) == 0.0
        assert not opened.values.any()
        assert told.report["aborted"] == 1.0
    assert "minimum cohort" in SecureAggregation().problems(setting(cohort=2, population=2))[0][0]


def test_too_many_that_vanish_abort_the_round_and_the_next_one_works() -> None:
    defense, vault = SecureAggregation(), {}  # type: ignore[var-annotated]
    told = context(4, (0, 1, 2), tuple(range(8)), vault=vault)
    opened = defense.open(summed_shares(defense.seal(Plain(torch.ones(3, 4), torch.ones(3)), told)), told)
    assert (told.report["aborted"], float(opened.weights[0])) == (1.0, 0.0)  # type: ignore[union-attr]
    later = context(4, tuple(range(8)), tuple(range(8)), vault=vault, round=1)
    opened = defense.open(summed_shares(defense.seal(Plain(torch.ones(8, 4), torch.ones(8)), later)), later)
    assert (later.report["aborted"], float(opened.weights[0])) == (0.0, 8.0)  # type: ignore[union-attr]


def test_vanishing_after_the_upload_is_recovered() -> None:
    defense = SecureAggregation(vanish=0.2)
    told = context(4, tuple(range(10)))
    values = torch.randn(10, 4, generator=generator("vanish"))
    opened = defense.open(summed_shares(defense.seal(Plain(values, torch.ones(10)), told)), told)
    assert told.report["aborted"] == 0.0
    assert float(opened.weights[0]) == 10.0  # type: ignore[union-attr]


def test_who_opens_a_row() -> None:
    """10 clients, 9 neighbours each, threshold 7: the server with 7 of them, or 7 and the row; nobody with 6."""
    told = context(4, tuple(range(10)))
    sealed = SecureAggregation().seal(Plain(torch.rand(10, 4), torch.ones(10)), told).rows([3])
    others = [f"client:{i}" for i in range(10) if i != 3]
    assert sealed.opens(frozenset({"server", *others[:7]}))
    assert not sealed.opens(frozenset({"server", *others[:6]}))
    assert not sealed.opens(frozenset({"server", "client:3"}))
    assert not sealed.opens(frozenset({"server"}))
    sparse = SecureAggregation(neighbours=4).seal(
        Plain(torch.rand(10, 4), torch.ones(10)), context(4, tuple(range(10)))
    )
    assert all(len(sharers) == 4 for sharers in sparse.sharers)
    strangers = frozenset(f"client:{i}" for i in range(10)) - sparse.sharers[3]
    assert not sparse.rows([3]).opens(strangers | {"server"})
    total = summed_shares(sparse)
    assert total.opens(frozenset({"server"}))
    assert not total.opens(frozenset({"client:1"}))
    assert holders_of((SecureAggregation(),)) == {"server"}
    secrets = dict(opening_coalitions((SecureAggregation(),)))
    assert secrets["one client's update"][0] == ["server", "as many of its neighbours as the threshold"]
    assert ["client"] in secrets["the aggregate of a round"]


def test_peeking_gives_what_colluders_would_read() -> None:
    told = context(4, tuple(range(5)))
    values = torch.rand(5, 4)
    defense = SecureAggregation()
    sealed = defense.seal(Plain(values, torch.ones(5)), told)
    opened = defense.open(sealed.rows([2]), told)
    assert isinstance(opened, Plain)
    assert (opened.values[0] - values[2]).abs().max() < 2 * defense._fixed_point(5).step
    # it took nothing away from the round
    assert float(defense.open(summed_shares(sealed), told).weights[0]) == 5.0  # type: ignore[union-attr]


def test_canary_never_crosses_the_wire() -> None:
    canary = 0.123456789
    told = context(3000, (0, 1, 2))
    defense = SecureAggregation()
    sealed = defense.seal(Plain(torch.full((3, 3000), canary), torch.full((3,), 77.0)), told)
    fixed = defense._fixed_point(3)
    word = int((canary + 1) * 77 / fixed.step)
    patterns = [struct.pack("<f", canary), struct.pack("<f", 77.0)]
    patterns += [struct.pack("<I", word + i) * 2 for i in (0, 1)]
    clear = fixed.encode(torch.full((1, 3000), canary), torch.tensor([77.0]), [told.generator("round", 0)])
    assert any(pattern in clear.tobytes() for pattern in patterns)
    for row in range(3):
        wire = bytes(sealed.serialise(row))
        assert len(wire) == sealed.nbytes(row) == 33 + 4 * 3001
        assert not any(pattern in wire for pattern in patterns)


def test_no_range_binds_a_malicious_client() -> None:
    """Its limit: a masked row may hold anything, and moves the mean as far as in clear."""
    defense, vault = SecureAggregation(), {}  # type: ignore[var-annotated]
    honest = context(6, (0, 1, 2), (0, 1, 2, 3), vault=vault)
    evil = context(6, (3,), (0, 1, 2, 3), vault=vault, bound=False)
    first = defense.seal(Plain(torch.zeros(3, 6), torch.ones(3)), honest)
    second = defense.seal(Plain(torch.full((1, 6), 40.0), torch.ones(1)), evil)
    opened = defense.open(summed_shares(first, second), honest)
    assert (opened.values - 10.0).abs().max() < 1e-3  # type: ignore[union-attr]


def test_planner() -> None:
    assert not check_stack((ClipNorm(c=1.0), SecureAggregation()), setting())
    assert check_stack((SecureAggregation(), MultiKrum(f=2)), setting())
    assert check_stack((SecureAggregation(), ClipNorm(c=1.0)), setting())
    assert check_stack((ClipNorm(c=1.0, enforced_by="server"), SecureAggregation()), setting())
    assert not check_stack((SecureAggregation(),), setting(), server_optimizer="adam")
    ((found, hint),) = SecureAggregation().problems(setting(cohort=9000, population=9000))
    assert "bits" in found
    assert "ring: 64" in hint
    assert not SecureAggregation(ring=64).problems(setting(cohort=9000, population=9000))
    ((_, hint),) = SecureAggregation().problems(setting(largest_weight=6000.0))
    assert hint == "set `max_weight: 6000`"
    ((_, hint),) = SecureAggregation(neighbours=5).problems(setting())
    assert hint == "set `neighbours: 6`"
    ((found, _),) = SecureAggregation(vanish=0.5).problems(setting())
    assert "every round is aborted" in found
    ((found, _),) = SecureAggregation(bits=30).problems(setting())
    assert "leaves 17 bits" in found


def test_claims() -> None:
    claims = SecureAggregation().claims(setting())
    assert claims["opened_by"] == "server+7 of a client's 9 neighbours"
    assert (claims["threshold"], claims["dropouts_tolerated"], claims["colluders_tolerated"]) == (7.0, 2.0, 4.0)
    assert SecureAggregation(active_server=False).claims(setting())["threshold"] == 5.0
    sparse = SecureAggregation(neighbours=40, ring=64).claims(setting(cohort=500, population=500))
    assert float(sparse["risk_unmasked"]) < 1e-6
    assert "20%" in str(sparse["risk_setting"])
    assert SecureAggregation().enforcement == EnforcedBy.FORMAT


def test_refusals() -> None:
    with pytest.raises(ConfigurationError, match="max_weight: 2000"):
        SecureAggregation().seal(Plain(torch.zeros(3, 2), torch.full((3,), 2000.0)), context(2, (0, 1, 2)))
    with pytest.raises(ConfigurationError, match="capacity: 40"):
        SecureAggregation().seal(Plain(torch.zeros(1, 2), torch.ones(1)), context(2, (0,), tuple(range(40)), cohort=8))
    nothing = Plain(torch.zeros(1, 4), torch.zeros(1))
    assert SecureAggregation().open(nothing, context(4, (0, 1, 2))) is nothing
    with pytest.raises(TypeError, match="was given"):
        SecureAggregation().open(Plain(torch.ones(1, 4), torch.ones(1)), context(4, (0, 1, 2)))
    told = context(4, (0, 1, 2))
    sealed = SecureAggregation().seal(Plain(torch.ones(3, 4), torch.ones(3)), told)
    with pytest.raises(TypeError, match="before sealing"):
        SecureAggregation().seal(sealed, told)
    with pytest.raises(PermissionError, match="nobody holds shares"):
        SecureAggregation().open(summed_shares(sealed), context(4, (0, 1, 2), vault={}))
    with pytest.raises(ValueError, match="not asked"):
        SecureAggregation().seal(Plain(torch.ones(1, 4), torch.ones(1)), context(4, (9,), vault=told.vault))


def test_the_largest_round_never_wraps() -> None:
    """As many clients as the capacity, all at the largest weight and saturated."""
    n = 16
    defense = SecureAggregation(max_weight=512, active_server=False)
    told = context(2, tuple(range(n)), cohort=8)
    values = torch.full((n, 2), 50.0)
    values[:, 1] = -50.0
    opened = defense.open(summed_shares(defense.seal(Plain(values, torch.full((n,), 512.0)), told)), told)
    assert isinstance(opened, Plain)
    assert np.allclose(opened.values[0].numpy(), [1.0, -1.0], atol=1e-7)
    assert told.report["saturated_share"] == 1.0
