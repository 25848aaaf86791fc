"""Mimic: the row it copies, the paper's streaming direction, and what it does over rounds."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.attacks.poisoning import mimic
from fedsec.attacks.poisoning.mimic import Mimic, oja_step, principal_axis, reaches
from fedsec.randomness import generator

from .coalitions import coalition, facts


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "mimic"))


def craft(adversary, view, **known):
    return adversary.craft(view, facts(**known), generator=generator(1))


@given(h=st.integers(2, 10), d=st.integers(1, 12), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_it_copies_the_row_that_reaches_furthest_along_the_principal_axis(h, d, seed):
    H = normal(h, d, seed=seed).double() * torch.linspace(1, 5, d) + normal(d, seed=seed + 1000).double()
    centred = (H - H.mean(dim=0)).numpy()
    axis = np.linalg.svd(centred)[2][0]
    found = principal_axis(H)
    assert abs(float(found.numpy() @ axis)) == pytest.approx(1.0, abs=1e-6)
    along = np.abs(H.numpy() @ axis)
    assert float(reaches(mimic(H, f=1, n=h + 1).unsqueeze(0), found).abs()) == pytest.approx(along.max())


def test_a_fixed_target_is_copied_and_bounded():
    H = normal(5, 4)
    for row in range(5):
        assert torch.equal(mimic(H, f=2, n=7, target=row), H[row])
    with pytest.raises(ValueError, match=r"rows 0\.\.4"):
        mimic(H, f=2, n=7, target=5)


def test_rows_without_variance_have_no_axis():
    H = torch.ones(4, 3)
    assert not principal_axis(H).any()
    assert torch.equal(mimic(H, f=1, n=5), H[0])


def test_streaming_follows_the_formula():
    H, mean = normal(6, 5).double(), normal(5, seed=1).double()
    axis = torch.nn.functional.normalize(normal(5, seed=2).double(), dim=0)
    for step in (1, 2, 7):
        expected_mean = step / (1 + step) * mean + H.mean(dim=0) / (1 + step)
        centred = H - expected_mean
        pulled = centred.T @ (centred @ axis)
        expected = step / (1 + step) * axis + pulled / pulled.norm() / (1 + step)
        got_mean, got = oja_step(H, mean, axis, step=step)
        torch.testing.assert_close(got_mean, expected_mean)
        torch.testing.assert_close(got, expected / expected.norm())


def rounds_of(count, h=6, d=20):
    """Clients with lasting differences: the last of them far out."""
    own = normal(h, d, seed=3)
    own[-1] *= 4.0
    return [own + 0.3 * normal(h, d, seed=10 + number) for number in range(count)]


def test_it_finds_the_outlying_client_and_stays_with_it():
    adversary, state = Mimic(omniscient=True, warmup=3), {}
    for number, honest in enumerate(rounds_of(8)):
        view = dataclasses.replace(coalition(normal(2, 20), n=8, honest=honest, state=state), round=number)
        sent = craft(adversary, view, population=8, cohort=8)
        torch.testing.assert_close(sent, honest[-1].expand(2, 20))
    held = int(state["mimic rounds"])
    assert held == 3
    # later rounds do not change its mind
    swapped = rounds_of(1)[0].flip(0)
    sent = craft(adversary, coalition(normal(2, 20), n=8, honest=swapped, state=state), population=8, cohort=8)
    torch.testing.assert_close(sent, swapped[-1].expand(2, 20))


def test_in_a_sampled_round_it_copies_the_row_that_reaches_furthest_now():
    adversary, state = Mimic(omniscient=True, warmup=2), {}
    for honest in rounds_of(3):
        craft(adversary, coalition(normal(2, 20), n=8, honest=honest, state=state), population=80, cohort=8)
    swapped = rounds_of(1)[0].flip(0)
    sent = craft(adversary, coalition(normal(2, 20), n=8, honest=swapped, state=state), population=80, cohort=8)
    torch.testing.assert_close(sent, swapped[0].expand(2, 20))


def test_a_target_is_counted_modulo_the_rows():
    honest = normal(4, 6)
    sent = craft(Mimic(omniscient=True, target=5), coalition(normal(2, 6), honest=honest))
    torch.testing.assert_close(sent, honest[1].expand(2, 6))


def test_without_omniscience_it_copies_one_of_its_own():
    own = normal(3, 6)
    sent = craft(Mimic(), coalition(own))
    assert any(torch.equal(sent[0], row) for row in own)
    assert torch.equal(sent[0], sent[2])
