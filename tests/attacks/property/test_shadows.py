import pytest
import torch

from fedsec.attacks.property.shadows import Pools, cohorts, permuted_within
from fedsec.data.examples import Attribute, DatasetInfo, Examples
from fedsec.data.properties import resolve
from fedsec.protocol.outcome import NotApplicable

INFO = DatasetInfo(
    name="toy",
    summary="",
    task="classification",
    input_shape=(1,),
    classes=("a", "b"),
    bounds=None,
    modality="tabular",
    attributes=tuple(Attribute(name=name, values=("no", "yes"), description="") for name in ("p", "q")),
)
P, Q = resolve(["p", "q"], INFO)


def people(n=3000):
    """Both properties go with the label and with each other."""
    generator = torch.Generator().manual_seed(0)
    y = (torch.rand(n, generator=generator) < 0.3).long()
    p = (torch.rand(n, generator=generator) < 0.3 + 0.4 * y).long()
    q = (torch.rand(n, generator=generator) < 0.3 + 0.2 * y + 0.2 * p).long()
    return Examples(torch.arange(n)[:, None].float(), y, {"p": p, "q": q})


PEOPLE = people()


def shards(*properties, matched=True, count=40, size=50, purity=0.9):
    pools = Pools.of(PEOPLE, properties, matched=matched)
    return pools.shards(count, [size], purity, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("asked", [(P,), (P, Q)])
def test_shadow_pairs_have_equal_labels_and_the_wanted_purity(asked):
    made, holds = shards(*asked)
    for one, other in zip(made[::2], made[1::2], strict=True):
        assert torch.equal(one.y, other.y)
    for place, one in enumerate(asked):
        share = torch.tensor([one.share(shard) for shard in made])
        assert share[holds[:, place]].mean().item() == pytest.approx(0.9, abs=0.02)
        assert share[~holds[:, place]].mean().item() == pytest.approx(0.1, abs=0.02)
        assert holds[:, place].sum() == 40


def test_one_property_says_nothing_of_another_in_the_shadows():
    made, holds = shards(P, Q, count=400, size=4)
    assert abs(float(torch.corrcoef(holds.double().T)[0, 1])) < 0.15
    label = torch.tensor([float(shard.y.double().mean()) for shard in made])
    assert abs(float(label[holds[:, 0]].mean() - label[~holds[:, 0]].mean())) < 0.02


def test_labels_follow_the_property_if_they_are_not_matched():
    made, holds = shards(P, matched=False)
    label = torch.tensor([float(shard.y.double().mean()) for shard in made])
    assert label[holds[:, 0]].mean() > label[~holds[:, 0]].mean() + 0.15


def test_shadows_are_made_of_public_examples_only():
    made, _ = shards(P)
    assert {float(value) for shard in made for value in shard.x.flatten()} <= set(PEOPLE.x.flatten().tolist())


def test_a_class_that_only_one_side_has_is_left_out():
    y, values = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 1, 1, 1, -1, 1])
    pools = Pools.of(Examples(torch.zeros(6, 1), y, {"p": values}), [P])
    assert pools.counts.tolist() == [[1, 1]]
    assert pools.rows.tolist() == [0, 1]
    assert Pools.of(Examples(torch.zeros(6, 1), y, {"p": values}), [P], by_class=False).counts.tolist() == [[1, 4]]
    with pytest.raises(NotApplicable, match="both with and without 'p'"):
        Pools.of(Examples(torch.zeros(6, 1), y, {"p": torch.ones(6, dtype=torch.long)}), [P])


def test_properties_that_are_one_cannot_be_separated():
    twins = Examples(PEOPLE.x, PEOPLE.y, {"p": PEOPLE.attributes["p"], "q": PEOPLE.attributes["p"]})
    with pytest.raises(NotApplicable, match="go together"):
        Pools.of(twins, [P, Q]).shards(20, [10], 0.9, generator=torch.Generator().manual_seed(0))


def test_simulated_cohorts_have_a_majority():
    holds = torch.arange(10) % 2 == 0
    means, truths = cohorts(holds.double()[:, None], holds, 4, 25, generator=torch.Generator().manual_seed(0))
    assert torch.equal(means[:, 0] > 0.5, truths)
    assert not (means == 0.5).any()
    assert truths.sum() == 25


def test_the_control_says_nothing_of_the_property():
    holds = torch.arange(21) % 2 == 0
    labels = permuted_within(holds, generator=torch.Generator().manual_seed(0))
    assert abs(labels[holds].float().mean() - labels[~holds].float().mean()) < 0.1
