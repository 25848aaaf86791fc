"""Suspicious labels: known answers, wrong labels found, and those that nothing in the shard contradicts."""

import functools

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from fedsec.defenses.sanitising import label_suspicion, mark_suspects
from fedsec.randomness import generator


@functools.cache
def digits(n=200, seed=0):
    data = load_digits()
    chosen = torch.randperm(len(data.target), generator=generator(seed, "suspects"))[:n]
    return torch.tensor(data.data / 16.0, dtype=torch.float32)[chosen], torch.tensor(data.target)[chosen]


def with_wrong(share, *, n=200, seed=0):
    x, y = digits(n, seed)
    wrong = torch.arange(n) < round(share * n)
    offset = torch.randint(1, 10, (n,), generator=generator(seed, "offset"))
    return x, torch.where(wrong, (y + offset) % 10, y), y, wrong


def judged(x, y, **options):
    return label_suspicion(x, y, neighbours=options.pop("neighbours", 5), generator=generator(1, "folds"), **options)


def two_clouds(n=40):
    """Two groups of points that are far apart; the label is the group."""
    points = 0.1 * torch.randn(n, 3, generator=generator(0, "clouds"))
    y = (torch.arange(n) % 2).long()
    return points + 5.0 * y.unsqueeze(1), y


def test_one_wrong_label_between_two_clouds():
    x, y = two_clouds()
    y[7] = 1 - y[7]
    found = judged(x, y)
    both = (found.loss + found.neighbours) / 2
    assert int(both.argmax()) == 7
    assert float(found.neighbours[7]) == 1.0
    assert float(found.loss[7]) > 0.9
    assert float(both[torch.arange(40) != 7].max()) < 0.3
    assert int(found.proposed[7]) == 1 - int(y[7])


def test_neighbours_are_those_of_scikit_learn():
    x, y, _, _ = with_wrong(0.2)
    found = judged(x, y, neighbours=4).neighbours
    rows = x.double()
    spread = rows.std(dim=0, correction=0)
    scaled = (rows - rows.mean(dim=0)) / torch.where(spread > 0, spread, 1.0)
    for place in (0, 17, 150):
        rest = torch.arange(200) != place
        model = KNeighborsClassifier(4, algorithm="brute").fit(scaled[rest].numpy(), y[rest].numpy())
        chances = model.predict_proba(scaled[place : place + 1].numpy())[0]
        own = dict(zip(model.classes_, chances, strict=True)).get(int(y[place]), 0.0)
        assert float(found[place]) == pytest.approx(1.0 - own)


@pytest.mark.parametrize("share", [0.2, 0.4])
def test_finds_most_wrong_labels_and_few_others(share):
    x, y, true, wrong = with_wrong(share)
    found = judged(x, y)
    suspects = mark_suspects((found.loss + found.neighbours) / 2, threshold=0.6, share=0.5)
    assert float(suspects[wrong].double().mean()) > 0.7
    assert float(suspects[~wrong].double().mean()) < 0.1
    caught = suspects & wrong
    assert float((found.proposed[caught] == true[caught]).double().mean()) > 0.6


def test_a_clean_shard_keeps_nearly_everything():
    x, y = digits()
    found = judged(x, y)
    assert float(mark_suspects((found.loss + found.neighbours) / 2, threshold=0.6, share=0.5).double().mean()) < 0.06


def test_labels_that_are_all_wrong_in_the_same_way_fit_each_other():
    x, y = digits()
    honest, shifted = judged(x, y), judged(x, (y + 1) % 10)
    torch.testing.assert_close(shifted.neighbours, honest.neighbours)
    marked = mark_suspects((shifted.loss + shifted.neighbours) / 2, threshold=0.6, share=0.5)
    assert float(marked.double().mean()) < 0.1


def test_a_label_that_is_alone_is_not_judged_and_one_class_is_no_problem():
    x, y = two_clouds()
    y = y.clone()
    y[7] = 9
    found = judged(x, y)
    assert float(found.loss[7]) == 0.0
    assert float(found.neighbours[7]) == 0.0
    assert int(found.proposed[7]) == 9
    same = judged(x, torch.zeros(40, dtype=torch.int64))
    assert not same.loss.any()
    assert not same.neighbours.any()
    with pytest.raises(ValueError, match="n >= 2"):
        judged(x[:1], y[:1])


def test_constant_inputs_and_identical_examples_are_no_problem():
    x = torch.ones(12, 4)
    found = judged(x, torch.arange(12) % 3)
    assert torch.isfinite(found.loss).all()
    assert torch.isfinite(found.neighbours).all()


def test_marks_the_worst_of_those_above_the_threshold():
    scores = torch.tensor([0.9, 0.2, 0.8, 0.7, 0.1], dtype=torch.float64)
    assert mark_suspects(scores, threshold=0.5, share=0.4).tolist() == [True, False, True, False, False]
    assert mark_suspects(scores, threshold=0.85, share=1.0).tolist() == [True, False, False, False, False]
    assert not mark_suspects(scores, threshold=0.0, share=0.1).any()
