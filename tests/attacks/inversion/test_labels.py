import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsec.attacks.inversion.labels import moments, recover, scale_bounds, sign_rule
from fedsec.attacks.inversion.layers import first_layer, head
from fedsec.models.flat import FlatModel
from fedsec.protocol.outcome import NotApplicable
from fedsec.randomness import generator


def head_gradient(features, outputs, y):
    delta = (outputs.softmax(-1) - nn.functional.one_hot(y, outputs.shape[1])) / len(y)
    return delta.T @ features, delta.sum(0)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(2, 12), st.booleans())
def test_the_sign_rule_is_exact_for_one_example(seed, classes, signed):
    draw = generator(seed, "label")
    features = torch.randn(1, 9, generator=draw) if signed else torch.rand(1, 9, generator=draw)
    outputs, y = 3 * torch.randn(1, classes, generator=draw), torch.randint(classes, (1,), generator=draw)
    weight, bias = head_gradient(features, outputs, y)
    assert sign_rule(weight, bias) == int(y)
    if classes > 2 or not signed:
        assert sign_rule(weight, None) == int(y)


@pytest.mark.parametrize("head_bias", [True, False])
@pytest.mark.parametrize(("examples", "least"), [(4, 0.95), (32, 0.9)])
def test_batches_of_digits_at_the_start_of_training(networks, digits, head_bias, examples, least):
    model = networks["mlp"](head_bias=head_bias)
    state, draw = model.vector(), generator(2, "batches")
    slots = head(model, state, (1, 8, 8))
    hits = 0.0
    for _ in range(20):
        batch = digits.take(torch.randint(len(digits), (examples,), generator=draw))
        module = model.instance(state)
        loss = model.loss(module(batch.x), batch.y).mean()
        gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(module.parameters()))])
        inputs = torch.rand(64, 1, 8, 8, generator=draw)
        labels = recover(model, state, gradient, slots, examples=examples, wanted=examples, inputs=inputs)
        common = torch.minimum(torch.bincount(labels, minlength=10), torch.bincount(batch.y, minlength=10))
        hits += float(common.sum()) / examples / 20
    assert hits >= least


@pytest.mark.parametrize("factor", [1e-3, 0.05, 1.0, 7.0])
@pytest.mark.parametrize(("examples", "least"), [(3, 0.95), (8, 0.95), (32, 0.85)])
def test_the_scale_of_a_clipped_gradient_is_inferred(networks, digits, examples, least, factor):
    model = networks["mlp"]()
    state, draw = model.vector(), generator(4, "scales")
    slots, hits = head(model, state, (1, 8, 8)), 0.0
    for _ in range(5):
        batch = digits.take(torch.randint(len(digits), (examples,), generator=draw))
        module = model.instance(state)
        loss = model.loss(module(batch.x), batch.y).mean()
        gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(module.parameters()))])
        labels = recover(
            model, state, factor * gradient, slots, examples=examples, wanted=examples, inputs=digits.x[:16]
        )
        common = torch.minimum(torch.bincount(labels, minlength=10), torch.bincount(batch.y, minlength=10))
        hits += float(common.sum()) / examples / 5
    assert hits >= least


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 60), st.floats(1e-3, 1e3))
def test_the_true_scale_is_within_the_bounds(seed, examples, scale):
    """The lower bound always holds; the upper for counts that differ from the prediction as chance makes them."""
    draw = generator(seed, "bounds")
    truth = torch.bincount(torch.randint(10, (examples,), generator=draw), minlength=10).double()
    softmax = torch.randn(10, generator=draw, dtype=torch.float64).softmax(0)
    sums = softmax - truth / examples
    low, high = scale_bounds(scale * sums, softmax, examples)
    assert low <= scale * (1 + 1e-9)
    if sums.square().sum() >= 0.05 * 0.9 / examples:
        assert scale <= high * (1 + 1e-9)


def test_a_gradient_that_is_noise_gives_labels_as_good_as_a_guess(networks, digits):
    model = networks["mlp"]()
    state, draw = model.vector(), generator(6, "noise")
    slots, hits = head(model, state, (1, 8, 8)), []
    for _ in range(20):
        y = digits.y[torch.randint(len(digits), (8,), generator=draw)]
        gradient = torch.randn(model.layout.trainable, generator=draw)
        labels = recover(model, state, gradient, slots, examples=8, wanted=8, inputs=digits.x[:16])
        hits.append(
            float(torch.minimum(torch.bincount(labels, minlength=10), torch.bincount(y, minlength=10)).sum()) / 8
        )
    assert sum(hits) / 20 < 0.65  # two random batches of 8 share about half of their labels


def test_moments_read_what_the_head_reads(networks, digits):
    model = networks["mlp"](head_bias=False)
    state = model.vector()
    _, feature_sum = moments(model, head(model, state, (1, 8, 8)), state, digits.x[:10])
    features = nn.Sequential(*list(model.instance(state))[:3])(digits.x[:10])
    assert feature_sum == pytest.approx(features.sum(1).mean().item(), rel=1e-5)


def test_layers_are_found_by_what_they_read_and_write(networks):
    model = networks["standardised"]()
    layer = first_layer(model, model.vector(), (1, 8, 8))
    assert layer.slots.weight.name == "2.weight"
    assert torch.allclose(layer.scale, torch.tensor(2.5))
    assert torch.allclose(layer.shift, torch.tensor(-0.75))
    assert head(model, model.vector(), (1, 8, 8)).weight.name == "4.weight"


@pytest.mark.parametrize(
    "front", [nn.Sigmoid(), nn.BatchNorm1d(64), nn.Dropout(0.5)], ids=["sigmoid", "batch-norm", "dropout"]
)
def test_a_layer_that_does_not_see_the_raw_input_is_refused(front):
    model = FlatModel.of(nn.Sequential(nn.Flatten(), front, nn.Linear(64, 10)), task="classification", name="net")
    with pytest.raises(NotApplicable):
        first_layer(model, model.vector(), (1, 8, 8))


def test_a_model_that_does_not_end_in_a_linear_layer_has_no_head():
    model = FlatModel.of(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(-1)), task="classification", name="net"
    )
    with pytest.raises(NotApplicable, match="end in a linear layer"):
        head(model, model.vector(), (1, 8, 8))
