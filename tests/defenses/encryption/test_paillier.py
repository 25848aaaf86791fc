"""Paillier: packed sums are exact, randomness is fresh, and large models are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sealed_rounds import context, integer_mean, opened, setting, summed

from fedsec.defenses.encryption.paillier import Paillier
from fedsec.defenses.encryption.paillier_scheme import PaillierKeys, PaillierScheme, Places, joined
from fedsec.errors import ConfigurationError
from fedsec.protocol.compose import check_stack
from fedsec.protocol.payload import Plain
from fedsec.randomness import generator, numpy_generator

VAULT: dict[str, Any] = {}
"""One key pair for the whole file."""


def vault() -> dict[str, Any]:
    if "paillier-keys" not in VAULT:
        VAULT["paillier-keys"] = PaillierKeys.make(2048)
    return {"paillier-keys": VAULT["paillier-keys"]}


@settings(deadline=None, max_examples=12)
@given(
    d=st.sampled_from([1, 5, 98, 99, 100, 250]), n=st.integers(1, 4), bits=st.integers(2, 24),
    weighted=st.booleans(), seed=st.integers(0, 1000),
)  # fmt: skip
def test_the_opened_sum_is_the_quantised_sum(d: int, n: int, bits: int, weighted: bool, seed: int) -> None:
    random = generator("paillier", seed)
    values = 0.4 * torch.randn(n, d, generator=random, dtype=torch.float64)
    weights = torch.randint(1, 601, (n,), generator=random).double() if weighted else torch.ones(n).double()
    defense = Paillier(bits=bits, largest_weight=600 if weighted else None)
    told, update = context(d, n, vault=vault(), seed=seed), Plain(values, weights)
    got = opened(defense, update, told)
    assert torch.equal(got.values[0], integer_mean(defense, update, told))
    assert float(got.weights[0]) == float(weights.sum())


@settings(deadline=None, max_examples=60)
@given(
    size=st.integers(0, 500), bits=st.integers(2, 24), rows=st.integers(1, 2**21), seed=st.integers(0, 99),
    key_bits=st.sampled_from([2048, 3072]),
)  # fmt: skip
def test_lanes_hold_the_largest_sums(size: int, bits: int, rows: int, seed: int, key_bits: int) -> None:
    places = Places(size, bits, rows, key_bits)
    row = np.concatenate([[1, 2**20], numpy_generator("places", seed).integers(0, 2**bits - 1, size)])
    row[2::2] = 2**bits - 2
    plaintexts = [rows * plaintext for plaintext in places.pack(row)]
    assert all(plaintext < 2 ** (key_bits - 1) for plaintext in plaintexts)
    assert places.unpack(plaintexts).tolist() == [rows * int(entry) for entry in row]


def test_joined_is_the_sum_of_shifted_codes() -> None:
    codes = numpy_generator("joined").integers(0, 2**20, 93)
    assert joined(codes, 22) == sum(int(code) << (22 * k) for k, code in enumerate(codes))


def test_randomness_is_fresh_and_results_repeat() -> None:
    update, told = Plain(torch.zeros(2, 3), torch.ones(2)), context(3, 2, vault=vault())
    sealed, again = (Paillier().seal(update, told) for _ in range(2))
    assert len({*sealed.ciphertexts, *again.ciphertexts}) == 4
    assert torch.equal(Paillier().open(summed(sealed), told).values, Paillier().open(summed(again), told).values)
    # a product of ciphertexts of zero under r = 1 would be 1: nothing is encrypted without randomness
    assert all(int.from_bytes(row, "big").bit_length() > 4000 for row in sealed.ciphertexts)


def test_processes_change_nothing() -> None:
    update = Plain(0.2 * torch.randn(2, 300, generator=generator("spread")), torch.ones(2))
    mine = vault()
    got = opened(Paillier(processes=1), update, context(300, 2, vault=mine))
    mine["paillier-processes"].close()
    assert torch.equal(got.values, opened(Paillier(), update, context(300, 2, vault=vault())).values)


def test_public_side_is_the_modulus_alone() -> None:
    keys = vault()["paillier-keys"]
    scheme = PaillierScheme(keys.public, Places(3, 14, 16, 2048), torch.float32)
    factors = [keys.secret.p, keys.secret.q]
    for factor in factors:
        assert factor.to_bytes(128, "big") not in keys.public
    assert int.from_bytes(keys.public, "big") == factors[0] * factors[1]
    assert scheme.key.n == factors[0] * factors[1]
    assert not {"p", "q"} & set(vars(scheme.key))
    assert "secret" not in repr(keys)


def test_only_the_key_opens() -> None:
    total = summed(Paillier().seal(Plain(torch.ones(2, 4), torch.ones(2)), context(4, 2, vault=vault())))
    with pytest.raises(PermissionError, match="no secret key"):
        Paillier().open(total, context(4, 2, vault={}))
    other = PaillierKeys.make(2048)
    assert other.decrypt(total.ciphertexts[0]) & 0xFFFF != 2


def test_refuses_foreign_rows_and_too_many() -> None:
    sealed = Paillier(capacity=2).seal(Plain(torch.zeros(3, 4), torch.ones(3)), context(4, 3, vault=vault()))
    with pytest.raises(OverflowError, match="more than 2"):
        summed(sealed)
    for damaged in (b"", sealed.ciphertexts[0][:-1], bytes(512), b"\xff" * 512):
        with pytest.raises(ValueError, match=r"expected|no ciphertext"):
            sealed.scheme.start(damaged)
    with pytest.raises(OverflowError, match="outside"):
        list(Places(1, 4, 2, 2048).pack(np.array([1, 1, 15])))
    with pytest.raises(OverflowError, match="does not fit"):
        list(Places(1, 4, 2**22, 2048).pack(np.array([1, 1, 3])))


def test_large_models_are_refused_with_their_seconds() -> None:
    assert not Paillier().problems(setting(10_000))
    ((found, instead),) = Paillier().problems(setting(1_000_000, cohort=10, rounds=10))
    assert "s of one core" in found
    assert "most_parameters: 1000000" in instead
    assert not Paillier(most_parameters=1_000_000).problems(setting(1_000_000))
    assert check_stack([Paillier()], setting(1_000_000))
    assert Paillier().problems(setting(cohort=1 << 22, population=1 << 22))


def test_bytes_and_security_are_as_claimed() -> None:
    told = context(500, 1, vault=vault(), cohort=64)
    sealed = Paillier(bits=16).seal(Plain(torch.zeros(1, 500), torch.ones(1)), told)
    claims = Paillier(bits=16).claims(setting(500, cohort=64))
    assert sealed.nbytes(0) == claims["upload_bytes"]
    assert claims["entries_per_ciphertext"] == 93
    assert claims["security_bits"] == 112
    assert Paillier(key_bits=3072).claims(setting())["security_bits"] == 128
    large = Paillier(bits=16).claims(setting(1_000_000, cohort=64))
    assert float(large["upload_bytes"]) / 1_000_000 <= 8


def test_a_threshold_key_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="threshold"):
        Paillier(key_holder="threshold")


def test_3072_bits() -> None:
    defense, mine = Paillier(key_bits=3072), {}
    update = Plain(torch.tensor([[0.25, -0.25]]), torch.ones(1))
    got = opened(defense, update, context(2, 1, vault=mine))
    assert torch.allclose(got.values, update.values, atol=defense.grid.step)
    assert len(mine["paillier-keys"].public) == 384


def test_does_not_help_against_poisoning_within_its_range() -> None:
    values = torch.zeros(4, 10)
    values[3] = 1.0
    got = opened(Paillier(), Plain(values, torch.ones(4)), context(10, 4, vault=vault()))
    assert torch.allclose(got.values[0], values.mean(0), atol=1e-7)
