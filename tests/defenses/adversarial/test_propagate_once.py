import pytest
import torch
from torch import nn

from fedsec.defenses.adversarial.propagate_once import YOPO, affine_until
from fedsec.errors import ConfigurationError
from fedsec.models.lanes import gradient_step
from fedsec.models.mnist_cnn import Standardise

from .small_lanes import batch, close, dense, flat, lanes_of

CONV = (Standardise(0.1, 0.3), nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
DENSE = (nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 3))
IMAGE = (1, 8, 8)


@pytest.mark.parametrize(("layers", "kind"), [(CONV, "single"), (CONV, "vmap"), (DENSE, "stacked"), (DENSE, "single")])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_with_a_linear_first_layer_n_steps_are_one_of_n_times_the_length(layers, kind, norm):
    lanes = lanes_of(flat(*layers), kind=kind)
    x, y = batch(lanes=len(lanes.keys), shape=IMAGE, classes=3)
    common = dict(eps=0.2, passes=4, norm=norm)
    closed = YOPO(steps=5, sigma=0.03, **common).local(gradient_step)(lanes, x, y)
    passed = YOPO(steps=5, sigma=0.03, closed_form=False, **common).local(gradient_step)(lanes, x, y)
    close(closed, passed)
    if norm == "linf":
        close(closed, YOPO(steps=1, sigma=0.15, **common).local(gradient_step)(lanes, x, y))
        close(passed, YOPO(steps=1, sigma=0.15, closed_form=False, **common).local(gradient_step)(lanes, x, y))
    differs = YOPO(steps=1, sigma=0.03, **common).local(gradient_step)(lanes, x, y)
    assert max((a - b).abs().max() for a, b in zip(closed, differs, strict=True)) > 1e-4


@pytest.mark.parametrize(("layer", "cut"), [("1", 2), ("2", 3)])
def test_it_is_algorithm_1(layer, cut):
    """Written out on the layers before and after the cut, with n passes through the first part."""
    model = flat(*DENSE)
    lanes = lanes_of(model)
    x, y = batch(shape=IMAGE, classes=3)
    m, n, sigma, eps = 3, 4, 0.05, 0.2
    defense = YOPO(eps=eps, passes=m, steps=n, sigma=sigma, layer=layer, closed_form=False)
    found = defense.local(gradient_step)(lanes, x, y)
    start = defense.inner.box.uniform(lanes, x)
    for lane in range(2):
        net = model.instance(lanes.state[lane])
        first, rest = net[:cut], net[cut:]
        total = [torch.zeros_like(p) for p in net.parameters()]
        eta = start[lane] - x[lane]
        for _ in range(m):
            z = first(x[lane] + eta)
            middle = z.detach().requires_grad_()
            loss = nn.functional.cross_entropy(rest(middle), y[lane])
            (p,) = torch.autograd.grad(loss, middle)
            whole = nn.functional.cross_entropy(net(x[lane] + eta), y[lane])
            total = [a + b for a, b in zip(total, torch.autograd.grad(whole, list(net.parameters())), strict=True)]
            for _ in range(n):
                leaf = (x[lane] + eta).requires_grad_()
                (slope,) = torch.autograd.grad((p * first(leaf)).sum(), leaf)
                eta = (eta + sigma * slope.sign()).clamp(-eps, eps)
                eta = (x[lane] + eta).clamp(0, 1) - x[lane]
        close([part[lane] for part in found], [part / m for part in total])


def test_without_size_or_with_one_pass_and_no_start_it_is_plain_training():
    lanes, (x, y) = lanes_of(flat(*DENSE)), batch(shape=IMAGE, classes=3)
    for defense in (YOPO(eps=0.0), YOPO(passes=1, random_start=False), YOPO(eps=0.0, closed_form=False)):
        close(defense.local(gradient_step)(lanes, x, y), gradient_step(lanes, x, y))


def test_a_step_that_something_else_wraps_gives_the_same():
    lanes, (x, y) = lanes_of(flat(*DENSE)), batch(shape=IMAGE, classes=3)
    for closed in (True, False):
        defense = YOPO(eps=0.2, passes=3, closed_form=closed, layer="2" if not closed else "")
        wrapped = defense.local(lambda *given: gradient_step(*given))
        close(wrapped(lanes, x, y), defense.local(gradient_step)(lanes, x, y))


def test_the_closed_form_costs_the_full_passes_only():
    """Counted by hooks: m forward passes of the whole net, and none of the first layer alone."""
    model = flat(*CONV)
    x, y = batch(lanes=1, shape=IMAGE, classes=3)
    counts = {}
    for name, defense in {
        "closed": YOPO(passes=3, steps=5),
        "passes": YOPO(passes=3, steps=5, closed_form=False),
    }.items():
        lane = lanes_of(model, kind="single")
        runs = counts[name] = {"first": 0, "last": 0}
        for layer, part in (("first", lane._module[1]), ("last", lane._module[4])):
            part.register_forward_hook(lambda *_, runs=runs, layer=layer: runs.update({layer: runs[layer] + 1}))
        defense.local(gradient_step)(lane, x, y)
    assert counts == {"closed": {"first": 3, "last": 3}, "passes": {"first": 3 + 2 * 4 + 1, "last": 3}}


def test_which_layers_are_known_to_be_affine():
    net = flat(*CONV).module
    assert affine_until(net, "1")
    assert not affine_until(net, "2")
    assert not affine_until(net, "4")
    nested = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 4))
    assert affine_until(nested, "1.0")
    assert not affine_until(nested, "1")
    assert not affine_until(nn.Sequential(nn.TransformerEncoderLayer(4, 2)), "0.linear1")
    assert affine_until(nn.Linear(3, 3), "")
    with pytest.raises(ConfigurationError, match="stem"):
        affine_until(net, "stem")


def test_a_layer_that_is_not_there_is_named():
    lanes, (x, y) = lanes_of(dense(nn.Linear(6, 2))), batch()
    with pytest.raises(ConfigurationError, match="stem"):
        YOPO(layer="stem").local(gradient_step)(lanes, x, y)
