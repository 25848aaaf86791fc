import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.measure import identifiability
from fedsec.randomness import generator


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 25), st.booleans())
def test_ranks_are_those_of_sorted_distances(seed, pairs, decoys, each):
    draw = generator(seed, "ranks")
    true, found = torch.rand(2, pairs, 2, 3, generator=draw)
    others = torch.rand(pairs, decoys, 2, 3, generator=draw)
    result = identifiability(found, true, others if each else others[0])
    for row in range(pairs):
        mine = others[row if each else 0]
        distances = [float((x - found[row]).double().norm()) for x in mine]
        own = float((true[row] - found[row]).double().norm())
        assert int(result.ranks[row]) == 1 + sum(d <= own for d in distances)
    assert result.candidates == decoys + 1
    assert result.share == pytest.approx(float((result.ranks == 1).double().mean()))


def test_copies_are_identified_and_noise_as_often_as_chance_says():
    draw = generator(0, "chance")
    true, noise = torch.rand(2, 400, 6, generator=draw)
    decoys = torch.rand(400, 19, 6, generator=draw)
    assert identifiability(true, true, decoys).share == 1.0
    found = identifiability(noise, true, decoys)
    assert found.chance == 0.05
    assert found.share == pytest.approx(0.05, abs=0.035)
    assert float(found.ranks.double().mean()) == pytest.approx(10.5, abs=1)


def test_a_tie_and_a_value_that_is_not_finite_count_against_the_truth():
    x = torch.rand(1, 4, generator=generator(1))
    assert identifiability(x, x, x).ranks.tolist() == [2]
    assert identifiability(torch.full_like(x, torch.nan), x, torch.rand(3, 4)).ranks.tolist() == [4]


@pytest.mark.parametrize(
    ("found", "true", "decoys", "message"),
    [
        ((2, 3), (3, 3), (4, 3), r"\(2, 3\) and \(3, 3\)"),
        ((3,), (3,), (4,), "one shape"),
        ((2, 3), (2, 3), (4, 5), r"found \(4, 5\)"),
        ((2, 3), (2, 3), (4, 4, 3), r"found \(4, 4, 3\)"),
        ((2, 3), (2, 3), (0, 3), "at least one decoy"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(found, true, decoys, message):
    with pytest.raises(ValueError, match=message):
        identifiability(torch.zeros(found), torch.zeros(true), torch.zeros(decoys))
