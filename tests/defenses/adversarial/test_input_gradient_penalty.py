import pytest
import torch
from torch import nn

from fedsec.defenses.adversarial.input_gradient_penalty import InputGradientPenalty, losses_and_steepness
from fedsec.models.lanes import gradient_step

from .small_lanes import batch, close, dense, flat, lanes_of

SMOOTH = (nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
METHODS = {"double-backpropagation": None, "finite-differences": 0.01}


@pytest.mark.parametrize("kind", ["stacked", "vmap"])
def test_double_backpropagation_passes_gradcheck(kind):
    lanes = lanes_of(dense(*SMOOTH), kind=kind, dtype=torch.float64)
    x, y = batch(classes=3, dtype=torch.float64)

    def objective(*parameters):
        lanes.parameters = parameters
        losses, steepness = losses_and_steepness(lanes, x, y, h=None)
        return losses + 0.7 * steepness

    assert torch.autograd.gradcheck(objective, lanes.parameters)


def test_finite_differences_pass_gradcheck_along_a_fixed_direction():
    lanes = lanes_of(dense(*SMOOTH), dtype=torch.float64)
    x, y = batch(classes=3, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(lanes.losses(leaf, y, train=True).sum(), leaf)
    beyond = x + 0.01 * gradient / gradient.norm(dim=-1, keepdim=True)

    def objective(*parameters):
        lanes.parameters = parameters
        return ((lanes.losses(beyond, y, train=True) - lanes.losses(x, y, train=True)) / 0.01).square()

    own = lanes.parameters
    assert torch.autograd.gradcheck(objective, own)
    wanted = torch.autograd.grad(objective(*own).sum(), own)
    _, steepness = losses_and_steepness(lanes, x, y, h=0.01)
    close(torch.autograd.grad(steepness.sum(), own), wanted, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_on_a_linear_model_the_penalty_is_the_written_out_one(method):
    """The gradient of a softmax loss in the input is ``W^T (p - e_y)``."""
    model = dense(nn.Linear(6, 3))
    lanes = lanes_of(model, dtype=torch.float64)
    x, y = batch(classes=3, dtype=torch.float64)
    h = None if METHODS[method] is None else 1e-5
    losses, steepness = losses_and_steepness(lanes, x, y, h=h)
    weight, bias = (parameter.detach() for parameter in lanes.parameters)
    logits = torch.einsum("lbi,lci->lbc", x, weight) + bias[:, None]
    error = logits.softmax(-1) - nn.functional.one_hot(y, 3)
    exact = torch.einsum("lbc,lci->lbi", error, weight).square().sum(-1)
    torch.testing.assert_close(steepness, exact, rtol=1e-9 if h is None else 1e-3, atol=1e-9)
    torch.testing.assert_close(losses, lanes.losses(x, y, train=True))


@pytest.mark.parametrize("method", METHODS)
def test_the_step_is_the_gradient_of_the_mean_and_does_not_depend_on_company(method):
    """A batch's gradient is the mean of its examples' own: the penalty does not shrink with the batch size."""
    lanes = lanes_of(dense(*SMOOTH), dtype=torch.float64)
    x, y = batch(classes=3, dtype=torch.float64)
    step = InputGradientPenalty(beta=0.5, method=method).local(gradient_step)
    whole = step(lanes, x, y)
    alone = [step(lanes, x[:, i : i + 1], y[:, i : i + 1]) for i in range(x.shape[1])]
    close(whole, [torch.stack(parts).mean(0) for parts in zip(*alone, strict=True)], atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_without_weight_it_is_plain_training_and_a_wrapped_step_gives_the_same(method):
    lanes, (x, y) = lanes_of(dense(nn.Linear(6, 5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 3))), batch(classes=3)
    plain = gradient_step(lanes, x, y)
    none = InputGradientPenalty(beta=0.0, method=method).local(gradient_step)(lanes, x, y)
    assert all(torch.equal(a, b) for a, b in zip(none, plain, strict=True))
    defense = InputGradientPenalty(beta=0.5, method=method)
    fused = defense.local(gradient_step)(lanes, x, y)
    close(defense.local(lambda *given: gradient_step(*given))(lanes, x, y), fused, atol=1e-5)
    assert max((a - b).abs().max() for a, b in zip(fused, plain, strict=True)) > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_it_makes_the_loss_flatter(method):
    model = flat(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 3))
    steep = {}
    for beta in (0.0, 5.0):
        lanes = lanes_of(model, kind="single")
        x, y = batch(lanes=1, size=12, shape=(1, 8, 8), classes=3)
        step = InputGradientPenalty(beta=beta, method=method).local(gradient_step)
        for _ in range(60):
            gradients = step(lanes, x, y)
            with torch.no_grad():
                torch._foreach_add_(list(lanes.weights), list(gradients), alpha=-0.1)
        steep[beta] = losses_and_steepness(lanes, x, y, h=None)[1].mean().item()
    assert steep[5.0] < 0.5 * steep[0.0]
