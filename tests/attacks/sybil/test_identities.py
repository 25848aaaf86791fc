"""Sybils: how alike they are, what they add up to, and which defenses that beats."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.attacks.poisoning.label_flip import LabelFlip, TargetedLabelFlip
from fedsec.attacks.poisoning.model import ALittleIsEnough, SignFlip
from fedsec.attacks.sybil import cautious, decorrelated, noisy
from fedsec.attacks.sybil.identities import Sybil
from fedsec.data.examples import DatasetInfo, Examples
from fedsec.defenses.aggregation import foolsgold_weights
from fedsec.models.flat import FlatModel
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import CoalitionView
from fedsec.randomness import generator
from fedsec.threat import Knowledge


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "sybil tests"))


def facts():
    info = DatasetInfo(
        name="toy", summary="", task="classification", input_shape=(2,), classes=("a", "b", "c"), bounds=None,
        modality="tabular",
    )  # fmt: skip
    model = FlatModel.of(torch.nn.Linear(2, 3), task="classification", name="softmax")
    return PublicFacts(
        info=info, model=model, initial=torch.zeros(9), stack=(), population=20, cohort=10, rounds=5, rule="mean",
        knowledge=frozenset(),
    )  # fmt: skip


def coalition(own, *, sybils, state=None, number=0):
    k = len(own)
    return CoalitionView(
        round=number, clients=tuple(range(k)), own=own, weights=torch.ones(k), model=torch.zeros(own.shape[1]),
        honest=None, expected_cohort=20, state={} if state is None else state, is_sybil=torch.arange(k) >= k - sybils,
    )  # fmt: skip


def craft(adversary, view):
    return adversary.craft(view, facts(), generator=generator(view.round, "craft"))


def cosines(rows):
    unit = rows.double() / rows.double().norm(dim=1, keepdim=True)
    return (unit @ unit.T)[~torch.eye(len(rows), dtype=torch.bool)]


@given(k=st.integers(2, 12), similarity=st.floats(0.0, 1.0), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_decorrelated_updates_have_exactly_the_similarity_and_the_sum(k, similarity, seed):
    shared = normal(40, seed=seed)
    rows = decorrelated(shared, directions=normal(k, 40, seed=seed + 1), similarity=similarity)
    torch.testing.assert_close(cosines(rows), torch.full((k * (k - 1),), similarity).double(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rows.mean(dim=0), shared, rtol=1e-4, atol=1e-4)


@given(k=st.integers(2, 12), noise=st.floats(0.01, 2.0), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_noise_cancels_and_has_its_size(k, noise, seed):
    shared = normal(2000, seed=seed)
    rows = noisy(shared, count=k, noise=noise, generator=generator(seed))
    torch.testing.assert_close(rows.mean(dim=0), shared, rtol=1e-4, atol=1e-4)
    size = float((rows - shared).norm(dim=1).square().mean().sqrt() / shared.norm())
    assert size == pytest.approx(noise, rel=0.1)


def test_spreads_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="similarity"):
        decorrelated(normal(9), directions=normal(3, 9), similarity=1.5)
    with pytest.raises(ValueError, match="more than 9 parameters"):
        decorrelated(normal(9), directions=normal(9, 9), similarity=0.5)


def test_one_identity_and_zero_updates_are_left_alone():
    shared = normal(9)
    assert torch.equal(noisy(shared, count=1, noise=1.0, generator=generator(0)), shared.unsqueeze(0))
    assert torch.equal(decorrelated(shared, directions=normal(1, 9), similarity=0.0), shared.unsqueeze(0))
    assert not decorrelated(torch.zeros(9), directions=normal(3, 9), similarity=0.0).any()


def test_identical_sybils_send_the_mean_of_the_controlled_clients():
    own = normal(6, 30)
    sent = craft(Sybil(carries=SignFlip(scale=2.0), identities=4), coalition(own, sybils=4))
    torch.testing.assert_close(sent, (-2 * own[:2]).mean(dim=0).expand(6, 30))


def test_identities_of_their_own_send_what_the_carried_attack_made_for_each():
    own = normal(6, 30)
    sent = craft(Sybil(carries=SignFlip(scale=2.0), identities=4, behaviour="own"), coalition(own, sybils=4))
    assert torch.equal(sent, -2 * own)


@pytest.mark.parametrize("threshold", [0.8, 0.4, 0.1, 0.05])
def test_cautious_sybils_attack_as_often_as_the_closed_form_says(threshold):
    """Each round of noise adds an orthogonal unit: p^2 / (p^2 + q^2) = M after p attacks and q rounds of noise."""
    shared, directions = normal(50, seed=1), normal(3, 50)
    rows, sums, attacks = shared.expand(3, 50), torch.zeros(3, 50), 0
    for number in range(2000):
        sent, attacked = cautious(rows, sums, directions=directions, similarity=threshold)
        sums = sums + sent
        attacks += attacked
        if attacked:
            assert torch.equal(sent, rows)
            assert float(cosines(sums).max()) <= threshold + 1e-5
        else:
            torch.testing.assert_close(sent @ sent.T, shared.norm() ** 2 * torch.eye(3), rtol=1e-4, atol=1e-4)
            assert float((cosines(sums) - threshold).abs().max()) < 0.2 or number < 50
    # the noise has a part along the attack, which the closed form leaves out
    assert attacks / 2000 == pytest.approx(1 / (1 + math.sqrt(1 / threshold - 1)), rel=0.25)


def test_one_cautious_identity_always_attacks():
    row = normal(1, 9)
    sent, attacked = cautious(row, row, directions=row, similarity=0.0)
    assert attacked
    assert sent is row
    with pytest.raises(ValueError, match="more than 9 parameters"):
        cautious(normal(9, 9), normal(9, 9), directions=normal(9, 9), similarity=0.5)


def test_cautious_sybils_remember_what_each_of_them_sent():
    state, adversary = {}, Sybil(carries=LabelFlip(), identities=4, behaviour="cautious", similarity=0.3)
    total = torch.zeros(4, 40)
    for number, present in enumerate([(0, 1), (1, 2, 3), (0, 3), (0, 1, 2, 3), (2,)] * 6):
        view = dataclasses.replace(
            coalition(normal(40, seed=3).expand(len(present), 40), sybils=len(present), state=state, number=number),
            clients=present,
        )
        total[list(present)] += craft(adversary, view)
    order = state["senders"].argsort()
    torch.testing.assert_close(state["sent"][order], total)
    assert int(state["rounds"]) == 30
    assert 6 < int(state["rounds attacked"]) < 30


@pytest.mark.parametrize("behaviour", ["identical", "noisy", "decorrelated"])
def test_what_the_coalition_adds_up_to_does_not_depend_on_the_behaviour(behaviour):
    own = normal(6, 30)
    adversary = Sybil(carries=ALittleIsEnough(z=1.0), identities=4, behaviour=behaviour)
    sent = craft(adversary, coalition(own, sybils=4))
    expected = own[:2].mean(dim=0) + own[:2].std(dim=0)
    torch.testing.assert_close(sent.mean(dim=0), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sybils", [1, 5])
def test_without_a_controlled_client_in_the_cohort_sybils_send_their_own(sybils):
    own = normal(sybils, 30)
    sent = craft(Sybil(carries=LabelFlip(), identities=5, behaviour="decorrelated"), coalition(own, sybils=sybils))
    torch.testing.assert_close(sent.mean(dim=0), own.mean(dim=0), rtol=1e-4, atol=1e-4)


def test_foolsgold_stops_alike_sybils_and_not_decorrelated_or_cautious_ones():
    """Sums over rounds are compared, so directions must last; the honest clients' cosines are about 0.3."""
    aim = 2 * normal(60, seed=9)
    kept = {}
    for behaviour in ("identical", "own", "noisy", "decorrelated", "cautious"):
        adversary = Sybil(carries=LabelFlip(), identities=5, behaviour=behaviour, similarity=0.05)
        state, history = {}, torch.zeros(14, 60)
        for number in range(20):
            own = aim + 0.1 * normal(6, 60, seed=1000 + number)
            sent = craft(adversary, coalition(own, sybils=5, state=state, number=number))
            honest = torch.eye(8, 60) * 6 + 0.5 * normal(60, seed=5) + 0.2 * normal(8, 60, seed=number)
            history += torch.cat([honest, sent])
        kept[behaviour] = float(foolsgold_weights(history)[8:].mean())
    assert kept["identical"] == 0.0
    assert kept["own"] == 0.0
    assert kept["noisy"] == 0.0
    assert kept["decorrelated"] > 0.9
    assert kept["cautious"] > 0.9


