"""What torchattacks, foolbox and ART made of the same images, written by ``python -m benchmarks.evasion_agreement``."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from fedsec.attacks.evasion import fgsm, pgd

HELD = json.loads(Path(__file__).with_name("peer_values.json").read_text())
CASES = {case["label"]: case for case in HELD["cases"]}


def images(flat):
    return torch.tensor(flat).reshape(len(flat), 1, 8, 8)


def ours(case):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 5))
    net.load_state_dict({name: torch.tensor(value) for name, value in HELD["weights"].items()})
    x, y = images(HELD["x"]), torch.tensor(HELD["y"])
    if case["attack"] == "fgsm":
        return fgsm(net, x, y, **case["given"])
    start = images(case["start"]) if "start" in case else None
    return pgd(net, x, y, norm=case["norm"], start=start, drop_fooled=False, **case["given"])


@pytest.mark.parametrize("label", [label for label, case in CASES.items() if case["norm"] == "linf"])
def test_signed_steps_are_equal_to_the_bit(label):
    assert torch.equal(ours(CASES[label]), images(CASES[label]["found"]))


@pytest.mark.parametrize("label", [label for label, case in CASES.items() if case["norm"] == "l2"])
def test_euclidean_steps_are_equal_to_rounding(label):
    assert torch.allclose(ours(CASES[label]), images(CASES[label]["found"]), rtol=0, atol=1e-5)


def test_every_library_has_all_three_calls():
    named = {(label.split(", ")[1], label.split(", ")[0]) for label in CASES if ", " in label}
    assert len(named) == 9
