import pytest
import torch
from torch import nn

from fedsec.attacks.evasion import pgd
from fedsec.data.examples import DatasetInfo
from fedsec.defenses.adversarial.input_restriction import InputRestriction, Restriction
from fedsec.judges.masking import battery
from fedsec.models.flat import FlatModel
from fedsec.protocol.stage import Setting

INFO = DatasetInfo(
    name="toy",
    summary="",
    task="classification",
    input_shape=(3, 6, 6),
    classes=("a", "b"),
    bounds=(0.0, 1.0),
    modality="image",
    public=True,
)


def restriction(**kwargs):
    usual = {"grey": False, "bits": 0, "smoothing": "none", "window": 3, "bounds": (0.0, 1.0)}
    return Restriction(**{**usual, **kwargs})


def drawn(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_levels_are_those_of_so_many_bits_over_the_bounds():
    x = torch.tensor([[-1.0, -0.4, 0.1, 0.9, 1.0]])
    found = restriction(bits=1, bounds=(-1.0, 1.0))(x)
    assert found.tolist() == [[-1.0, -1.0, 1.0, 1.0, 1.0]]
    assert len(restriction(bits=3)(drawn(1, 5000)).unique()) == 8
    assert torch.equal(restriction(bits=8)(torch.arange(256) / 255), torch.arange(256) / 255)


def test_the_median_is_that_of_the_window():
    x = drawn(2, 3, 5, 6)
    found = restriction(smoothing="median")(x)
    for row, column in ((1, 1), (2, 3), (3, 4)):
        window = x[..., row - 1 : row + 2, column - 1 : column + 2].flatten(-2)
        assert torch.allclose(found[..., row, column], window.median(-1).values, atol=1e-7)


def test_smoothing_and_grey_keep_what_they_should():
    flat = torch.full((1, 3, 6, 6), 0.4)
    assert torch.allclose(restriction(smoothing="gaussian", window=5)(flat), flat)
    x = drawn(2, 3, 6, 6)
    grey = restriction(grey=True)(x)
    assert torch.allclose(grey[:, 0], 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2])
    assert torch.equal(grey[:, 0], grey[:, 2])


def test_gradients_pass_straight_through_and_without_that_levels_have_none():
    x = drawn(2, 3, 6, 6).requires_grad_()
    weight = drawn(2, 3, 6, 6, seed=1)
    (gradient,) = torch.autograd.grad((restriction(bits=2)(x) * weight).sum(), x)
    assert torch.equal(gradient, weight)
    # a median hands all of its gradient to the value that it picked
    (gradient,) = torch.autograd.grad((restriction(bits=2, smoothing="median")(x) * weight).sum(), x)
    assert float(gradient.sum()) == pytest.approx(float(weight.sum()), rel=1e-5)
    (gradient,) = torch.autograd.grad((restriction(bits=2, straight_through=False)(x) * weight).sum(), x)
    assert not gradient.any()


def test_the_model_keeps_its_parameters_and_only_them():
    module = nn.Sequential(nn.Flatten(), nn.Linear(108, 2))
    before = FlatModel.of(module, task="classification", name="net")
    defense = InputRestriction(grey=True, bits=2, smoothing="gaussian")
    after = FlatModel.of(defense.architecture(module, INFO), task="classification", name="net")
    assert torch.equal(after.vector(), before.vector())
    assert after.layout.size == before.layout.size


def data(count=80):
    y = torch.arange(count) % 2
    x = drawn(count, 1, 4, 4) * 0.3 + 0.2
    x[y == 0, :, :, :2] += 0.25
    x[y == 1, :, :, 2:] += 0.25
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval()
    weight = torch.tensor([1.0, 1.0, -1.0, -1.0]).repeat(4)
    with torch.no_grad():
        net[1].weight.copy_(torch.stack([weight, -weight]))
        net[1].bias.zero_()
    return net, x, y


def accuracy(net, x, y):
    return float((net(x).argmax(1) == y).float().mean())


def test_it_looks_robust_without_the_straight_through_gradient_and_is_not_and_the_battery_says_so():
    net, x, y = data()
    left, masked = {}, {}
    for through in (True, False):
        whole = nn.Sequential(restriction(bits=2, straight_through=through), net).eval()
        left[through] = accuracy(whole, pgd(whole, x, y, eps=0.2, steps=20), y)
        masked[through] = battery(whole, x, y, generator=torch.Generator().manual_seed(0)).failed
    assert accuracy(nn.Sequential(restriction(bits=2), net), x, y) > 0.9
    # a perturbation larger than half a level gets through: the restriction does not help against who knows it
    assert left[True] < 0.05
    assert left[False] > 0.9
    assert masked[True] == ()
    assert {"zero-gradient", "scores-only"} <= set(masked[False])


def setting(**kwargs):
    usual = {
        "population": 4,
        "cohort": 4.0,
        "rounds": 1,
        "sampling": "all",
        "layout": FlatModel.of(nn.Linear(2, 2), task="classification", name="net").layout,
        "local_steps": 1,
        "batch_size": None,
        "has_batch_norm": False,
        "task": "classification",
        "bounds": (0.0, 1.0),
        "stack": ("input-restriction",),
        "input_shape": (3, 6, 6),
    }
    return Setting(**{**usual, **kwargs})


@pytest.mark.parametrize(
    ("defense", "change", "found"),
    [
        (InputRestriction(), {"bounds": None, "input_shape": (5,)}, "tokens"),
        (InputRestriction(bits=0), {}, "restricts nothing"),
        (InputRestriction(smoothing="median"), {"input_shape": (12,)}, "no images"),
        (InputRestriction(smoothing="gaussian", window=4), {}, "no middle"),
        (InputRestriction(grey=True), {"input_shape": (1, 6, 6)}, "three channels"),
    ],
)
def test_what_cannot_work_is_refused_with_what_to_write(defense, change, found):
    problems = defense.problems(setting(**change))
    assert len(problems) == 1
    assert found in problems[0][0]
    assert problems[0][1]


def test_what_can_work_is_not_refused():
    assert not InputRestriction().problems(setting(input_shape=(12,)))
    assert not InputRestriction(grey=True, smoothing="median").problems(setting())
