import numpy as np
import pytest
import torch

from fedsec.data.build import above_class_median, build_dataset, fingerprint, stratified_rows
from fedsec.data.embedded import BreastCancer, Digits, HeightWeight
from fedsec.data.examples import DatasetInfo, Examples
from fedsec.errors import DataError


def test_digits_have_the_published_size_and_range():
    data = Digits().load(None)
    assert tuple(data.train.x.shape) == (1297, 1, 8, 8)
    assert tuple(data.test.x.shape) == (500, 1, 8, 8)
    assert float(data.train.x.min()) == 0.0
    assert float(data.train.x.max()) == 1.0
    assert bool((data.train.x * 16 == (data.train.x * 16).round()).all())
    assert torch.bincount(data.test.y).tolist() == pytest.approx([50] * 10, abs=2)


def test_ink_splits_every_digit_in_half():
    data = Digits().load()
    for digit in range(10):
        of_class = data.train.y == digit
        ink = data.train.x[of_class].mean(dim=(1, 2, 3))
        heavy = data.train.attributes["ink"][of_class] == 1
        assert abs(float(heavy.float().mean()) - 0.5) < 0.02
        assert float(ink[heavy].min()) > float(ink[~heavy].max())


def test_train_and_test_digits_are_the_whole_set_once():
    from sklearn.datasets import load_digits

    data = Digits().load()
    ours = torch.cat([data.train.x, data.test.x]).flatten(1).numpy() * 16
    theirs = load_digits().data
    assert np.array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])


def test_breast_cancer_is_scaled_by_its_train_rows():
    data = BreastCancer().load()
    assert len(data.train) == 450
    assert len(data.test) == 119
    assert torch.equal(data.train.x.amin(0), torch.zeros(30))
    assert torch.equal(data.train.x.amax(0), torch.ones(30))
    assert abs(float(data.train.y.float().mean()) - float(data.test.y.float().mean())) < 0.01


def test_weight_is_almost_linear_in_height():
    data = HeightWeight().load()
    assert len(data.train) == 12
    assert len(data.test) == 3
    x = torch.cat([data.train.x, data.test.x]).squeeze(1).double()
    y = torch.cat([data.train.y, data.test.y]).double()
    # the published regression of R's `women`: r squared 0.991
    assert float(torch.corrcoef(torch.stack([x, y]))[0, 1] ** 2) == pytest.approx(0.991, abs=1e-3)
    assert float(data.train.x.mean()) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("source", [Digits(), BreastCancer(), HeightWeight()])
def test_loading_twice_gives_the_same_contents(source):
    first, second = source.load(), source.load()
    assert first.fingerprint == second.fingerprint
    assert torch.equal(first.train.x, second.train.x)
    assert first.info.name == source.name


def test_fingerprint_sees_every_part():
    def make(**changes):
        parts = {"x": torch.zeros(2, 3), "y": torch.tensor([0, 1]), "a": torch.tensor([1, 0]), "name": "sex"} | changes
        return Examples(parts["x"], parts["y"], {parts["name"]: parts["a"]})

    variants = [
        (make(), make()),
        (make(x=torch.ones(2, 3)), make()),
        (make(), make(x=torch.ones(2, 3))),
        (make(y=torch.tensor([1, 1])), make()),
        (make(a=torch.tensor([1, 1])), make()),
        (make(name="race"), make()),
        (make(x=torch.zeros(2, 3, dtype=torch.float64)), make()),
        (make(x=torch.zeros(2, 3, 1)), make()),
    ]
    assert len({fingerprint(*pair) for pair in variants}) == len(variants)


def test_stratified_rows_keep_the_shares():
    strata = np.repeat([0, 1, 2], [10, 30, 60])
    train, test = stratified_rows(strata, 20, purpose="here")
    assert np.bincount(strata[test]).tolist() == [2, 6, 12]
    assert sorted([*train, *test]) == list(range(100))
    assert not np.array_equal(test, stratified_rows(strata, 20, purpose="there")[1])


def test_median_of_another_set_decides():
    value = torch.tensor([0.1, 0.9, 0.1, 0.9])
    y = torch.tensor([0, 0, 1, 1])
    got = above_class_median(value, y, reference_value=torch.tensor([0.5, 1.0]), reference_y=torch.tensor([0, 1]))
    assert got.tolist() == [0, 1, 0, 0]


INFO = DatasetInfo(
    name="own", summary="", task="classification", input_shape=(2,), classes=("a", "b"), bounds=(0.0, 1.0),
    modality="tabular",
)  # fmt: skip
GOOD = Examples(torch.zeros(3, 2), torch.tensor([0, 1, 1]), {"sex": torch.tensor([0, -1, 1])})


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (Examples(torch.zeros(3, 4), GOOD.y), "shape"),
        (Examples(torch.zeros(3, 2, dtype=torch.int64), GOOD.y), "torch.float32"),
        (Examples(GOOD.x, torch.tensor([0, 1])), "2 targets"),
        (Examples(GOOD.x, torch.tensor([0.0, 1.0, 1.0])), "classification"),
        (Examples(GOOD.x, torch.tensor([0, 1, 2])), "0 to 1"),
        (Examples(GOOD.x + 2, GOOD.y), "inputs run from"),
        (Examples(GOOD.x + float("nan"), GOOD.y), "finite"),
        (Examples(GOOD.x, GOOD.y, {"sex": torch.tensor([0, 1])}), "sex"),
        (Examples(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)), "none"),
    ],
)
def test_a_dataset_that_is_not_what_it_says_is_refused(bad, word):
    assert build_dataset(INFO, train=GOOD, test=GOOD).info is INFO
    with pytest.raises(DataError, match=word):
        build_dataset(INFO, train=GOOD, test=bad)
