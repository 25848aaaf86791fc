import pytest
import torch
from torch import nn

from fedsec.attacks.evasion.auto_attack import STAGES, auto_attack
from fedsec.attacks.evasion.gradient_ascent import Passes
from fedsec.ball import lengths

from .networks import digits, drawn, net_of, reference_network, reference_record, small


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Quantised(nn.Module):
    """Rounds its inputs, so every gradient is zero."""

    def __init__(self, net, levels):
        super().__init__()
        self.net, self.levels = net, levels

    def forward(self, x):
        return self.net(torch.round(x * self.levels) / self.levels)


class Scaled(nn.Module):
    def __init__(self, net, factor):
        super().__init__()
        self.net, self.factor = net, factor

    def forward(self, x):
        return self.net(x) * self.factor


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_on_a_linear_model_what_is_robust_is_what_lies_farther_than_eps_from_the_boundary(norm, dual):
    net = net_of(nn.Linear(6, 2), seed=3)
    w, b = (net[0].weight[0] - net[0].weight[1]).detach(), (net[0].bias[0] - net[0].bias[1]).detach()
    x = drawn(60, 6, seed=5)
    y = (x @ w + b < 0).long()
    distance = (x @ w + b).abs() / w.norm(p=dual)
    eps = distance.median().item()
    found = auto_attack(net, x, y, eps=eps, norm=norm, bounds=(-9.0, 9.0), queries=100, generator=seeded())
    clear = (distance - eps).abs() > 1e-3
    assert torch.equal(found.robust[clear], (distance > eps)[clear])
    assert torch.equal(found.robust, net(found.x_adv).argmax(1) == y)


@pytest.mark.parametrize("classes", [2, 3, 5, 12])
def test_flags_fall_from_stage_to_stage_and_the_outcome_names_the_stage(classes):
    net = net_of(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, classes), seed=2)
    x = drawn(40, 1, 4, 4, seed=1)
    y = net(x).argmax(1)
    y[:4] = (y[:4] + 1) % classes
    seen, passes = [], Passes()
    found = auto_attack(
        net, x, y, eps=0.08, queries=60, steps=30, generator=seeded(), progress=seen.append, passes=passes
    )
    assert [stage.name for stage in found.stages] == ["clean", *STAGES]
    assert tuple(seen) == found.stages
    for earlier, later in zip(found.stages, found.stages[1:], strict=False):
        assert not (later.robust & ~earlier.robust).any()
        assert later.accuracy <= earlier.accuracy
    for number, name in enumerate(found.outcome):
        first = next((stage.name for stage in found.stages if not stage.robust[number]), "robust")
        assert name == first
    assert found.outcome[:4] == ("clean",) * 4
    assert torch.equal(found.x_adv[:4], x[:4])
    assert torch.equal(found.robust, net(found.x_adv).argmax(1) == y)
    assert 0 < found.accuracy < 0.9
    assert (lengths(found.x_adv - x, "linf") <= 0.08 + 1e-6).all()
    assert found.x_adv.min() >= 0
    assert found.x_adv.max() <= 1
    assert (found.forwards, found.backwards) == (passes.forwards, passes.backwards)


def test_passes_are_those_that_the_model_sees():
    net = small(classes=5)
    count = []
    net.register_forward_hook(lambda module, inputs, output: count.append(len(output)))
    x = drawn(20, 2, 4, seed=4)
    with torch.no_grad():
        y = net(x).argmax(1)
    count.clear()
    found = auto_attack(net, x, y, eps=0.05, queries=120, steps=30, generator=seeded())
    assert found.forwards == sum(count)
    assert found.forwards == sum(stage.forwards for stage in found.stages)
    assert found.stages[-1].backwards <= len(x)


def test_nothing_is_claimed_of_a_constant_model():
    net = net_of(nn.Linear(4, 4))
    net[0].weight.data.zero_()
    x, y = drawn(5, 4), torch.full((5,), int(net[0].bias.argmax()))
    found = auto_attack(net, x, y, eps=0.3, queries=1500, steps=30, generator=seeded())
    assert found.outcome == ("robust",) * 5
    assert found.accuracy == 1.0
    assert ((found.x_adv - x).abs() <= 0.3 + 1e-6).all()


