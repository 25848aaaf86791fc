"""Mistakes that are made with differential privacy, and the measurement that gives each of them away.

Ours pass the same measurement. (Adaptive clipping with the opposite sign is in `test_adaptive`.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from fedsec.defenses.clipping.norms import clip_norms
from fedsec.defenses.privacy.client_level import ClientLevelDP
from fedsec.defenses.privacy.ftrl import TreeDP
from fedsec.defenses.privacy.local import LocalDP, noise_rows
from fedsec.defenses.privacy.sample_level import SampleLevelDP
from fedsec.epsilon.gaussian import gaussian_epsilon
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import Defense, RoundContext, Setting
from fedsec.randomness import generator

Contexts = Callable[..., RoundContext]
Settings = Callable[..., Setting]


@dataclass(frozen=True, kw_only=True)
class NoiseBeforeClipping(LocalDP):
    def seal(self, update: Plain, context: RoundContext) -> Plain:  # type: ignore[override]
        std = self._noise_multiplier(context) * self.clip_norm
        noisy = update.values + std * noise_rows(context.clients, update.values, context)
        return Plain(clip_norms(noisy, self.clip_norm)[0], torch.ones_like(update.weights))


@dataclass(frozen=True, kw_only=True)
class WeighsByExamples(ClientLevelDP):
    def seal(self, update: Plain, context: RoundContext) -> Plain:  # type: ignore[override]
        return Plain(clip_norms(update.values, self.clip_norm)[0], update.weights)

    def open(self, aggregate: Plain, context: RoundContext) -> Plain:  # type: ignore[override]
        noise = torch.randn(aggregate.values.shape[1], generator=context.generator("noise"))
        std = self._noise_multiplier(context) * self.clip_norm / context.cohort
        return Plain(aggregate.values + std * noise, aggregate.weights)


@dataclass(frozen=True, kw_only=True)
class ForgetsRounds(ClientLevelDP):
    def claims(self, setting: Setting) -> dict[str, float | str]:
        return super().claims(Setting(**{**vars(setting), "rounds": 1}))


def measured_noise(defense: Defense, context: Contexts) -> float:
    """Standard deviation of what a client sends for an update of zeros."""
    sealed = defense.seal(Plain(torch.zeros(2, 20_000), torch.ones(2)), context(20_000, (0, 1)))
    assert isinstance(sealed, Plain)
    return float(sealed.values.std())


def test_noise_before_clipping_is_smaller_than_claimed(context: Contexts, setting: Settings) -> None:
    for twin, right in ((LocalDP(), True), (NoiseBeforeClipping(), False)):
        claimed = float(twin.claims(setting())["noise_std"])
        assert (measured_noise(twin, context) > 0.95 * claimed) is right


def moved_by_one(defense: ClientLevelDP, context: Contexts, weights: Tensor) -> float:
    """How far one client's update, of whatever weight, moves what is published."""
    values = torch.nn.functional.normalize(torch.randn(5, 30, generator=generator("v")), dim=1)
    opened = []
    for count in (5, 4):
        told = context(30, tuple(range(count)), cohort=5.0)
        sealed = defense.seal(Plain(values[:count], weights[:count]), told)
        total = sealed.weights.sum()
        mean = Plain((sealed.weights @ sealed.values / total)[None], total[None])
        opened.append(defense.open(mean, told).values[0])
    return float((opened[0] - opened[1]).norm())


def test_weights_make_a_client_move_more_than_its_share(context: Contexts) -> None:
    weights = torch.tensor([1.0, 1.0, 1.0, 1.0, 100.0])
    for twin, right in ((ClientLevelDP(noise_multiplier=0.05), True), (WeighsByExamples(noise_multiplier=0.05), False)):
        assert (moved_by_one(twin, context, weights) <= 1.0 / 5 + 1e-6) is right


@pytest.mark.parametrize("sampling", ["all", "poisson"])
def test_epsilon_grows_with_the_rounds(setting: Settings, sampling: str) -> None:
    """Without sampling, no claim below that of the composition of all rounds is true."""
    holdings = (1000,) * 10
    for defense, right in (
        (ClientLevelDP(), True),
        (TreeDP(), True),
        (LocalDP(), True),
        (SampleLevelDP(), True),
        (ForgetsRounds(), False),
    ):
        found = [
            float(defense.claims(setting(rounds=t, sampling=sampling, cohort=100, holdings=holdings))["epsilon"])
            for t in (1, 10, 100)
        ]
        assert (found[0] < found[1] < found[2]) is right
    forgets = float(ForgetsRounds().claims(setting(rounds=100, sampling="all"))["epsilon"])
    assert forgets < gaussian_epsilon(10.0, 1e-4)
