"""The price list: the fitted formula, and bytes and seconds of stacks whose costs are known."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsec.defenses.aggregation.coordinate_rules import CoordinateMedian
from fedsec.defenses.compression.plugins import Sign
from fedsec.defenses.encryption.ckks import CKKS
from fedsec.defenses.privacy.client_level import ClientLevelDP
from fedsec.federation.prices import Cost, fitted, price
from fedsec.models.flat import Layout, Slot
from fedsec.protocol.stage import Defense, Guarantee, Setting

D = 3000
SETTING = Setting(
    population=40, cohort=8.0, rounds=5, sampling="all", layout=Layout((Slot("w", (D,), 0, D, True),)), local_steps=1,
    batch_size=8, has_batch_norm=False, task="classification", bounds=(0.0, 1.0), stack=(),
)  # fmt: skip


@given(fixed=st.floats(0, 5), each=st.floats(1e-3, 5))
def test_a_line_is_found_and_has_no_pairs(fixed, each):
    sizes = (4, 8, 16)
    found = fitted(sizes, [fixed + each * n for n in sizes])
    assert found.pairs == 0.0
    assert found.at(500) == pytest.approx(fixed + each * 500, rel=1e-6)


@given(fixed=st.floats(0, 5), each=st.floats(0, 5), pairs=st.floats(0.2, 2))
def test_what_grows_with_pairs_is_told_from_a_line(fixed, each, pairs):
    sizes = (4, 16, 64)
    true = Cost(fixed=fixed, each=each, pairs=pairs)
    found = fitted(sizes, [true.at(n) for n in sizes])
    assert found.at(300) == pytest.approx(true.at(300), rel=0.25)
    assert min(found.fixed, found.each, found.pairs) >= 0.0


def test_no_formula_from_two_sizes():
    with pytest.raises(ValueError, match="three sizes"):
        price((), SETTING, sizes=(4, 8))


def test_bytes_are_those_of_the_wire():
    nothing = price((), SETTING, sizes=(2, 3, 4), repeats=1)
    assert nothing.upload == nothing.plain == 4 * (D + 1)
    assert nothing.download == 4 * D
    assert nothing.protocol == (0.0, 0.0, 0.0)
    assert price((Sign(),), SETTING, sizes=(2, 3, 4), repeats=1).upload < nothing.plain / 25
    sealed = price((CKKS(),), SETTING, sizes=(2, 3, 4), repeats=1)
    assert sealed.upload > 8 * nothing.plain
    # the server cannot read the next model: it forwards the sealed aggregate
    assert sealed.download > 8 * nothing.plain


def test_stages_of_a_stack_are_priced_together():
    both = price((ClientLevelDP(), CKKS()), SETTING, sizes=(2, 3, 4), repeats=1)
    assert both.upload == price((CKKS(),), SETTING, sizes=(2, 3, 4), repeats=1).upload
    assert set(both.seconds) == {"seal", "serialise", "add", "open"}
    assert both.client_seconds(4) == pytest.approx((both.seconds["seal"].at(4) + both.seconds["serialise"].at(4)) / 4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hoarder(Defense):
    """Holds 64 MiB while it seals."""

    name = "hoarder"
    guarantee = Guarantee(protects="nothing", against="nobody", assuming="nothing")

    def seal(self, update, context):
        assert len(bytearray(b"x" * (1 << 26))) == 1 << 26
        return update


def test_the_peak_of_memory_is_that_of_the_stages():
    found = price((Hoarder(),), SETTING, sizes=(2, 3, 4), repeats=1).peak
    if found is None:
        pytest.skip("this system does not tell the peak of a process's memory")
    assert 50e6 < found < 400e6


def test_a_rule_is_left_out():
    assert price((CoordinateMedian(),), SETTING, sizes=(2, 3, 4), repeats=1).upload == 4 * (D + 1)
