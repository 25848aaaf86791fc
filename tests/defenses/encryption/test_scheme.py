"""The scheme: parameters, error, range, and that the public side holds no secret."""

from __future__ import annotations

import numpy as np
import pytest
import tenseal as ts
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.defenses.encryption.scheme import (
    LIMIT_BITS,
    PRIMES,
    Keys,
    PublicScheme,
    error_std,
    largest_sum,
    most_rows,
    pack,
    unpack,
)
from fedsec.randomness import numpy_generator

DEGREES = (4096, 8192)


@pytest.fixture(scope="module", params=DEGREES)
def keys(request: pytest.FixtureRequest) -> tuple[int, Keys]:
    return request.param, Keys.make(request.param)


def scheme_of(degree: int, keys: Keys, length: int, capacity: int = 64) -> PublicScheme:
    return PublicScheme(keys.public, length, degree, capacity, torch.float32)


@pytest.mark.parametrize("degree", DEGREES)
def test_128_bit_security(degree: int) -> None:
    assert sum(PRIMES[degree]) <= LIMIT_BITS[degree]


def test_public_side_has_no_secret(keys: tuple[int, Keys]) -> None:
    degree, pair = keys
    scheme = scheme_of(degree, pair, 10)
    assert not ts.context_from(pair.public).has_secret_key()
    assert not scheme.context.has_secret_key()
    secret = pair.secret.serialize(
        save_public_key=False, save_secret_key=True, save_galois_keys=False, save_relin_keys=False
    )
    tail = secret[-4096:]
    everything = pair.secret.serialize(save_secret_key=True, save_galois_keys=False, save_relin_keys=False)
    assert tail in everything
    assert tail not in pair.public
    with pytest.raises(ValueError, match="secret"):
        ts.ckks_vector_from(scheme.context, unpack(scheme.encrypt(np.zeros(10)))[0]).decrypt()


def test_refuses_a_public_side_with_the_secret(keys: tuple[int, Keys]) -> None:
    degree, pair = keys
    leaky = pair.secret.serialize(save_secret_key=True, save_galois_keys=False, save_relin_keys=False)
    with pytest.raises(PermissionError, match="secret key"):
        _ = PublicScheme(leaky, 10, degree, 4, torch.float32).context


def test_another_key_reads_noise(keys: tuple[int, Keys]) -> None:
    degree, pair = keys
    row = np.full(20, 0.5)
    sealed = scheme_of(degree, pair, 20).encrypt(row)
    assert np.abs(pair.decrypt(sealed) - row).max() < 1e-6
    assert np.abs(Keys.make(degree).decrypt(sealed) - row).min() > 1.0


def test_error_is_what_the_formula_says(keys: tuple[int, Keys]) -> None:
    degree, pair = keys
    values = numpy_generator("error").uniform(-1, 1, degree)
    scheme = scheme_of(degree, pair, degree)
    errors = np.concatenate([pair.decrypt(scheme.encrypt(values)) - values for _ in range(4)])
    assert errors.std() == pytest.approx(error_std(degree), rel=0.1)
    # nothing near the guard that exactness relies on
    assert np.abs(errors).max() < 24 * error_std(degree)


def test_range_is_safe_at_its_end(keys: tuple[int, Keys]) -> None:
    degree, pair = keys
    edge = largest_sum(degree)
    scheme = scheme_of(degree, pair, degree // 2, capacity=2)
    signs = np.sign(numpy_generator("signs").standard_normal(degree // 2))
    for values in (np.full(degree // 2, edge), -np.full(degree // 2, edge), edge * signs):
        half = scheme.encrypt(values / 2)
        total = scheme.finish(scheme.add(scheme.start(half), half))
        assert np.abs(pair.decrypt(total) - values).max() < 1e-6


@settings(deadline=None, max_examples=15)
@given(length=st.integers(1, 9000), rows=st.integers(1, 3), seed=st.integers(0, 1000))
def test_sum_of_any_length(length: int, rows: int, seed: int) -> None:
    pair = _pair()
    scheme = scheme_of(4096, pair, length)
    values = numpy_generator("sum", seed).uniform(-2, 2, (rows, length))
    accumulator = scheme.start(scheme.encrypt(values[0]))
    for row in values[1:]:
        accumulator = scheme.add(accumulator, scheme.encrypt(row))
    opened = pair.decrypt(scheme.finish(accumulator))
    assert opened.shape == (length,)
    assert np.abs(opened - values.sum(axis=0)).max() < 24 * error_std(4096) * rows**0.5


_cached: list[Keys] = []


def _pair() -> Keys:
    if not _cached:
        _cached.append(Keys.make(4096))
    return _cached[0]


def test_refuses_damaged_and_foreign_rows() -> None:
    pair = _pair()
    scheme = scheme_of(4096, pair, 10)
    sealed = scheme.encrypt(np.zeros(10))
    for damaged in (sealed[:-1], b"\x01", sealed + b"\x00" * 4, b""):
        with pytest.raises(ValueError, match=r"damaged|expected|parse"):
            scheme.start(damaged)
    with pytest.raises(ValueError, match="expected 10"):
        scheme.start(scheme_of(4096, pair, 11).encrypt(np.zeros(11)))


def test_counts_the_rows_of_a_sum() -> None:
    scheme = scheme_of(4096, _pair(), 3, capacity=2)
    row = scheme.encrypt(np.ones(3))
    accumulator = scheme.add(scheme.start(row), row)
    with pytest.raises(OverflowError, match="more than 2"):
        scheme.add(accumulator, row)


def test_key_id_tells_keys_apart() -> None:
    one = scheme_of(4096, _pair(), 3)
    assert one.key_id == scheme_of(4096, _pair(), 4).key_id
    assert one.key_id != scheme_of(4096, Keys.make(4096), 3).key_id
    assert "public" not in repr(one)


@given(parts=st.lists(st.binary(max_size=20), max_size=5))
def test_pack_round_trip(parts: list[bytes]) -> None:
    assert unpack(pack(parts)) == parts
    assert len(pack(parts)) == 1024 * len(parts)


def test_size_of_a_row_never_varies(keys: tuple[int, Keys]) -> None:
    degree, pair = keys
    scheme = scheme_of(degree, pair, degree // 2 + 1)
    random = numpy_generator("sizes")
    rows = [random.uniform(-s, s, degree // 2 + 1) for s in (0.0, 1e-6, 1.0, 50.0)] * 4
    assert len({len(scheme.encrypt(row)) for row in rows}) == 1


def test_refuses_padding_that_is_not_zero() -> None:
    row = bytearray(pack([b"ab"]))
    row[-1] = 1
    with pytest.raises(ValueError, match="damaged"):
        unpack(bytes(row))


def test_more_resolution_holds_fewer_rows() -> None:
    assert most_rows(8192, 20) >= 128
    assert most_rows(4096, 20) > most_rows(8192, 20) > most_rows(8192, 22) >= 8
