import pytest
import torch
from torch import nn

from fedsec.audit import masks
from fedsec.audit.masks import masking_of
from fedsec.audit.results import _checks
from fedsec.audit.store import Artifacts
from fedsec.data.examples import DatasetInfo, Examples
from fedsec.data.split import Split
from fedsec.models.flat import FlatModel


class Setup:
    """What `masking_of` reads of a federation."""

    def __init__(self):
        y = torch.arange(60) % 2
        x = 0.3 + 0.3 * y[:, None, None, None].float().expand(60, 1, 2, 2).clone()
        self.info = DatasetInfo(
            name="toy",
            summary="",
            task="classification",
            input_shape=(1, 2, 2),
            classes=("dark", "light"),
            bounds=(0.0, 1.0),
            modality="image",
            public=True,
        )
        nothing = Examples(x[:0], y[:0])
        self.split = Split(nothing, nothing, nothing, Examples(x, y))
        self.model = FlatModel.of(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), task="classification", name="toy")
        self.seed = 0


VECTOR = torch.tensor([0.0] * 4 + [2.5] * 4 + [0.0, -4.5])


def test_the_battery_runs_once_per_model_and_its_result_is_kept(tmp_path, monkeypatch):
    setup, artifacts = Setup(), Artifacts(tmp_path)
    first = masking_of(setup, VECTOR, training="abc", artifacts=artifacts)
    assert first.failed == ()
    assert len(first.checks) == 13

    def never(*args, **kwargs):
        raise AssertionError("the battery ran again")

    monkeypatch.setattr(masks, "battery", never)
    assert masking_of(setup, VECTOR, training="abc", artifacts=artifacts) == first
    with pytest.raises(AssertionError, match="ran again"):
        masking_of(setup, VECTOR, training="another", artifacts=artifacts)


def test_a_masked_model_is_found_in_a_store_as_well(tmp_path):
    found = masking_of(Setup(), 1000 * VECTOR, training="abc", artifacts=Artifacts(tmp_path))
    assert "zero-gradient" in found.failed


def test_over_seeds_a_check_that_failed_once_has_failed():
    def check(name, passed, text):
        return {"name": name, "passed": passed, "text": text, "figures": {}}

    seeds = [[check("a", True, "a0"), check("b", False, "b0")], [check("a", False, "a1"), check("b", False, "b1")]]
    assert _checks(seeds) == [check("a", False, "a1"), check("b", False, "b0")]
    assert _checks([[], []]) == []
