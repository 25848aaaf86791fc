from __future__ import annotations

import ast

import pytest

from fedsec import registry
from fedsec.config.metrics import metrics_of


@pytest.mark.parametrize("judge", registry.names("judges"))
def test_every_judge_of_fedsec_is_read(judge: str) -> None:
    found = metrics_of(judge)
    assert found.names
    assert not found.may_have("no_such_measurement_at_all")


def test_names_that_are_computed_are_let_through() -> None:
    found = metrics_of("membership")
    assert found.may_have("auc")
    assert found.may_have("tpr@0.01")
    assert metrics_of("reconstruction").may_have("psnr")


@pytest.mark.parametrize("judge", ["membership", "text"])
def test_what_a_judge_lists_stands_in_its_source(judge: str) -> None:
    from fedsec.source_text import path_of

    module = registry.get("judges", judge).__module__
    source = path_of(module).read_text()
    listed = registry.get("judges", judge).metrics
    assert metrics_of(judge).names == set(listed)
    # Each is measured somewhere else than in the list, but for rates, which are computed.
    assert all(source.count(f'"{name}"') > 1 for name in listed if "@" not in name)


def test_an_unknown_judge_may_measure_anything() -> None:
    assert metrics_of("nobody").may_have("x")


def test_names_are_those_in_the_source() -> None:
    from fedsec.source_text import path_of

    modules = [path_of(f"fedsec.judges.{module}") for module in ("evasion", "slices")]
    trees = [ast.walk(ast.parse(module.read_text())) for module in modules]
    said = {node.value for tree in trees for node in tree if isinstance(node, ast.Constant)}
    assert metrics_of("evasion").names <= said
