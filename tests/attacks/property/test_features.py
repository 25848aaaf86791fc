import pytest
import torch
from torch import nn

from fedsec.attacks.property.features import features, melis_features, scale_columns, standardise
from fedsec.attacks.property.reading import fit_and_score, span
from fedsec.models.flat import FlatModel


def flat(net):
    return FlatModel.of(net, task="classification", name="net")


MODEL = flat(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))


def test_features_forget_the_scale_but_not_the_sign():
    update = torch.randn(3, MODEL.layout.size, generator=torch.Generator().manual_seed(0))
    one, scaled, flipped = (features(u, MODEL.layout)[0] for u in (update, 5 * update, -update))
    assert torch.allclose(one[:, 1:], scaled[:, 1:])
    assert not torch.allclose(one, flipped)
    assert features(torch.zeros(1, MODEL.layout.size), MODEL.layout)[0].isfinite().all()


def test_large_tensors_are_summarised_and_blocks_weigh_alike():
    net = nn.Sequential(nn.Conv2d(20, 30, 3), nn.Flatten(), nn.Linear(300, 40))
    wide = FlatModel.of(net, task="classification", name="wide")
    updates = torch.randn(20, wide.layout.size, generator=torch.Generator().manual_seed(0))
    found, widths = features(updates, wide.layout)
    blocks = [5, 20, 30, 20, 30, 300, 40, 300, 40]
    assert found.shape == (20, sum(blocks))
    assert list(widths) == blocks
    scaled, _ = standardise(found, found, widths)
    assert scaled.square().sum(1).mean().item() == pytest.approx(len(blocks), rel=0.05)


def test_rounding_of_still_coordinates_does_not_explode():
    generator = torch.Generator().manual_seed(0)
    known = torch.randn(30, 6, generator=generator, dtype=torch.float64) * torch.tensor([1, 1, 1, 1e-6, 1e-9, 0])
    observed = torch.full((2, 6), 1e-3, dtype=torch.float64)
    assert standardise(known, observed, (6,))[1].abs().max() < 1
    still = torch.randn(30, 4, generator=generator, dtype=torch.float64) * 1e-9
    assert standardise(still, still[:1] + 1e-6, (4,))[1].abs().max() < 0.1


def test_melis_features_are_the_published_ones():
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(80, 70, 1), nn.Flatten(), nn.Linear(4, 3), nn.Linear(600, 10))
    model = flat(net)
    updates = torch.randn(2, model.layout.size, generator=torch.Generator().manual_seed(0))
    named = model.layout.split(updates)
    found = melis_features(updates, model.layout)
    # written out one by one: biases and the wide convolution are dropped, the wide layer enters by rows
    for row in range(2):
        parts = []
        kernel, small, wide = (named[f"{n}.weight"][row] for n in (0, 3, 4))
        parts += [float(kernel[o, i].abs().max()) for o in range(3) for i in range(2)]
        parts += [abs(float(small[o, i])) for o in range(3) for i in range(4)]
        parts += [float(wide[o].abs().max()) for o in range(10)]
        length = sum(value**2 for value in parts) ** 0.5
        assert found[row].tolist() == pytest.approx([value / length for value in parts], rel=1e-6)
    assert torch.equal(melis_features(-updates, model.layout), found)


def test_scaling_is_fitted_on_simulated_updates_alone():
    generator = torch.Generator().manual_seed(0)
    known, observed = (torch.randn(30, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    for scaled in (scale_columns, lambda k, o: standardise(k, o, (2, 3))):
        one, _ = scaled(known, observed)
        other, far = scaled(known, torch.cat([observed[:1], 1000 * observed]))
        assert torch.equal(one, other)
        assert torch.equal(far[0], scaled(known, observed)[1][0])
    assert torch.allclose(scale_columns(known, observed)[0].std(0, correction=0), torch.ones(5, dtype=torch.float64))


def test_a_linear_classifier_needs_only_the_span():
    generator = torch.Generator().manual_seed(1)
    known, observed = (torch.randn(n, 40, generator=generator, dtype=torch.float64) for n in (12, 7))
    holds = torch.arange(12) % 2 == 0
    whole = fit_and_score("linear", known, holds, observed, 0)
    few = span(known, observed)
    assert few[0].shape == (12, 12)
    assert torch.allclose(few[0] @ few[0].T, known @ known.T)
    assert torch.allclose(few[1] @ few[0].T, observed @ known.T)
    assert span(torch.zeros(3, 5, dtype=torch.float64), observed[:, :5])[0].abs().max() < 1e-100
    assert torch.allclose(
        fit_and_score("linear", few[0], holds, few[1], 0), whole, atol=1e-2
    )  # the solver stops at 1e-4
