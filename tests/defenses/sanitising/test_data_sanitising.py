"""Sanitising in a federation: it protects honest clients from others' wrong labels, and binds nobody else."""

import pytest
import torch
from digit_federation import digits, setting, trained

from fedsec.attacks.poisoning.label_flip import LabelFlip
from fedsec.attacks.poisoning.label_noise import LabelNoise
from fedsec.data.examples import Examples
from fedsec.defenses.sanitising.data_sanitising import DataSanitising
from fedsec.protocol.stage import EnforcedBy
from fedsec.randomness import generator

SMALL = {"clients": 8, "rounds": 10}


def shard(wrong=30):
    """120 digits of a client, the first of which are wrong."""
    own = digits(**SMALL).shard(0).examples()
    own = own.take(range(120))
    offset = torch.randint(1, 10, (120,), generator=generator(0, "offset"))
    labels = torch.where(torch.arange(120) < wrong, (own.y + offset) % 10, own.y)
    return Examples(own.x, labels, {"id": torch.arange(120)}), own.y


def cleaned(defense, examples, seed=0):
    return defense.data(examples, generator=generator(seed, "data"))


@pytest.mark.parametrize(("signal", "left", "lost"), [("both", 5, 9), ("loss", 18, 9), ("neighbours", 5, 27)])
def test_drops_wrong_labels_and_keeps_the_rest_of_an_example(signal, left, lost):
    poisoned, true = shard()
    kept = cleaned(DataSanitising(signal=signal), poisoned)
    ids = kept.attributes["id"]
    assert int((ids < 30).sum()) <= left  # of 30 wrong ones
    assert int((ids >= 30).sum()) >= 90 - lost
    assert torch.equal(kept.x, poisoned.x[ids])
    assert torch.equal(kept.y, poisoned.y[ids])
    assert float((kept.y == true[ids]).double().mean()) > 0.8


def test_relabels_instead():
    poisoned, true = shard()
    found = cleaned(DataSanitising(action="relabel"), poisoned)
    assert torch.equal(found.x, poisoned.x)
    assert int((found.y == true).sum()) > 90 + 10
    changed = found.y != poisoned.y
    assert float(changed[30:].double().mean()) < 0.1
    assert found.y.dtype == torch.int64


def test_never_treats_more_than_its_share_and_leaves_small_shards_alone():
    poisoned, _ = shard(wrong=60)
    assert len(cleaned(DataSanitising(share=0.1, threshold=0.0), poisoned)) == 120 - 12
    few = poisoned.take(range(19))
    assert cleaned(DataSanitising(), few) is few
    assert len(poisoned) == 120


def test_is_deterministic_and_changes_nothing_in_place():
    poisoned, _ = shard()
    before = poisoned.y.clone()
    assert torch.equal(cleaned(DataSanitising(), poisoned).y, cleaned(DataSanitising(), poisoned).y)
    cleaned(DataSanitising(action="relabel"), poisoned)
    assert torch.equal(poisoned.y, before)


def test_protects_clients_whose_data_somebody_else_mislabelled():
    """Symmetric noise hardly moves a softmax regression's accuracy, but its loss doubles."""
    noise = LabelNoise(fraction=0.9, rate=0.45, honest_clients=True)
    clean, harmed = trained((), **SMALL).loss[-1], trained((), noise, **SMALL).loss[-1]
    protected = trained((DataSanitising(),), noise, **SMALL).loss[-1]
    assert harmed > 2 * clean
    assert harmed - protected > (harmed - clean) / 2


def test_does_nothing_against_clients_that_poison_themselves():
    noise = LabelNoise(fraction=0.9, rate=0.45)
    harmed, guarded = trained((), noise, **SMALL).loss[-1], trained((DataSanitising(),), noise, **SMALL).loss[-1]
    assert guarded == pytest.approx(harmed, rel=0.05)


def test_finds_nothing_where_all_labels_are_shifted():
    flip = LabelFlip(fraction=0.5, honest_clients=True)
    harmed, guarded = trained((), flip, **SMALL), trained((DataSanitising(),), flip, **SMALL)
    assert harmed.accuracy[-1] < trained((), **SMALL).accuracy[-1] - 0.2
    assert guarded.accuracy[-1] < harmed.accuracy[-1] + 0.1


def test_is_the_clients_own_business_and_needs_classes_and_distances():
    assert DataSanitising().enforcement == EnforcedBy.CLIENT
    assert not DataSanitising().problems(setting())
    assert "classes" in DataSanitising().problems(setting(task="regression"))[0][1]
    assert "tables" in DataSanitising().problems(setting(bounds=None))[0][1]