def test_follows_what_it_carries():
    carried = TargetedLabelFlip(source=1, target=2)
    adversary = Sybil(carries=carried, identities=3)
    assert Sybil.judge == "availability"
    assert adversary.judge == "targeted"
    assert adversary.carried is carried
    assert adversary.goal() == {"source": 1, "target": 2}
    assert adversary.taxonomy[: len(carried.taxonomy)] == carried.taxonomy
    assert adversary.spec()["carries"] == carried.spec()
    assert {entry.framework for entry in Sybil.taxonomy} == {"nist-ai-100-2e2025", "mitre-atlas-5.6", "owasp-ml-2023"}
    shard = Examples(normal(3, 2), torch.tensor([0, 1, 2]))
    assert adversary.poison(shard, facts(), generator=generator(0)).y.tolist() == [0, 2, 2]
    assert math.isclose(adversary.fraction, 0.1)
    assert adversary.identities == 3


def test_a_sybil_carries_no_sybil():
    with pytest.raises(ValueError, match="not another sybil"):
        Sybil(carries=Sybil())


def test_no_attack_that_brings_its_own_identities_or_reads_is_carried():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Brings(LabelFlip):
        @property
        def identities(self):
            return 3

    with pytest.raises(ValueError, match="which label-flip is not"):
        Sybil(carries=Brings())


def test_knows_what_the_carried_attack_knows_and_no_more():
    assert not Sybil(carries=ALittleIsEnough()).knows()
    assert Sybil(carries=ALittleIsEnough(omniscient=True)).knows() == {Knowledge.HONEST_UPDATES}
    assert not Sybil().adaptive_to


def test_identities_take_turns():
    adversary = Sybil(identities=6, turns=3)
    for number in range(6):
        assert [adversary.acts(number, place) for place in range(6)] == [place % 3 == number % 3 for place in range(6)]
    assert all(Sybil().acts(number, place) for number in range(3) for place in range(5))
