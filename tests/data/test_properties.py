import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.data.examples import Examples
from fedsec.data.images import ORLFaces
from fedsec.data.properties import combinations, mix, resolve
from fedsec.data.tabular import Adult

INFO = Adult.info


@pytest.mark.parametrize(
    ("text", "name", "codes"),
    [
        ("sex", "sex", (1,)),
        ("race=Black", "race=Black", (1,)),
        ("race=black", "race=black", (1,)),
        ("race!=White", "race!=White", (1, 2, 3, 4)),
        ("race=black|other", "race=black|other", (1, 4)),
        ("age-band=25 to 39", "age-band=25-to-39", (1,)),
        ("age-band=under-25", "age-band=under-25", (0,)),
        ("race=2", "race=2", (2,)),
    ],
)
def test_what_can_be_typed(text, name, codes):
    (found,) = resolve([text], INFO)
    assert (found.name, found.codes) == (name, codes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("height", "no attribute 'height'; it has sex, race, age-band"),
        ("race", "choose which value of 'race' is the property: its values are White, Black"),
        ("race=Green", "no value 'Green'; its values are White, Black"),
        ("sex=2", "no value '2'; its values are Female, Male"),
        ("sex=Female|Male", "holds for every value"),
        ("sex!=Female|Male", "holds for no value"),
        ("sex=", "no value ''"),
    ],
)
def test_what_is_refused_lists_what_there_is(text, said):
    with pytest.raises(ValueError, match=said):
        resolve([text], INFO)


def test_without_a_name_the_first_attribute_is_meant():
    assert resolve([], INFO)[0].name == "sex"
    with pytest.raises(ValueError, match="choose which value of 'subject'"):
        resolve([], ORLFaces.info)
    assert resolve(["sex", "sex"], INFO) == resolve(["sex"], INFO)


def test_combinations_are_bits():
    examples = Examples(
        torch.zeros(4, 1),
        torch.zeros(4, dtype=torch.long),
        {"sex": torch.tensor([0, 1, 1, -1]), "race": torch.tensor([1, 0, 1, 1])},
    )
    asked = resolve(["sex", "race=Black"], INFO)
    assert combinations(asked, examples).tolist() == [2, 1, 3, -1]
    assert asked[0].share(examples) == pytest.approx(2 / 3)


@settings(max_examples=20, deadline=None)
@given(
    counts=st.lists(st.integers(1, 50), min_size=12, max_size=12),
    shares=st.tuples(st.floats(0.1, 0.9), st.floats(0.1, 0.9)),
    first=st.floats(0.2, 0.6),
)
def test_a_mixture_has_the_shares_and_the_odds_of_the_examples(counts, shares, first):
    counts = torch.tensor(counts, dtype=torch.float64).view(3, 4)
    classes = torch.tensor([first, 0.3, 0.7 - first], dtype=torch.float64)
    table = mix(counts, shares, classes)
    assert torch.allclose(table.sum(1), classes, atol=1e-5)
    assert table[:, [1, 3]].sum().item() == pytest.approx(shares[0], abs=1e-5)
    assert table[:, [2, 3]].sum().item() == pytest.approx(shares[1], abs=1e-5)
    # three-way odds ratios are what fitting to margins leaves alone

    def odds(t):
        return (t[0, 0] * t[0, 3] / t[0, 1] / t[0, 2]) / (t[1, 0] * t[1, 3] / t[1, 1] / t[1, 2])

    assert odds(table).item() == pytest.approx(odds(counts).item(), rel=1e-6)


def test_properties_that_go_together_cannot_be_told_apart():
    counts = torch.tensor([[10.0, 0.0, 0.0, 10.0]])
    with pytest.raises(ValueError, match="go together"):
        mix(counts, (0.9, 0.1), torch.ones(1))
    assert mix(counts, (0.9, 0.9), torch.ones(1))[0, 3].item() == pytest.approx(0.9, abs=1e-6)
