import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.data.tables import Column, encode, input_names, read_table, scale
from fedsec.data.tabular import Adult, BankMarketing, CreditDefault, GermanCredit
from fedsec.errors import DataError

ADULT = (
    "39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, Male, 2174, 0, 40, "
    "United-States, <=50K\n"
    "23, ?, 1, HS-grad, 9, Divorced, ?, Wife, Black, Female, 0, 0, 20, ?, >50K\n"
)


@pytest.fixture
def adult(tmp_path):
    (tmp_path / "adult").mkdir()
    (tmp_path / "adult/adult.data").write_text(ADULT + "\n")
    tests = ADULT.replace("0K\n", "0K.\n").replace("2174", "9999")
    (tmp_path / "adult/adult.test").write_text("|1x3 Cross validator\n" + tests)
    return tmp_path


def test_adult_is_encoded_by_its_columns(adult):
    data = Adult().load(adult)
    names = Adult.inputs()
    row = dict(zip(names, data.train.x[1].tolist(), strict=True))
    assert row["age"] == 0.0
    assert row["workclass=?"] == row["sex=Female"] == row["native-country=?"] == 1.0
    assert row["workclass=State-gov"] == 0.0
    assert sum(data.train.x[1].tolist()) == 7.0  # seven categorical columns, every number at its lowest
    assert data.train.y.tolist() == data.test.y.tolist() == [0, 1]
    assert {name: value.tolist() for name, value in data.train.attributes.items()} == {
        "sex": [1, 0],
        "race": [0, 1],
        "age-band": [1, 0],
    }
    assert not any("fnlwgt" in name or "education=" in name for name in names)


def test_test_values_beyond_the_train_range_are_moved_to_the_bound(adult):
    data = Adult().load(adult)
    assert float(data.test.x[0, Adult.inputs().index("capital-gain")]) == 1.0
    standard = Adult(scaling="standard").load(adult)
    assert standard.info.bounds == (-1.0, 1.0)
    assert float(standard.test.x.max()) <= 1.0


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("Male", "Mole", "column 'sex' holds 'Mole'"),
        ("39,", "old,", "could not convert"),
        ("39,", "nan,", "finite"),
        (", <=50K", "", "line 1 has 14 cells, not 15"),
        (ADULT, "", "no rows"),
    ],
)
def test_a_damaged_table_is_named(adult, old, new, word):
    path = adult / "adult/adult.data"
    path.write_text(ADULT.replace(old, new, 1))
    with pytest.raises(DataError, match=word) as caught:
        Adult().load(adult)
    assert str(path) in str(caught.value)


def test_a_table_without_its_header_is_refused(tmp_path):
    path = tmp_path / "tabular/credit-default/UCI_Credit_Card.csv"
    path.parent.mkdir(parents=True)
    path.write_text(",".join(["1"] * 25) + "\n")
    with pytest.raises(DataError, match="does not name the columns ID, LIMIT_BAL"):
        CreditDefault().load(tmp_path)


@pytest.mark.parametrize("source", [Adult, CreditDefault, BankMarketing, GermanCredit])
def test_the_info_counts_the_inputs(source):
    assert source.info.input_shape == (len(source.inputs()),)
    assert len(set(source.inputs())) == len(source.inputs())


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.sampled_from("ab")), min_size=1, max_size=20),
    st.sampled_from(["min-max", "standard"]),
)
def test_scaling_agrees_with_the_slow_truth(rows, scaling):
    columns = (Column("size"), Column("kind", ("a", "b")))
    size = [value for value, _ in rows]
    raw = np.array([[value, float(kind == "a"), float(kind == "b")] for value, kind in rows])
    train, test, bounds = scale(raw, raw, columns, scaling)
    assert np.array_equal(train[:, 1:].numpy(), raw[:, 1:])
    assert np.array_equal(train.numpy(), test.numpy())
    assert bounds[0] <= float(train.min()) <= float(train.max()) <= bounds[1]
    low, width = (min(size), max(size) - min(size)) if scaling == "min-max" else (np.mean(size), np.std(size))
    for value, got in zip(size, train[:, 0].tolist(), strict=True):
        assert got == pytest.approx((value - low) / (width or 1.0), abs=1e-3)


def test_tables_are_read_as_they_stand(tmp_path):
    path = tmp_path / "some.csv"
    path.write_text('"a";"b"\n1;"x y"\n\n2;"z"\n')
    table = read_table(path, dataset="some", columns=("a", "b"), separator=";", header=True)
    assert table["b"].tolist() == ["x y", "z"]
    columns = (Column("b", ("z", "x y")), Column("a"))
    assert encode(table, columns, dataset="some", path=path).tolist() == [[0, 1, 1], [1, 0, 2]]
    assert input_names(columns) == ("b=z", "b=x y", "a")


@pytest.mark.parametrize("scaling", ["min-max", "standard"])
def test_a_loaded_table_says_what_its_columns_are(adult, scaling):
    data = Adult(scaling=scaling).load(adult)
    found = data.info.features
    assert [feature.name for feature in found] == [column.name for column in Adult.columns]
    assert sum(feature.width for feature in found) == data.info.input_shape[0]
    assert {f.name: f.attribute for f in found if f.attribute} == {"age": "age-band", "race": "race", "sex": "sex"}
    at = 0
    for feature in found:
        block = data.train.x[:, at : at + feature.width]
        at += feature.width
        assert (float(block.min()), float(block.max())) == (feature.low, feature.high)
        assert not feature.values or (block.sum(1) == 1).all()


@pytest.mark.parametrize("source", [Adult, BankMarketing, CreditDefault, GermanCredit])
def test_every_sensitive_attribute_is_stated_by_a_column(source):
    stated = {column.attribute for column in source.columns if column.attribute}
    assert stated == {attribute.name for attribute in source.info.attributes}
