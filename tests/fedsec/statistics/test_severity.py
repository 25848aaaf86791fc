import math

import pytest

from fedsec.statistics.severity import BANDS, RUBRIC_VERSION, Severity, severity_of


@pytest.mark.parametrize(
    ("advantage", "band"),
    [
        (1.0, "critical"), (0.75, "critical"), (0.7499, "high"), (0.5, "high"), (0.4999, "medium"),
        (0.25, "medium"), (0.2499, "low"), (0.05, "low"), (0.0499, "none"), (0.0, "none"),
    ],
)  # fmt: skip
def test_bands(advantage, band):
    assert severity_of(advantage) == Severity(band)


@pytest.mark.parametrize("advantage", [-0.1, 1.1, math.nan])
def test_what_is_no_advantage_is_refused(advantage):
    with pytest.raises(ValueError, match="lies in"):
        severity_of(advantage)


def test_every_band_is_there_worst_first():
    assert [band for band, _ in BANDS] == list(Severity)
    assert RUBRIC_VERSION == 1