def test_where_inputs_are_quantised_only_square_succeeds_and_asks_all_its_queries():
    net = Quantised(net_of(nn.Linear(12, 3), seed=7), 3)
    x = torch.round(drawn(80, 12, seed=1) * 3) / 3
    y = net(x).argmax(1)
    quick, whole = (
        auto_attack(net, x, y, eps=0.2, queries=1500, steps=20, generator=seeded(), thorough=thorough)
        for thorough in (False, True)
    )
    by_square = sum(name == "square" for name in quick.outcome)
    assert by_square > 5
    assert quick.accuracy > 0
    assert quick.accuracy == whole.accuracy
    assert quick.stages[-1].forwards >= whole.stages[-1].forwards


def test_logits_that_saturate_the_cross_entropy_hide_nothing():
    plain = net_of(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 5), seed=7)
    masked = Scaled(plain, 1e6)
    x = drawn(80, 12, seed=1)
    y = plain(x).argmax(1)
    open_, hidden = (auto_attack(net, x, y, eps=0.05, queries=100, generator=seeded()) for net in (plain, masked))
    assert hidden.stages[1].accuracy > open_.stages[1].accuracy + 0.1
    assert abs(hidden.accuracy - open_.accuracy) <= 0.02
    assert hidden.accuracy < 0.9


def test_without_random_starts_a_batch_in_two_halves_meets_the_same_ends():
    net = net_of(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 4)).double()
    x = drawn(60, 6, seed=2).double()
    y = net(x).argmax(1)
    whole = auto_attack(net, x, y, eps=0.05, queries=200, generator=seeded(1)).robust
    halves = [
        auto_attack(net, x[i : i + 30], y[i : i + 30], eps=0.05, queries=200, generator=seeded(2)) for i in (0, 30)
    ]
    assert (whole != torch.cat([half.robust for half in halves])).sum() <= 1


def test_a_fixed_feature_is_never_touched():
    net, x = small(classes=4), drawn(20, 2, 4, seed=3)
    y = net(x).argmax(1)
    low, high = torch.zeros_like(x), torch.ones_like(x)
    low[:, 0], high[:, 0] = x[:, 0], x[:, 0]
    found = auto_attack(net, x, y, eps=0.2, bounds=(low, high), queries=60, steps=20, generator=seeded())
    assert found.accuracy < 1
    assert torch.equal(found.x_adv[:, 0], x[:, 0])


def test_what_cannot_be_done_is_refused_and_an_empty_batch_is_not():
    net, x, y = small(), drawn(2, 2, 4), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match="l1"):
        auto_attack(net, x, y, eps=0.1, norm="l1", generator=seeded())
    with pytest.raises(ValueError, match="radius"):
        auto_attack(net, x, y, eps=-0.1, generator=seeded())
    assert auto_attack(net, x[:0], y[:0], eps=0.1, generator=seeded()).outcome == ()


def test_model_and_global_randomness_are_left_as_they_were():
    net = net_of(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 3)).train()
    state = torch.random.get_rng_state()
    auto_attack(net, drawn(5, 4), torch.arange(5) % 3, eps=0.1, steps=5, queries=20, generator=seeded())
    assert torch.equal(state, torch.random.get_rng_state())
    assert net.training
    assert net[1].training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


@pytest.mark.data
def test_on_an_adversarially_trained_network_it_meets_the_authors_flags():
    official = next(a for a in reference_record()["networks"]["pgd"]["attacks"] if a["norm"] == "Linf")
    net = reference_network("pgd")
    rows = slice(0, 40)
    x, y = digits(rows)
    found = auto_attack(net, x, y, eps=0.3, queries=1000, generator=seeded())
    flags = torch.tensor([flag == "1" for flag in official["stages"][-1]["flags"][rows]])
    assert (found.robust != flags).sum() <= 1


def test_without_a_generator_the_seed_is_zero_and_targets_are_refused():
    net, x = small(), drawn(6, 8)
    y = net(x).argmax(-1)
    given = {"eps": 0.1, "steps": 5, "queries": 20}
    alone = auto_attack(net, x, y, **given)
    assert torch.equal(alone.x_adv, auto_attack(net, x, y, **given, generator=seeded(0)).x_adv)
    with pytest.raises(ValueError, match="no targeted form"):
        auto_attack(net, x, y, **given, targets=y)
