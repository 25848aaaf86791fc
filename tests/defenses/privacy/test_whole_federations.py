"""Differential privacy in whole federations on the digits: it trains, keeps its memory over rounds, and composes."""

from __future__ import annotations

import functools

import pytest
import torch
from digit_federation import digits

from fedsec.defenses.aggregation.coordinate_rules import TrimmedMean
from fedsec.defenses.encryption.bfv import BFV
from fedsec.defenses.privacy.adaptive import AdaptiveClientLevelDP
from fedsec.defenses.privacy.distributed import DistributedDP
from fedsec.defenses.privacy.ftrl import TreeDP
from fedsec.defenses.privacy.local import LocalDP
from fedsec.defenses.privacy.sample_level import SampleLevelDP
from fedsec.defenses.secure_aggregation.plugin import SecureAggregation
from fedsec.federation.result import TrainingResult
from fedsec.federation.rounds import Federation
from fedsec.protocol.compose import check_stack
from fedsec.protocol.stage import Defense


@functools.cache
def trained(*stack: Defense) -> TrainingResult:
    setup = digits(rounds=6)
    assert not check_stack(stack, setup.setting(stack))
    return Federation(setup, stack).run()


def test_little_noise_costs_little_and_much_noise_everything() -> None:
    plain = trained().accuracy[-1]
    little = trained(SampleLevelDP(clip_norm=20.0, noise_multiplier=0.05)).accuracy[-1]
    much = trained(SampleLevelDP(clip_norm=20.0, noise_multiplier=50.0)).accuracy[-1]
    assert plain > 0.85
    assert little > plain - 0.05
    assert much < 0.5


def test_the_same_seed_gives_the_same_model() -> None:
    stack = (SampleLevelDP(),)
    again = Federation(digits(rounds=6), stack).run()
    assert torch.equal(trained(*stack).released, again.released)
    assert "dp-sample.clipped_share" in again.diagnostics


def test_sample_level_composes_with_rules_and_encryption() -> None:
    """What comes after the client's own noise is post-processing: rules, and ciphertexts."""
    for rest in ((TrimmedMean(f=2),), (BFV(),)):
        stack = (SampleLevelDP(clip_norm=2.0, noise_multiplier=0.5), *rest)
        result = trained(*stack)
        assert result.accuracy[-1] > 0.5
        (claim,) = [claim for claim in result.claims if claim["defense"] == "dp-sample"]
        assert claim["unit"] == "example"
        assert claim["steps"] == 6 * 5


def test_local_noise_composes_with_a_rule_and_central_noise_does_not() -> None:
    setup, rule = digits(rounds=6), TrimmedMean(f=2)
    assert not check_stack((LocalDP(), rule), setup.setting((LocalDP(), rule)))
    for central in (AdaptiveClientLevelDP(count_noise=2.0), TreeDP()):
        refusals = check_stack((central, rule), setup.setting((central, rule)))
        assert "trimmed-mean replaces the mean" in refusals[0].found


@pytest.mark.parametrize("engine", ["sequential", "stacked"])
def test_the_bound_moves_between_rounds(engine: str) -> None:
    setup = digits(rounds=6)
    defense = AdaptiveClientLevelDP(clip_norm=0.01, count_noise=2.0, noise_multiplier=0.5, rate=1.0)
    result = Federation(setup, (defense,), engine=engine).run()
    assert result.diagnostics["dp-client-adaptive.clip_norm"] > 0.02


def test_tree_noise_stays_while_rounds_pass() -> None:
    """Noise of the last model is that of few nodes: with one client's bound a round it would have drowned."""
    assert trained(TreeDP(clip_norm=1.0, noise_multiplier=0.05)).accuracy[-1] > 0.75


def test_distributed_noise_under_secure_sums() -> None:
    """The sum is exact on the grid, which the stage checks when it opens it, whatever the noise."""
    little, much = (
        trained(DistributedDP(clip_norm=1.0, noise_multiplier=noise, value_range=8.0, bits=14), MASKED_14)
        for noise in (0.05, 2.5)
    )
    assert little.diagnostics["dp-distributed.dropped_round"] == much.diagnostics["dp-distributed.dropped_round"] == 0
    assert little.accuracy[-1] > 0.7
    assert much.accuracy[-1] < little.accuracy[-1] - 0.02


MASKED_14 = SecureAggregation(value_range=8.0, bits=14, max_weight=1, minimum_cohort=18)


def test_distributed_noise_under_bfv() -> None:
    behind = BFV(bound=4.0, bits=12)
    result = trained(DistributedDP(clip_norm=1.0, noise_multiplier=0.05, behind="bfv", bits=12), behind)
    assert result.accuracy[-1] > 0.7
