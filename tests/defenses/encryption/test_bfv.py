"""BFV: the opened sum is the quantised sum to the bit, and what cannot fit is refused."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tenseal as ts
import torch
from digit_federation import digits
from hypothesis import given, settings
from hypothesis import strategies as st
from sealed_rounds import context, integer_mean, opened, setting, summed

from fedsec.defenses.clipping.plugins import ClipNorm
from fedsec.defenses.encryption.bfv import BFV
from fedsec.defenses.encryption.bfv_scheme import (
    DEGREE,
    LIMIT_BITS,
    PLAIN_MODULUS,
    PRIMES,
    ROOM_BITS,
    BFVKeys,
    BFVScheme,
    most_rows,
    noise_std,
)  # fmt: skip
from fedsec.defenses.encryption.public_context import pack, unpack
from fedsec.defenses.encryption.quantised import Lanes
from fedsec.errors import ConfigurationError
from fedsec.federation.rounds import Federation
from fedsec.protocol.compose import check_stack
from fedsec.protocol.events import Topic
from fedsec.protocol.payload import Plain, Sealed
from fedsec.protocol.stage import EnforcedBy
from fedsec.protocol.view import project
from fedsec.randomness import generator, numpy_generator

VAULT: dict[str, Any] = {}
"""One key pair for the whole file; what depends on parameters is made again."""


def vault() -> dict[str, Any]:
    if "bfv-keys" not in VAULT:
        VAULT["bfv-keys"] = BFVKeys.make()
    return {"bfv-keys": VAULT["bfv-keys"]}


@settings(deadline=None, max_examples=25)
@given(
    d=st.sampled_from([1, 2, 7, 8190, 8192, 16380, 16381, 20_000]), n=st.integers(1, 5), bits=st.integers(2, 20),
    weighted=st.booleans(), size=st.sampled_from([0.01, 0.3, 2.0]), seed=st.integers(0, 1000),
)  # fmt: skip
def test_the_opened_sum_is_the_quantised_sum(d: int, n: int, bits: int, weighted: bool, size: float, seed: int) -> None:
    random = generator("bfv", seed)
    values = size * torch.randn(n, d, generator=random, dtype=torch.float64)
    weights = torch.randint(1, 601, (n,), generator=random).double() if weighted else torch.ones(n).double()
    defense = BFV(bits=bits, largest_weight=600 if weighted else None)
    told, update = context(d, n, vault=vault(), seed=seed), Plain(values, weights)
    got = opened(defense, update, told)
    assert torch.equal(got.values[0], integer_mean(defense, update, told))
    assert float(got.weights[0]) == float(weights.sum())
    cut = int((values.abs() > defense.bound).sum())
    assert told.report["saturated"] == cut
    assert told.report["saturated_share"] == cut / values.numel()


def test_many_clients_at_the_ends_of_the_range() -> None:
    """64 clients that all send the largest or the smallest code: full lanes, and neighbours stay apart."""
    n, d = 64, 9
    values = torch.where(torch.arange(d) % 2 == 0, 99.0, -99.0).expand(n, d).clone()
    defense = BFV(largest_weight=1000)
    got = opened(defense, Plain(values, torch.full((n,), 1000.0)), context(d, n, vault=vault()))
    assert torch.allclose(got.values[0], torch.where(torch.arange(d) % 2 == 0, 1.0, -1.0), atol=1e-12)
    assert float(got.weights[0]) == 64_000
    assert defense.lanes(64) == Lanes(14, 64, ROOM_BITS)
    assert defense.lanes(64).count == 2


def test_chunks_of_a_cohort_and_processes_change_nothing() -> None:
    update = Plain(0.2 * torch.randn(4, 9000, generator=generator("chunks")), torch.ones(4))
    told = context(9000, 4, vault=vault(), cohort=4)
    whole = BFV().seal(update, told)
    parts = [BFV().seal(update.rows([c]), context(9000, (c,), vault=vault(), cohort=4)) for c in range(4)]
    spread_vault = vault()
    spread = BFV(processes=2).seal(update, context(9000, 4, vault=spread_vault, cohort=4))
    pool = spread_vault["bfv-processes"]
    again = BFV(processes=2).seal(update, context(9000, 4, vault=spread_vault, cohort=4))
    assert spread_vault["bfv-processes"] is pool
    pool.close()
    truth = integer_mean(BFV(), update, told).float()
    joined = Sealed(tuple(p.ciphertexts[0] for p in parts), whole.scheme, whole.holders)
    for sealed in (whole, joined, spread, again):
        assert torch.equal(BFV().open(summed(sealed), told).values[0], truth)


def test_one_row_and_streamed_rows() -> None:
    update = Plain(torch.randn(3, 50, generator=generator("one")), torch.ones(3))
    told = context(50, 3, vault=vault())
    sealed = BFV().seal(update, told)
    alone = BFV().open(sealed.rows([1]), told)
    assert torch.equal(alone.values[0], integer_mean(BFV(), update.rows([1]), context(50, (1,), vault={})).float())
    with pytest.raises(ValueError, match="one sum"):
        BFV().open(sealed, told)
    assert len(BFV().seal(Plain(torch.zeros(0, 50), torch.zeros(0)), context(50, (), vault=vault()))) == 0


def test_range_and_weights_are_bounded() -> None:
    told = context(2, 1, vault=vault())
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ConfigurationError, match="finite"):
            BFV().seal(Plain(torch.tensor([[bad, 0.0]]), torch.ones(1)), told)
    for weight in (11.0, 2.5, 0.0, -1.0):
        with pytest.raises(ConfigurationError, match="largest_weight"):
            BFV(largest_weight=10).seal(Plain(torch.zeros(1, 2), torch.tensor([weight])), told)
    assert BFV().unit_weights
    assert not BFV(largest_weight=10).unit_weights
    assert float(opened(BFV(), Plain(torch.zeros(1, 2), torch.tensor([55.0])), told).weights[0]) == 1.0


def test_a_sum_of_more_rows_than_planned_raises() -> None:
    sealed = BFV(capacity=2).seal(Plain(torch.zeros(3, 4), torch.ones(3)), context(4, 3, vault=vault()))
    with pytest.raises(OverflowError, match="more than 2"):
        summed(sealed)


def test_canary_never_crosses_the_wire() -> None:
    canary = 0.123456789
    values = torch.full((2, 3000), canary)
    sealed = BFV().seal(Plain(values, torch.ones(2)), context(3000, 2, vault=vault()))
    code = round(canary / BFV().grid.step) + BFV().grid.levels
    packed = int(BFV().lanes(16).pack(np.array([code, code]))[0])
    patterns = [struct.pack(kind, v) for kind in ("<f", "<d", ">f", ">d") for v in (canary, float(np.float32(canary)))]
    patterns += [struct.pack(kind, packed) for kind in ("<q", ">q")]
    for row in range(2):
        wire = bytes(sealed.serialise(row))
        assert len(wire) == sealed.nbytes(row)
        assert not any(pattern in wire for pattern in patterns)
    assert sealed.ciphertexts[0] != sealed.ciphertexts[1]


def test_no_secret_on_the_public_side() -> None:
    keys = vault()["bfv-keys"]
    scheme = BFVScheme(keys.public, 10, Lanes(14, 64, ROOM_BITS), torch.float32)
    assert not ts.context_from(keys.public).has_secret_key()
    assert ts.context_from(keys.public).is_public()
    assert not scheme.context.has_secret_key()
    secret = keys.secret.serialize(
        save_public_key=False, save_secret_key=True, save_galois_keys=False, save_relin_keys=False
    )
    assert secret[-4096:] not in keys.public
    leaky = keys.secret.serialize(save_secret_key=True, save_galois_keys=False, save_relin_keys=False)
    with pytest.raises(PermissionError, match="secret key"):
        _ = replace(scheme, public=leaky).context
    with pytest.raises(ValueError, match="secret"):
        ts.bfv_vector_from(scheme.context, unpack(scheme.join([scheme.encrypt_chunk(bytes(80))]))[0]).decrypt()


def test_only_the_key_opens() -> None:
    told = context(4, 2, vault=vault())
    total = summed(BFV().seal(Plain(torch.ones(2, 4), torch.ones(2)), told))
    with pytest.raises(PermissionError, match="no secret key"):
        BFV().open(total, context(4, 2, vault={}))
    with pytest.raises(PermissionError, match="no secret key"):
        BFV().open(total, context(4, 2, vault={"bfv-keys": BFVKeys.make()}))
    other = BFVKeys.make().decrypt(total.ciphertexts[0])
    assert not (other[:1] == 2).all()


@pytest.mark.parametrize(("holder", "opens"), [("clients", "client:3"), ("authority", "key-holder")])
def test_custody(holder: Any, opens: str) -> None:
    defense = BFV(key_holder=holder)
    sealed = defense.seal(Plain(torch.ones(2, 4), torch.ones(2)), context(4, 2, vault=vault()))
    assert sealed.holders == defense.holders
    assert not sealed.opens(frozenset({"server"}))
    assert sealed.opens(frozenset({"server", opens}))
    assert defense.enforcement == EnforcedBy.FORMAT
    assert opens.partition(":")[0] in str(defense.claims(setting())["opened_by"])


def test_a_threshold_key_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="neither TenSEAL nor phe"):
        BFV(key_holder="threshold")


def test_parameters_of_the_scheme() -> None:
    assert sum(PRIMES) <= LIMIT_BITS
    assert PLAIN_MODULUS % (2 * DEGREE) == 1
    assert 2**ROOM_BITS < PLAIN_MODULUS < 2 ** (ROOM_BITS + 1)
    assert all(PLAIN_MODULUS % p for p in range(2, 2_097_152))
    assert most_rows() > 4096


def test_noise_is_what_the_formula_says() -> None:
    """Adding a row to itself multiplies its noise, which decrypts rightly up to the limit of the largest coefficient.

    By the bound on the deviation (26.1), the largest of 8192 coefficients stays below 5.5 of them: 144.
    """
    keys = vault()["bfv-keys"]
    scheme = BFVScheme(keys.public, 0, Lanes(14, 1, ROOM_BITS), torch.float32)
    slots = numpy_generator("noise").integers(0, PLAIN_MODULUS, DEGREE)
    vector = scheme.load(scheme.encrypt_chunk(slots.tobytes()))
    limit = 2.0 ** (PRIMES[0] - 1) / (2 * PLAIN_MODULUS)

    assert noise_std() < 26.2
    doubled, times = vector.copy(), 1
    while times * 2 * 144 < limit:
        doubled.add_(doubled.copy())
        times *= 2
        assert keys.decrypt(pack([doubled.serialize()])).tolist() == [int(s) * times % PLAIN_MODULUS for s in slots]
    # it does fail in the end: the limit is real
    for _ in range(6):
        doubled.add_(doubled.copy())
        times *= 2
    assert keys.decrypt(pack([doubled.serialize()])).tolist() != [int(s) * times % PLAIN_MODULUS for s in slots]


def test_planner_hears_of_what_does_not_fit() -> None:
    assert not BFV().problems(setting(cohort=64))
    crowd = setting(cohort=1 << 18, population=1 << 18)
    found = BFV(bits=24).problems(crowd)
    assert any("slot" in what for what, _ in found)
    assert any("noise" in what for what, _ in found)
    (fix,) = (fix for what, fix in found if "takes" in what)
    assert BFV(bits=int(fix.split(": ")[1].strip("`"))).lanes(1 << 18).count == 1
    assert BFV(largest_weight=1 << 20, bits=2).problems(setting(cohort=1 << 21, population=1 << 21))


def test_wrong_order_is_refused_by_type_and_by_the_planner() -> None:
    told = context(4, 2, vault=vault())
    sealed = BFV().seal(Plain(torch.ones(2, 4), torch.ones(2)), told)
    with pytest.raises(TypeError, match="before sealing"):
        BFV().seal(sealed, told)
    with pytest.raises(TypeError, match="opens what bfv sealed"):
        BFV().open(Plain(torch.ones(1, 4), torch.ones(1)), told)
    assert not check_stack([ClipNorm(), BFV()], setting())
    assert check_stack([BFV(), ClipNorm()], setting())
    assert check_stack([BFV()], setting(), server_optimizer="adam")


def test_an_empty_round_passes() -> None:
    nothing = Plain(torch.zeros(1, 4), torch.zeros(1))
    assert BFV().open(nothing, context(4, 2, vault={})) is nothing


def test_bytes_are_as_claimed() -> None:
    d = 40_000
    sealed = BFV().seal(Plain(torch.zeros(1, d), torch.ones(1)), context(d, 1, vault=vault(), cohort=10))
    assert sealed.nbytes(0) == BFV().claims(setting(d))["upload_bytes"]
    assert sealed.nbytes(0) <= 3 * 4 * d


def test_does_not_help_against_poisoning_within_its_range() -> None:
    """A poisoned row moves the opened mean as far as in clear, up to the bound, where it is cut off."""
    values = torch.zeros(4, 10)
    values[3] = 1.0
    got = opened(BFV(), Plain(values, torch.ones(4)), context(10, 4, vault=vault()))
    assert torch.allclose(got.values[0], values.mean(0), atol=1e-7)
    values[3] = 500.0
    got = opened(BFV(), Plain(values, torch.ones(4)), context(10, 4, vault=vault()))
    assert torch.allclose(got.values[0], torch.full((10,), 0.25), atol=1e-7)


def test_in_a_federation_the_server_reads_nothing_and_the_result_is_nearly_that_in_clear() -> None:
    setup = digits(clients=4, rounds=2)
    most = int(setup.index.sizes().max())
    defense = BFV(bound=4.0, bits=16, largest_weight=most)
    wanted = {topic: frozenset({0, 1}) for topic in (Topic.UPLOAD, Topic.AGGREGATE, Topic.BROADCAST)}
    sealed, plain = Federation(setup, (defense,), wanted=wanted).run(), Federation(setup).run()
    assert not defense.problems(setup.setting((defense,)))
    assert (sealed.released - plain.released).abs().max() < 4 * defense.grid.step
    assert sealed.diagnostics["bfv.saturated"] == 0
    server, denied = project(sealed.events, "server", wanted)
    assert all(torch.equal(event.values, setup.initial) for event in server.events), "the initial model is public"
    assert {one.topic for one in denied} == set(wanted)
    both, _ = project(sealed.events, "server+client:3", wanted)
    assert len(both.of(Topic.UPLOAD)) == 8
    assert len(both.of(Topic.AGGREGATE)) == 2
    ((found, fix),) = BFV(largest_weight=most - 1).problems(setup.setting((BFV(largest_weight=most - 1),)))
    assert str(most) in found
    assert fix == f"set `largest_weight: {most}`"
