import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.data.examples import DatasetInfo, Feature
from fedsec.judges.row_noise import category_inputs, impossible, row_noise

INFO = DatasetInfo(
    name="people",
    summary="",
    task="classification",
    input_shape=(8,),
    classes=("low", "high"),
    bounds=(0.0, 1.0),
    modality="tabular",
    features=(
        Feature(name="age"),
        Feature(name="job", values=("a", "b", "c")),
        Feature(name="hours"),
        Feature(name="town", values=("x", "y")),
        Feature(name="gain"),
    ),
)
JOB, TOWN = slice(1, 4), slice(5, 7)


def rows(count, generator):
    x = torch.rand(count, 8, generator=generator)
    for group in (JOB, TOWN):
        size = group.stop - group.start
        x[:, group] = torch.eye(size)[torch.randint(size, (count,), generator=generator)]
    return x


def swapped(block, rows_):
    """The next value in some rows."""
    return torch.where(rows_[:, None], block.roll(1, 1), block)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_noise_changes_as_much_and_only_what_the_attack_touched(seed):
    draw = torch.Generator().manual_seed(seed)
    x = rows(30, draw)
    attacked = x.clone()
    attacked[:, 4] += 0.1
    attacked[:15, 7] -= 0.2
    attacked[:, JOB] = swapped(x[:, JOB], torch.arange(30) < 10)
    attacked[:, TOWN] = swapped(x[:, TOWN], torch.arange(30) < 5)
    noisy = row_noise(x, attacked, INFO, draw)
    assert torch.equal(noisy[:, 0], x[:, 0])
    assert not impossible(noisy, INFO).any()
    changes = (noisy - x)[:, [4, 7]].abs().sort(1).values
    assert torch.allclose(changes, (attacked - x)[:, [4, 7]].abs().sort(1).values, atol=1e-6)
    count = (noisy[:, JOB] != x[:, JOB]).any(1).long() + (noisy[:, TOWN] != x[:, TOWN]).any(1).long()
    assert torch.equal(count, (torch.arange(30) < 10).long() + (torch.arange(30) < 5).long())


def test_a_row_with_half_a_category_is_impossible():
    x = rows(6, torch.Generator().manual_seed(0))
    assert category_inputs(INFO) == ((1, 4), (5, 7))
    assert not impossible(x, INFO).any()
    x[1, JOB] = torch.tensor([0.5, 0.5, 0.0])
    x[3, TOWN] = torch.tensor([1.0, 1.0])
    x[4, JOB] = 0.0
    assert impossible(x, INFO).tolist() == [False, True, False, True, True, False]
