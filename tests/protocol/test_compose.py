"""Stacks that cannot work are refused with what was found, why it cannot work and what would."""

from __future__ import annotations

import pytest

from fedsec.defenses.aggregation.coordinate_rules import CoordinateMedian
from fedsec.defenses.aggregation.neighbour_rules import MultiKrum
from fedsec.defenses.clipping.plugins import ClipNorm
from fedsec.defenses.encryption.ckks import CKKS
from fedsec.defenses.privacy.client_level import ClientLevelDP
from fedsec.defenses.privacy.local import LocalDP
from fedsec.models.flat import Layout, Slot
from fedsec.protocol.compose import check_stack, holders_of, opening_coalitions
from fedsec.protocol.stage import Setting

SETTING = Setting(
    population=100,
    cohort=20.0,
    rounds=10,
    sampling="fixed",
    layout=Layout((Slot("weight", (4, 4), 0, 16, trainable=True),)),
    local_steps=1,
    batch_size=8,
    has_batch_norm=False,
    task="classification",
    bounds=(0.0, 1.0),
    stack=(),
)


@pytest.mark.parametrize(
    "stack",
    [
        (),
        (ClipNorm(c=1.0),),
        (CKKS(),),
        (ClipNorm(c=1.0), CKKS()),
        (ClipNorm(c=1.0, enforced_by="server"), MultiKrum(f=2)),
        (ClientLevelDP(clip_norm=1.0, noise_multiplier=1.0), CKKS()),
        (LocalDP(clip_norm=1.0, noise_multiplier=1.0), CoordinateMedian()),
    ],
)
def test_stacks_that_work(stack) -> None:
    assert check_stack(stack, SETTING) == []


@pytest.mark.parametrize(
    ("stack", "found", "why", "instead"),
    [
        ((CKKS(), MultiKrum(f=2)), "multi-krum behind ckks", "only sums can be formed", "two stacks"),
        ((MultiKrum(f=2), CKKS()), "multi-krum behind ckks", "only sums can be formed", "the mean"),
        ((CKKS(), ClipNorm(c=1.0)), "clip-norm behind ckks", "before upload", "put clip-norm before ckks"),
        ((ClipNorm(c=1.0, enforced_by="server"), CKKS()), "clip-norm behind ckks", "on arrival", "enforced_by: client"),
        ((MultiKrum(f=2), CoordinateMedian()), "2 aggregation rules", "one rule", "stacks of their own"),
        ((CKKS(), ClientLevelDP(clip_norm=1.0, noise_multiplier=1.0)), "dp-client behind ckks", "plain", "before ckks"),
        ((CKKS(), CKKS()), "ckks behind ckks", "plain", "put ckks before ckks"),
    ],
)
def test_stacks_that_cannot_work(stack, found, why, instead) -> None:
    refusals = check_stack(stack, SETTING)
    assert refusals
    assert any(found in r.found and why in r.why and instead in r.instead for r in refusals), refusals


def test_a_server_optimizer_cannot_act_on_what_the_server_cannot_read() -> None:
    (refusal,) = check_stack((CKKS(),), SETTING, server_optimizer="adam")
    assert "adam" in refusal.found
    assert check_stack((CKKS(),), SETTING, server_optimizer="mean") == []


def test_who_opens_what() -> None:
    assert holders_of(()) == {"server"}
    assert holders_of((CKKS(),)) == {"client"}
    assert dict(opening_coalitions(())) == {
        "one client's update": [["server"], ["eavesdropper"]],
        "the aggregate of a round": [["server"], ["client"], ["eavesdropper"]],
        "the released model": [["outsider"]],
    }
    sealed = dict(opening_coalitions((CKKS(),)))
    assert sealed["one client's update"] == [["client", "server"], ["client", "eavesdropper"]]
    assert sealed["the aggregate of a round"] == [["client"]]
    apart = dict(opening_coalitions((CKKS(key_holder="authority"),)))
    assert apart["one client's update"] == [["key-holder", "server"], ["eavesdropper", "key-holder"]]
