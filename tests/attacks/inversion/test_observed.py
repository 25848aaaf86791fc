import pytest
import torch

from fedsec.attacks.inversion.inverting_gradients import InvertingGradients
from fedsec.attacks.inversion.linear_layer import LinearLayerInversion
from fedsec.attacks.inversion.observed import layers_rescaled, observe, saturated
from fedsec.randomness import generator

LAYERS = (slice(0, 4160), slice(4160, 4810))


def test_cut_coordinates_are_found_and_nothing_else():
    updates = torch.randn(2, 200, generator=generator(0))
    cut = updates.abs() > 1.0
    assert torch.equal(saturated(updates.clamp(-1.0, 1.0)), cut)
    assert not bool(saturated(updates).any())
    assert not bool(saturated(updates.sign()).any())
    assert not bool(saturated(torch.zeros(1, 5)).any())


def test_layers_of_one_norm_were_rescaled():
    update = torch.randn(1, 4810, generator=generator(1))
    assert not bool(layers_rescaled(update, LAYERS))
    clipped = torch.cat([update[:, span] / update[:, span].norm() for span in LAYERS], 1)
    assert bool(layers_rescaled(clipped, LAYERS))
    assert not bool(layers_rescaled(update[:, :4160], LAYERS[:1]))


def test_what_is_observed_is_blind_to_what_clipping_did():
    update = torch.randn(1, 4810, generator=generator(1))
    factors = [1 / update[:, span].norm() for span in LAYERS]
    clipped = torch.cat([update[:, span] * f for span, f in zip(LAYERS, factors, strict=True)], 1)
    seen = observe(clipped, clipped, LAYERS)
    assert torch.allclose(seen(update), seen(clipped), atol=1e-6)
    clipped = update.clamp(-2, 2)
    seen = observe(clipped, -clipped, LAYERS)
    assert torch.equal(seen(-update), -clipped)
    assert torch.equal(seen(-clipped), -clipped)


def by_layer(update):
    parts = [update[span] for span in LAYERS]
    return torch.cat([part * (1e-3 / part.norm()).clamp_max(1) for part in parts])


def by_value(update):
    return update.clamp(-0.2 * update.abs().max(), 0.2 * update.abs().max())


@pytest.mark.parametrize("change", [by_layer, by_value])
@pytest.mark.parametrize("attack", [InvertingGradients(), LinearLayerInversion()], ids=lambda attack: attack.name)
def test_clipping_by_layer_or_by_value_is_no_defense(scene, networks, attack, change):
    s = scene(attack.threat, networks["mlp"](), change=change, stack=("clip",))
    result = s.judge(attack.run(s.view, s.facts, generator=generator(0)))
    assert result["identified"] >= 0.8
