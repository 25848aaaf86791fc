import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsec.attacks.inversion import label_counts
from fedsec.attacks.inversion.counts import (
    amounts_by_embeddings,
    class_sums,
    counts_by_impact,
    counts_by_moments,
    mean_softmax,
    rounded,
)
from fedsec.randomness import generator


def head_gradient(features, outputs, y):
    delta = (outputs.softmax(-1) - nn.functional.one_hot(y, outputs.shape[1])) / len(y)
    return delta.T @ features, delta.sum(0)


def batch(seed, examples, classes=10, width=30, spread=0.02):
    """A batch whose features are alike, as an untrained network's are, and an untrained head."""
    draw = generator(seed, "batch")
    y = torch.randint(classes, (examples,), generator=draw)
    features = torch.rand(width, generator=draw) + spread * torch.randn(examples, width, generator=draw)
    weight = 0.2 * (2 * torch.rand(classes, width, generator=draw) - 1)
    bias = 0.2 * (2 * torch.rand(classes, generator=draw) - 1)
    gradient = head_gradient(features, features @ weight.T + bias, y)
    return *gradient, (weight, bias), torch.bincount(y, minlength=classes), features


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


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([2, 8, 32, 100]))
def test_class_embeddings_are_exact_where_features_are_alike(seed, examples):
    weight, bias, head, truth, _ = batch(seed, examples, spread=0.002)
    amounts = amounts_by_embeddings(weight, bias, head, examples)
    assert float((amounts - truth).abs().max()) < 0.2
    assert torch.equal(label_counts(weight, bias, batch_size=examples, method="embeddings", head=head), truth)


def test_class_embeddings_are_exact_where_each_class_has_one_feature():
    """The least deviation is the true one here: classes with few examples are far from the mean embedding."""
    draw = generator(3, "classes")
    centres = torch.rand(5, 12, generator=draw, dtype=torch.float64)
    y = torch.tensor([0, 0, 0, 1, 2, 2, 4])
    w, b = 0.3 * torch.randn(5, 12, generator=draw, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    gradient = head_gradient(centres[y], centres[y] @ w.T + b, y)
    assert label_counts(*gradient, batch_size=7, method="embeddings", head=(w, b)).tolist() == [3, 1, 2, 0, 1]


def test_the_softmax_at_the_mean_embedding_is_the_batch_s():
    weight, bias, head, _, features = batch(1, 32)
    expected = (features @ head[0].T + head[1]).softmax(1).mean(0).double()
    assert torch.allclose(mean_softmax(weight, bias, head), expected, atol=2e-3)
    assert torch.allclose(mean_softmax(1e-4 * weight, 1e-4 * bias, head), expected, atol=2e-3)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([1, 8, 32, 100]), st.booleans(), st.booleans())
def test_every_method_is_exact_if_it_is_told_the_moments(seed, examples, with_bias, delta):
    weight, bias, head, truth, features = batch(seed, examples, spread=0.0)
    softmax = (features @ head[0].T + head[1]).softmax(1).mean(0)
    scale = -0.05 if delta else 1.0
    for method in ("moments", "impact"):
        found = label_counts(
            scale * weight,
            scale * bias if with_bias else None,
            batch_size=examples,
            method=method,
            scale=scale,
            softmax=softmax,
            feature_sum=float(features.sum(1).mean()),
        )
        assert torch.equal(found, truth)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 10**6),
    st.integers(1, 200),
    st.sampled_from(["moments", "impact", "embeddings"]),
    st.sampled_from([-3.0, 1e-6, 1.0]),
    st.booleans(),
)
def test_counts_are_counts_whatever_the_gradient(seed, examples, method, scale, with_bias):
    draw = generator(seed, "noise")
    weight, bias = torch.randn(6, 4, generator=draw), torch.randn(6, generator=draw)
    if seed % 5 == 0:
        weight, bias = torch.zeros_like(weight), torch.zeros_like(bias)
    with_bias = with_bias or method == "embeddings"
    found = label_counts(
        weight,
        bias if with_bias else None,
        batch_size=examples,
        method=method,
        scale=scale,
        head=(torch.randn(6, 4, generator=draw), torch.zeros(6)),
    )
    assert found.dtype == torch.int64
    assert found.shape == (6,)
    assert int(found.sum()) == examples
    assert bool((found >= 0).all())


def test_a_head_without_bias_is_read_without_the_model_if_a_class_is_absent():
    weight, _, _, _, _ = batch(5, 8, spread=0.0)
    uniform = batch(5, 8, spread=0.0)[3]
    assert int(torch.minimum(label_counts(weight, None, batch_size=8), uniform).sum()) >= 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size .* found 0"),
        ({"batch_size": 2.0}, r"batch_size .* found 2\.0"),
        ({"batch_size": True}, "batch_size .* found True"),
        ({"method": "guess"}, "found 'guess'"),
        ({"weight_grad": torch.ones(3)}, r"weight_grad .* found \(3,\)"),
        ({"weight_grad": torch.ones(1, 3), "bias_grad": None}, r"found \(1, 3\)"),
        ({"bias_grad": torch.ones(4)}, r"bias_grad must be \(3,\).* found \(4,\)"),
        ({"softmax": torch.ones(2)}, "softmax must be"),
        ({"scale": 0.0}, "scale"),
        ({"bias_grad": torch.full((3,), torch.nan)}, "finite"),
        ({"method": "embeddings"}, "head=.* is missing"),
        (
            {"method": "embeddings", "bias_grad": None, "head": (torch.ones(3, 5), torch.ones(3))},
            "bias_grad is missing",
        ),
        ({"head": (torch.ones(3, 4), torch.ones(3))}, "head must be"),
    ],
)
def test_what_cannot_be_is_refused_with_what_was_found(change, message):
    arguments = {"weight_grad": torch.ones(3, 5), "bias_grad": torch.ones(3), "batch_size": 4, **change}
    with pytest.raises(ValueError, match=message):
        label_counts(**arguments)
