from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsec.config.schema import RANKS, GateEntry
from fedsec.statistics.severity import BANDS


def gate(**bound: object) -> GateEntry:
    return GateEntry(**{"attack": "*", "stack": "*", "metric": "severity", "below": None, "above": None} | bound)


def test_ranks_are_the_bands_from_the_least() -> None:
    assert list(RANKS) == [str(band) for band, _ in reversed(BANDS)]


@pytest.mark.parametrize("bound", RANKS[1:])
@pytest.mark.parametrize("found", RANKS)
def test_a_severity_must_be_strictly_below(bound: str, found: str) -> None:
    assert gate(below=bound).holds(RANKS.index(found)) == (RANKS.index(found) < RANKS.index(bound))


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_numbers_are_compared_strictly(bound: float, value: float) -> None:
    assert gate(below=bound).holds(value) == (value < bound)
    assert gate(above=bound).holds(value) == (value > bound)


def test_what_is_not_a_number_meets_nothing() -> None:
    assert not gate(below=1.0).holds(float("nan"))
    assert not gate(above=0.0).holds(float("nan"))


def test_gates_in_words() -> None:
    assert gate(below="high").text == "severity of every attack on every stack below high"
    assert gate(attack="dlg", stack="ckks", metric="auc", above=0.5).text == "auc of dlg on ckks above 0.5"
