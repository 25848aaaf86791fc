import pytest
import torch

from fedsec.judges.slices import slices

NAMES = ("a", "b", "c")


def found(misread, y, mix=None):
    return slices(torch.tensor(misread), torch.tensor(y), NAMES, None if mix is None else torch.tensor(mix))


def test_the_worst_class_is_the_one_with_the_largest_share_and_not_the_largest_count():
    result = found([True, True, False, False, True, False], [0, 0, 0, 0, 1, 2])
    (worst,) = result.measurements
    assert worst.units.tolist() == [1.0]
    assert [one.unit for one in result.exposed] == ["class b"]


def test_a_clients_error_is_that_of_its_own_mix_of_classes():
    misread, y = [True, True, False, False, False, False], [0, 0, 1, 1, 1, 2]
    result = found(misread, y, [[4, 0, 0], [2, 2, 0], [0, 5, 5]])
    measured = {m.name: m for m in result.measurements}
    assert measured["client_robust_error"].units.tolist() == pytest.approx([1.0, 0.5, 0.0])
    # two inputs of its only class are all that tell of the worst client
    assert measured["worst_client_robust_error"].units.tolist() == [1.0, 1.0]
    assert [one.unit for one in result.exposed] == ["class a", "client:0", "client:1", "client:2"]
    assert result.exposed[2].score == pytest.approx(0.5)


def test_clients_alike_fare_alike_and_as_the_whole():
    misread, y = [True, False, True, False, False, False], [0, 0, 1, 1, 2, 2]
    result = found(misread, y, [[3, 3, 3], [1, 1, 1]])
    measured = {m.name: m for m in result.measurements}
    assert measured["client_robust_error"].units.tolist() == pytest.approx([1 / 3, 1 / 3])
    assert measured["worst_client_robust_error"].units.tolist() == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]


def test_classes_without_a_test_input_and_clients_without_examples_are_left_out():
    result = found([True, False, False], [0, 1, 1], [[1, 0, 9], [0, 1, 9], [0, 0, 0], [0, 0, 5]])
    measured = {m.name: m for m in result.measurements}
    assert measured["client_robust_error"].units.tolist() == pytest.approx([1.0, 0.0])
    assert [one.unit for one in result.exposed] == ["class a", "client:0", "client:1"]


def test_one_class_alone_has_no_slices():
    assert found([True, False], [1, 1]).measurements == ()
