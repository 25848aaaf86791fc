"""The rules beside byzfl 0.0.11's results, computed once in float64 by ``python -m benchmarks.byzfl_agreement``."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fedsec.defenses.aggregation import (
    adaptive_clipping,
    bucketing,
    centered_clipping,
    clip_norms,
    coordinate_median,
    geometric_median,
    krum,
    mean,
    mean_around_median,
    minimum_diameter_averaging,
    multi_krum,
    nearest_neighbor_mixing,
    trimmed_mean,
)

CASES = json.loads((Path(__file__).parent / "byzfl_values.json").read_text())["cases"]
EXAMPLE = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]], dtype=torch.float64)
OURS = {
    "mean": lambda U, f, s: mean(U),
    "coordinate median": lambda U, f, s: coordinate_median(U),
    "trimmed mean": lambda U, f, s: trimmed_mean(U, f=f),
    "mean around median": lambda U, f, s: mean_around_median(U, f=f),
    "Krum (preset byzfl)": lambda U, f, s: krum(U, f=f, preset="byzfl"),
    "Multi-Krum (preset byzfl)": lambda U, f, s: multi_krum(U, f=f, preset="byzfl"),
    "geometric median, three steps from the origin": lambda U, f, s: geometric_median(
        U, nu=0.1 * s, iterations=3, start="origin", tolerance=0.0
    ),
    "geometric median, converged": lambda U, f, s: geometric_median(
        U, smoothing=1e-9, tolerance=1e-13, iterations=20_000
    ),
    "centered clipping, one step": lambda U, f, s: centered_clipping(U, tau=1.5 * s),
    "centered clipping, five steps": lambda U, f, s: centered_clipping(U, tau=0.5 * s, iterations=5),
    "NNM": lambda U, f, s: nearest_neighbor_mixing(U, f=f),
    "clipping": lambda U, f, s: clip_norms(U, c=2.0 * s),
    "ARC": lambda U, f, s: adaptive_clipping(U, f=f),
    "bucketing into one bucket": lambda U, f, s: bucketing(U, s=len(U), generator=torch.Generator().manual_seed(0)),
    "MDA": lambda U, f, s: minimum_diameter_averaging(U, f=f),
}


@pytest.mark.parametrize("rule", OURS)
def test_values_of_byzfl(rule):
    for case in CASES:
        U = torch.tensor(case["rows"], dtype=torch.float64)
        found = OURS[rule](U, case["f"], case["scale"]).numpy()
        largest = float(U.abs().max())
        np.testing.assert_allclose(found / largest, np.array(case["expected"][rule]) / largest, rtol=0, atol=1e-6)


def test_every_expected_value_is_compared():
    assert all(set(case["expected"]) == set(OURS) for case in CASES)
    assert {case["kind"] for case in CASES} == {"normal", "tiny", "far rows", "one direction"}


def test_values_in_byzfls_documentation():
    few = geometric_median(EXAMPLE, nu=0.1, iterations=3, start="origin", tolerance=0.0)
    np.testing.assert_allclose(few.numpy(), [3.78788764, 4.78788764, 5.78788764], atol=1e-8)
    np.testing.assert_allclose(
        nearest_neighbor_mixing(EXAMPLE, f=1).numpy(), [[2.5, 3.5, 4.5], [2.5, 3.5, 4.5], [5.5, 6.5, 7.5]]
    )
    for found in (trimmed_mean(EXAMPLE, f=1), coordinate_median(EXAMPLE), mean(EXAMPLE)):
        np.testing.assert_allclose(found.numpy(), [4.0, 5.0, 6.0])
    for found in (mean_around_median(EXAMPLE, f=1), multi_krum(EXAMPLE, f=1, preset="byzfl")):
        np.testing.assert_allclose(found.numpy(), [2.5, 3.5, 4.5])
    np.testing.assert_allclose(krum(EXAMPLE, f=1, preset="byzfl").numpy(), [1.0, 2.0, 3.0])
    np.testing.assert_allclose(minimum_diameter_averaging(EXAMPLE, f=1).numpy(), [2.5, 3.5, 4.5])
