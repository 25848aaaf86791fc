"""Bounds of each feature: every attack keeps to them, and what they pin is untouched to the bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsec.attacks.evasion import bim, fgm, fgsm, pgd

from .networks import drawn, net_of

ATTACKS = {
    "fgsm": lambda *a, **k: fgsm(*a, **k),
    "fgm": lambda *a, **k: fgm(*a, **k),
    "bim": lambda *a, **k: bim(*a, steps=5, **k),
    "pgd": lambda *a, **k: pgd(*a, steps=5, restarts=2, generator=torch.Generator().manual_seed(0), **k),
}


@pytest.mark.parametrize("name", ATTACKS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), eps=st.floats(0.01, 2.0))
def test_the_bounds_of_each_feature_hold_and_pinned_ones_stay_to_the_bit(name, seed, eps):
    net = net_of(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2), seed=seed)
    x, y = drawn(9, 6, seed=seed + 1), (drawn(9, seed=seed + 2) > 0.5).long()
    low, high = x - drawn(9, 6, seed=seed + 3), x + drawn(9, 6, seed=seed + 4)
    pinned = drawn(9, 6, seed=seed + 5) < 0.4
    low, high = torch.where(pinned, x, low), torch.where(pinned, x, high)
    found = ATTACKS[name](net, x, y, eps=eps, bounds=(low, high))
    assert ((found >= low) & (found <= high)).all()
    assert torch.equal(found[pinned], x[pinned])


def test_one_tensor_for_all_rows_is_as_good_as_numbers():
    net = net_of(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
    x, y = drawn(9, 6), torch.zeros(9, dtype=torch.long)
    for attack in ATTACKS.values():
        wide = attack(net, x, y, eps=0.3, bounds=(torch.zeros(6), torch.ones(6)))
        assert torch.equal(wide, attack(net, x, y, eps=0.3, bounds=(0.0, 1.0)))
        assert torch.equal(wide, attack(net, x, y, eps=0.3, bounds=(0.0, torch.ones(6))))
