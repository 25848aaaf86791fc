"""Sealed averaging: exact, unreadable without the key, and refused where it cannot work."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedsec.defenses.clipping.plugins import ClipNorm
from fedsec.defenses.encryption.ckks import CKKS
from fedsec.errors import ConfigurationError
from fedsec.models.flat import Layout, Slot
from fedsec.protocol.compose import check_stack
from fedsec.protocol.payload import Plain, Sealed
from fedsec.protocol.stage import EnforcedBy, RoundContext, Setting
from fedsec.randomness import generator

VAULTS: dict[int, dict[str, Any]] = {4096: {}, 8192: {}}
"""One key pair per degree for the whole file."""


def context(d: int, n: int, *, vault: dict[str, Any], cohort: float | None = None) -> RoundContext:
    layout = Layout((Slot("w", (d,), 0, d, True),))
    return RoundContext(
        round=0, rounds=1, clients=tuple(range(n)), layout=layout, population=n, cohort=cohort or n, sampling="all",
        seed=3, vault=vault,
    )  # fmt: skip


def setting(**changes: Any) -> Setting:
    values: dict[str, Any] = {
        "population": 10, "cohort": 10, "rounds": 2, "sampling": "all",
        "layout": Layout((Slot("w", (3,), 0, 3, True),)), "local_steps": 1, "batch_size": None,
        "has_batch_norm": True, "task": "classification", "bounds": None, "stack": ("ckks",),
    }  # fmt: skip
    return Setting(**{**values, **changes})


def summed(sealed: Sealed) -> Sealed:
    accumulator = sealed.scheme.start(sealed.ciphertexts[0])
    for row in sealed.ciphertexts[1:]:
        accumulator = sealed.scheme.add(accumulator, row)
    return Sealed((sealed.scheme.finish(accumulator),), sealed.scheme, sealed.holders, len(sealed))


def quantised_mean(values: Tensor, weights: Tensor, bits: int) -> tuple[Tensor, float]:
    """The truth, in Python integers."""
    unit = 2**bits
    rows = [[round(float(v) * float(w) * unit) for v in row] for row, w in zip(values.double(), weights, strict=True)]
    total = sum(round(float(w) * unit) for w in weights)
    return torch.tensor([sum(column) / total for column in zip(*rows, strict=True)]), total / unit


@settings(deadline=None, max_examples=12)
@given(
    d=st.sampled_from([1, 7, 2047, 2048, 4095, 4096, 5000]),
    n=st.integers(1, 5),
    degree=st.sampled_from([4096, 8192]),
    seed=st.integers(0, 1000),
    ones=st.booleans(),
)
def test_opened_sum_is_exactly_the_quantised_sum(d: int, n: int, degree: int, seed: int, ones: bool) -> None:
    random = generator("ckks", seed)
    values = 0.3 * torch.randn(n, d, generator=random)
    weights = torch.ones(n) if ones else torch.randint(1, 150, (n,), generator=random).to(torch.float64)
    defense, told = CKKS(poly_modulus=degree), context(d, n, vault=VAULTS[degree])
    opened = defense.open(summed(defense.seal(Plain(values, weights), told)), told)
    mean, total = quantised_mean(values, weights, 20)
    assert torch.equal(opened.values[0], mean.float())
    assert float(opened.weights[0]) == total
    assert opened.values.dtype == torch.float32


def test_many_clients_and_negative_values() -> None:
    n, d = 64, 100
    values = -torch.rand(n, d, generator=generator("many"))
    weights = torch.arange(1, n + 1).float()
    defense, told = CKKS(), context(d, n, vault=VAULTS[8192])
    opened = defense.open(summed(defense.seal(Plain(values, weights), told)), told)
    assert torch.equal(opened.values[0], quantised_mean(values, weights, 20)[0].float())
    exact = (weights.double() @ values.double()) / weights.sum()
    assert (opened.values[0] - exact).abs().max() < 2**-20


def test_results_repeat_although_ciphertexts_do_not() -> None:
    update = Plain(torch.randn(3, 50, generator=generator("repeat")), torch.ones(3))
    defense, told = CKKS(poly_modulus=4096), context(50, 3, vault=VAULTS[4096])
    fresh = context(50, 3, vault={})
    first, again, other = (defense.seal(update, c) for c in (told, told, fresh))
    assert first.ciphertexts[0] != again.ciphertexts[0]
    opened = [defense.open(summed(s), c).values for s, c in ((first, told), (again, told), (other, fresh))]
    assert torch.equal(opened[0], opened[1])
    assert torch.equal(opened[0], opened[2])


def test_float64_stays_float64() -> None:
    update = Plain(torch.randn(2, 5, generator=generator("double"), dtype=torch.float64), torch.ones(2))
    defense, told = CKKS(poly_modulus=4096), context(5, 2, vault=VAULTS[4096])
    assert defense.open(summed(defense.seal(update, told)), told).values.dtype == torch.float64


def test_weight_unit_changes_the_range_and_not_the_mean() -> None:
    update = Plain(torch.randn(2, 5, generator=generator("unit")), torch.tensor([40000.0, 50000.0]))
    told = context(5, 2, vault=VAULTS[4096])
    with pytest.raises(ConfigurationError, match="weight_unit"):
        CKKS(poly_modulus=4096).seal(update, told)
    defense = CKKS(poly_modulus=4096, weight_unit=1024)
    opened = defense.open(summed(defense.seal(update, told)), told)
    exact = (update.weights.double() @ update.values.double()) / update.weights.sum()
    assert torch.allclose(opened.values[0].double(), exact, atol=1e-6)
    assert float(opened.weights[0]) == 90000.0


def test_too_large_and_not_finite_values_raise() -> None:
    told = context(2, 1, vault=VAULTS[8192])
    for bad in (1e6, -1e6, float("inf"), float("nan")):
        with pytest.raises(ConfigurationError, match="wrap around"):
            CKKS().seal(Plain(torch.tensor([[bad, 0.0]]), torch.ones(1)), told)


def test_canary_never_crosses_the_wire() -> None:
    canary = 0.123456789
    values = torch.full((2, 3000), canary)
    sealed = CKKS(poly_modulus=4096).seal(Plain(values, torch.ones(2)), context(3000, 2, vault=VAULTS[4096]))
    single = float(np.float32(canary))
    gridded = round(single * 2**20) / 2**20
    patterns = [struct.pack(code, v) for code in ("<f", "<d", ">f", ">d") for v in (canary, single, gridded)]
    patterns += [struct.pack(code, round(single * 2**20)) for code in ("<q", ">q")]
    assert any(p in bytes(Plain(values, torch.ones(2)).serialise(0)) for p in patterns)
    for row in range(2):
        wire = bytes(sealed.serialise(row))
        assert len(wire) == sealed.nbytes(row)
        assert not any(pattern in wire for pattern in patterns)
    public = sealed.scheme.public  # type: ignore[attr-defined]
    assert not any(pattern in public for pattern in patterns)


def test_only_the_key_opens() -> None:
    defense, told = CKKS(poly_modulus=4096), context(4, 2, vault=VAULTS[4096])
    total = summed(defense.seal(Plain(torch.ones(2, 4), torch.ones(2)), told))
    with pytest.raises(PermissionError, match="no secret key"):
        defense.open(total, context(4, 2, vault={}))
    stranger = context(4, 2, vault={})
    defense.seal(Plain(torch.ones(1, 4), torch.ones(1)), stranger)
    with pytest.raises(PermissionError, match="no secret key"):
        defense.open(total, stranger)


@pytest.mark.parametrize(("holder", "opens"), [("clients", "client:3"), ("authority", "key-holder")])
def test_custody(holder: Any, opens: str) -> None:
    defense = CKKS(poly_modulus=4096, key_holder=holder)
    sealed = defense.seal(Plain(torch.ones(2, 4), torch.ones(2)), context(4, 2, vault=VAULTS[4096]))
    assert sealed.holders == defense.holders
    assert not sealed.opens(frozenset({"server"}))
    assert sealed.opens(frozenset({"server", opens}))
    assert defense.enforcement == EnforcedBy.FORMAT
    assert opens.partition(":")[0] in str(defense.claims(setting())["opened_by"])


def test_wrong_order_is_refused_by_type_and_by_the_planner() -> None:
    defense, told = CKKS(poly_modulus=4096), context(4, 2, vault=VAULTS[4096])
    sealed = defense.seal(Plain(torch.ones(2, 4), torch.ones(2)), told)
    with pytest.raises(TypeError, match="before sealing"):
        defense.seal(sealed, told)
    with pytest.raises(TypeError, match="before sealing"):
        ClipNorm().seal(sealed, told)
    with pytest.raises(TypeError, match="opens what ckks sealed"):
        defense.open(Plain(torch.ones(1, 4), torch.ones(1)), told)
    assert not check_stack([ClipNorm(), CKKS()], setting())
    assert check_stack([CKKS(), ClipNorm()], setting())
    assert check_stack([CKKS(), ClipNorm(enforced_by="server")], setting())


def test_an_empty_round_passes() -> None:
    nothing = Plain(torch.zeros(1, 4), torch.zeros(1))
    assert CKKS().open(nothing, context(4, 2, vault={})) is nothing


def test_planner_hears_of_sums_that_lose_precision() -> None:
    assert not CKKS().problems(setting())
    ((found, instead),) = CKKS().problems(setting(cohort=1000, population=1000))
    assert "2048 ciphertexts" in found
    bits = int(instead.split(": ")[1].strip("`"))
    assert not CKKS(resolution_bits=bits).problems(setting(cohort=1000, population=1000))


def test_does_not_help_against_poisoning() -> None:
    """A poisoned row moves the opened mean exactly as far as in clear."""
    values = torch.zeros(4, 10)
    values[3] = 7.0
    defense, told = CKKS(poly_modulus=4096), context(10, 4, vault=VAULTS[4096])
    opened = defense.open(summed(defense.seal(Plain(values, torch.ones(4)), told)), told)
    assert torch.equal(opened.values[0], values.mean(0))


def test_a_threshold_key_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="neither TenSEAL nor phe"):
        CKKS(key_holder="threshold")
