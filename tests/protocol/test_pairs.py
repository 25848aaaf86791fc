"""Pairs of defenses: orders and refusals are those of the stacks themselves."""

import dataclasses

from fedsec.defenses.aggregation.coordinate_rules import TrimmedMean
from fedsec.defenses.aggregation.neighbour_rules import Krum
from fedsec.defenses.clipping.plugins import ClipNorm
from fedsec.defenses.encryption.ckks import CKKS
from fedsec.defenses.privacy.client_level import ClientLevelDP
from fedsec.defenses.privacy.local import LocalDP
from fedsec.models.flat import Layout, Slot
from fedsec.protocol.compose import check_stack
from fedsec.protocol.pairs import pairs_of
from fedsec.protocol.stage import Setting

SETTING = Setting(
    population=40, cohort=20.0, rounds=5, sampling="all", layout=Layout((Slot("w", (8,), 0, 8, True),)), local_steps=1,
    batch_size=8, has_batch_norm=False, task="classification", bounds=(0.0, 1.0), stack=(),
)  # fmt: skip
DEFENSES = {
    "clip": ClipNorm(),
    "ckks": CKKS(),
    "krum": Krum(),
    "trimmed": TrimmedMean(),
    "dp": ClientLevelDP(),
    "local": LocalDP(),
}


def found():
    return {frozenset((pair.first, pair.second)): pair for pair in pairs_of(DEFENSES, SETTING)}


def test_every_pair_is_told_once_and_as_its_stacks_are():
    pairs = found()
    assert len(pairs) == len(DEFENSES) * (len(DEFENSES) - 1) // 2
    for pair in pairs.values():
        for names, refusals in (((pair.first, pair.second), pair.forward), ((pair.second, pair.first), pair.backward)):
            stack = [DEFENSES[name] for name in names]
            setting = dataclasses.replace(SETTING, stack=tuple(defense.name for defense in stack))
            assert list(refusals) == check_stack(stack, setting)


def test_orders():
    pairs = found()
    assert pairs[frozenset(("clip", "ckks"))].order("clip") == "first"
    assert pairs[frozenset(("clip", "ckks"))].order("ckks") == "second"
    assert pairs[frozenset(("ckks", "krum"))].order("krum") == "refused"
    assert pairs[frozenset(("krum", "trimmed"))].order("krum") == "refused"
    # noise of the clients' own goes with any rule; noise of the server is for a mean
    assert pairs[frozenset(("local", "trimmed"))].order("local") == "any"
    assert not pairs[frozenset(("dp", "trimmed"))].works
    assert pairs[frozenset(("dp", "ckks"))].other("dp") == "ckks"


def test_what_is_refused_alone_is_not_held_against_a_pair():
    impossible = dataclasses.replace(SETTING, has_batch_norm=True)
    assert check_stack((ClientLevelDP(),), dataclasses.replace(impossible, stack=("dp-client",)))
    (pair,) = pairs_of({"dp": ClientLevelDP(), "clip": ClipNorm()}, impossible)
    assert pair.any_order
