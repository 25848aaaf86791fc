"""The example that measures robustness: what its figures need to be comparable."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedsec.audit.api import Audit

EXAMPLE = Path(__file__).parents[2] / "examples" / "robustness.yaml"
FEW = 0.5


@pytest.fixture(scope="module")
def audits() -> dict[str, Audit]:
    return {audit.config.name: audit for audit in Audit.load_all(EXAMPLE)}


def test_all_of_one_document_attack_and_train_in_one_ball_on_one_set_of_inputs(audits: dict[str, Audit]) -> None:
    for name in ("training", "mixed"):
        config = audits[name].config
        evasion = [e.plugin.spec() for e in config.attacks if e.plugin.judge == "evasion"]
        linf = [parameters for parameters in evasion if parameters["norm"] == "linf"]
        trained = [d.spec() for stack in config.stacks for d in stack.defenses]
        sizes = {parameters["eps"] for parameters in (*linf, *trained) if "eps" in parameters}
        assert len(sizes) == 1
        assert len({parameters["examples"] for parameters in linf}) == 1


def test_ramps_end_and_feigned_robustness_starts_before_the_training_does(audits: dict[str, Audit]) -> None:
    config = audits["training"].config
    ramps = [d.spec().get("ramp", 0) for stack in config.stacks for d in stack.defenses]
    assert 0 < max(ramps) < FEW * config.federation.rounds
    feigned = audits["feigned"].config
    assert all(e.plugin.spec()["first_round"] < feigned.federation.rounds for e in feigned.attacks)


@pytest.mark.data
@pytest.mark.skipif("FEDSEC_DATA" not in os.environ, reason="needs FEDSEC_DATA")
def test_every_attack_meets_every_stack(audits: dict[str, Audit]) -> None:
    for audit in audits.values():
        plan = audit.plan()
        config = audit.config
        assert len(plan.cells) == len(config.attacks) * len(config.stacks) * len(config.seeds)
        assert not plan.excluded
