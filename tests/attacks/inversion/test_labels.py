import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsec.attacks.inversion.labels import (
    class_sums,
    counts_by_impact,
    counts_by_moments,
    moments,
    recover,
    rounded,
    sign_rule,
)
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


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-3, 10), min_size=2, max_size=12), st.integers(1, 50))
def test_rounded_counts_add_up_and_stay_near(amounts, total):
    counts = rounded(torch.tensor(amounts), total)
    assert int(counts.sum()) == total
    assert bool((counts >= 0).all())
    share = torch.tensor(amounts).double().clamp_min(0)
    if share.sum() > 0:
        assert bool(((counts - share * total / share.sum()).abs() < 1 + 1e-9).all())


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 40))
def test_moments_are_exact_where_the_softmax_is_known(seed, examples):
    draw = generator(seed, "moments")
    features = torch.ones(examples, 3)
    outputs, y = torch.randn(examples, 6, generator=draw), torch.randint(6, (examples,), generator=draw)
    weight, bias = head_gradient(features, outputs, y)
    truth = torch.bincount(y, minlength=6)
    mean = outputs.softmax(-1).mean(0)
    assert torch.equal(counts_by_moments(bias, mean, 1.0, examples), truth)
    assert torch.equal(counts_by_moments(class_sums(weight, None), mean, 3.0, examples), truth)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 30), st.floats(1e-4, 1e4))
def test_impact_counts_add_up_and_do_not_depend_on_scale(seed, examples, factor):
    sums = torch.randn(7, generator=generator(seed, "impact"), dtype=torch.float64)
    counts = counts_by_impact(sums, examples)
    assert int(counts.sum()) == examples
    assert torch.equal(counts, counts_by_impact(factor * sums, examples))


def test_impact_finds_repeated_labels():
    y = torch.tensor([3, 3, 3, 5])
    _, bias = head_gradient(torch.rand(4, 2), torch.zeros(4, 10), y)
    assert torch.equal(counts_by_impact(bias, 4), torch.bincount(y, minlength=10))


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
