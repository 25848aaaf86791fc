"""MNIST as two parties of 30,000 each against centralised training (minutes: run by ``make test-slow``)."""

from __future__ import annotations

import pytest

from fedsec.data.cache import status


@pytest.mark.slow
@pytest.mark.data
def test_two_parties_reach_centralised_accuracy_within_half_a_point() -> None:
    if status("mnist") != "present":
        pytest.skip("MNIST is not there: set FEDSEC_DATA or run `fedsec data fetch mnist`")
    from benchmarks.parity import measure

    (row,) = measure(seeds=(0,))
    assert row["centralised"][-1] > 0.97
    assert abs(row["federated"][-1] - row["centralised"][-1]) < 0.005
    assert row["federated"][-1] > row["one party alone"][-1]
