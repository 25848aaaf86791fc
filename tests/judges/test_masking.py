import pytest
import torch
from torch import nn

from fedsec.judges import masking
from fedsec.judges.masking import battery
from fedsec.judges.masking_probes import Room, climb, cross_entropy, margin, search, shake

from ..attacks.evasion.networks import digits, reference_network


class Through(nn.Module):
    """A network seen through a function of it and the input."""

    def __init__(self, net, function):
        super().__init__()
        self.net, self.function = net, function

    def forward(self, x):
        return self.function(self.net, x)


def draw():
    return torch.Generator().manual_seed(0)


def toy(count=80):
    """Bright left halves against bright right halves, and a linear model that tells them apart."""
    y = torch.arange(count) % 2
    x = torch.rand(count, 1, 4, 4, generator=draw()) * 0.3 + 0.2
    x[y == 0, :, :, :2] += 0.25
    x[y == 1, :, :, 2:] += 0.25
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    weight = torch.tensor([1.0, 1.0, -1.0, -1.0]).repeat(4)
    with torch.no_grad():
        net[1].weight.copy_(torch.stack([weight, -weight]))
        net[1].bias.zero_()
    return net.eval(), x, y


def failed(model, x, y, **kwargs):
    return battery(model, x, y, generator=draw(), **kwargs).failed


def test_a_linear_model_passes_every_check():
    found = battery(*toy(), generator=draw())
    assert found.failed == ()
    assert found.masked is False
    assert len(found.checks) == 13
    assert found.inputs == 80
    assert "no sign" in found.text


def test_logits_a_hundred_times_as_large_are_masking_and_their_accuracy_rises():
    net, x, y = toy()
    found = battery(Through(net, lambda net, x: 1000 * net(x)), x, y, generator=draw())
    assert "logit-scale" in found.failed
    assert "zero-gradient" in found.failed
    figures = next(check.figures for check in found.checks if check.name == "logit-scale")
    assert figures["as it is"] > figures["margin"] + 0.2
    assert figures["hundredth"] < figures["as it is"] - 0.2


def test_small_logits_hide_nothing():
    net, x, y = toy()
    assert failed(Through(net, lambda net, x: net(x) / 100), x, y) == ()


def test_a_model_that_rounds_its_input_is_caught_and_with_straight_through_gradients_it_is_not():
    net, x, y = toy()
    found = failed(Through(net, lambda net, x: net((x * 15).round() / 15)), x, y)
    assert {"zero-gradient", "everything-allowed", "scores-only", "failing-attack"} <= set(found)
    assert failed(Through(net, lambda net, x: net(x + ((x * 15).round() / 15 - x).detach())), x, y) == ()


def test_a_model_that_only_compares_has_no_gradient_at_all_and_is_caught():
    net, x, y = toy()
    assert "zero-gradient" in failed(Through(net, lambda net, x: net((x > 0.45).float())), x, y)


def test_probabilities_are_caught():
    net, x, y = toy()
    assert failed(Through(net, lambda net, x: net(x).softmax(1)), x, y) == ("probabilities",)
    assert failed(Through(net, lambda net, x: net(x).log_softmax(1)), x, y) == ()


def test_a_model_that_loses_gradients_at_the_bounds_is_caught():
    net, x, y = toy()
    x = (x > 0.4).float() * (x > 0.55) + 0.3 * (x <= 0.55)
    held = Through(net, lambda net, x: net(torch.where((x > 0) & (x < 1), x, x.detach())))
    assert "bounds" in failed(held, x, y)
    assert "bounds" not in failed(net, x, y)


def test_a_random_model_and_one_that_mixes_examples_are_caught():
    net, x, y = toy()
    noise = draw()
    assert "repeat" in failed(Through(net, lambda net, x: net(x) + 1e-4 * torch.rand(1, generator=noise)), x, y)
    assert failed(Through(net, lambda net, x: net(x - x.mean(0) + 0.45)), x, y)[-1] == "mode"


def test_a_part_that_is_in_train_mode_is_caught_and_left_so():
    net, x, y = toy()
    model = nn.Sequential(nn.Dropout(0.0), *net).eval()
    assert failed(model, x, y) == ()
    model[0].train()
    assert failed(model, x, y) == ("mode",)
    assert model[0].training


def test_nothing_is_said_of_a_model_that_reads_nearly_everything_wrong():
    net, x, y = toy()
    found = battery(net, x, 1 - y, generator=draw())
    assert found.masked is None
    assert found.checks == ()
    assert "not checked" in found.text


def test_rows_with_bounds_of_their_own():
    net, x, y = toy()
    bounds = (torch.linspace(-1, 0, 16), torch.linspace(1, 2, 16))
    assert failed(nn.Sequential(net[1]), x.flatten(1), y, bounds=bounds) == ()


def test_the_model_and_the_global_generator_are_left_as_they_were():
    net, x, y = toy()
    net.train()
    state = torch.get_rng_state()
    battery(net, x, y, generator=draw())
    assert net.training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    again = [battery(net, x, y, generator=draw()) for _ in range(2)]
    assert again[0] == again[1]


@pytest.mark.parametrize("size", [0.05, 0.12, 0.2])
def test_ascent_meets_the_exact_margin_of_a_linear_model_and_search_does_not_beat_it(size):
    net, x, y = toy()
    low, high = torch.zeros_like(x), torch.ones_like(x)
    room = Room.around(x, size, low, high)
    with torch.no_grad():
        # moving each value by `size` towards the other class moves the difference of the logits by 2 * 16 * size
        exact = margin(net(x), y) + 32 * size > 0
    for objective in (cross_entropy, margin):
        assert torch.equal(climb(net, x, y, room, steps=10, objective=objective).fooled, exact)
    blind = search(net, x, y, room, queries=200, generator=draw())
    shaken = shake(net, x, y, room, draws=10, generator=draw())
    assert not (blind & ~exact).any()
    assert not (shaken & ~exact).any()
    assert int(blind.sum()) >= 0.8 * int(exact.sum())


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("standard", None, set()),
        ("pgd", None, set()),
        ("standard", lambda net, x: 100 * net(x), {"logit-scale", "zero-gradient"}),
        ("standard", lambda net, x: net((x * 7).round() / 7), {"zero-gradient", "scores-only", "everything-allowed"}),
        ("standard", lambda net, x: (20 * net(x)).softmax(1), {"probabilities", "zero-gradient", "scores-only"}),
    ],
)
def test_reference_networks_pass_and_their_masked_forms_do_not(name, change, expected, monkeypatch):
    monkeypatch.setattr(masking, "INPUTS", 64)
    net = reference_network(name)
    x, y = digits(slice(0, 100))
    found = set(failed(net if change is None else Through(net, change), x, y))
    assert found == expected if not expected else expected <= found
