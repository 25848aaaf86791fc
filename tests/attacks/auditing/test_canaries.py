"""The canary audit end to end: below the claim of a sound mechanism, above it where the mechanism does less."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from fedsec.attacks.auditing.canaries import CanaryAudit
from fedsec.attacks.auditing.scores import direction
from fedsec.audit.challenge import coalition_position, population_of, public_facts, truth
from fedsec.data.embedded import Digits
from fedsec.data.examples import Examples
from fedsec.data.partitions import Shuffle
from fedsec.data.split import split
from fedsec.defenses.compression.plugins import Sign, TopK
from fedsec.defenses.encryption.ckks import CKKS
from fedsec.defenses.privacy.client_level import ClientLevelDP
from fedsec.defenses.privacy.local import LocalDP
from fedsec.federation.coalition import coin
from fedsec.federation.population import Participation
from fedsec.federation.rounds import Federation
from fedsec.federation.setup import FederationSetup, ServerStep
from fedsec.federation.training import LocalTraining
from fedsec.judges.base import Judgement, Measurement
from fedsec.judges.epsilon import EpsilonJudge
from fedsec.models.dense import MLP
from fedsec.models.flat import FlatModel
from fedsec.protocol.events import Topic
from fedsec.protocol.evidence import CanaryScores
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.parties import CoalitionView
from fedsec.protocol.payload import Payload, Plain
from fedsec.protocol.stage import Defense, RoundContext
from fedsec.protocol.view import View, project
from fedsec.randomness import derive_seed, generator, numpy_generator
from fedsec.statistics.pooling import Pooled, pool

CANARIES = 120


def build(*, seed: int = 0, rounds: int = 3, clients: int = 6, cohort: int | None = None) -> FederationSetup:
    """Digits, an MLP of 3,000 parameters, a handful of clients."""
    dataset = Digits().load(None)
    parts = split(dataset, train=120, holdout=0, auxiliary=0, test=100, generator=numpy_generator(seed, "split"))
    partition = Shuffle()
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(derive_seed(seed, "initial"))
        model = FlatModel.of(MLP(hidden=(40,)).build(dataset.info), task="classification", name="mlp")
    return FederationSetup(
        info=dataset.info,
        fingerprint=dataset.fingerprint,
        split=parts,
        index=partition.assign(parts.clients, clients, generator=numpy_generator(seed, "partition")),
        partition=partition,
        model=model,
        initial=model.vector(),
        participation=Participation(clients_per_round=cohort or clients),
        local=LocalTraining(epochs=1, batch_size=10, learning_rate=0.1),
        weighting="examples",
        server=ServerStep(),
        rounds=rounds,
        evaluate_every=10,
        seed=seed,
    )


def look(setup: FederationSetup, stack: tuple[Defense, ...], attack: CanaryAudit) -> tuple[CanaryScores, View]:
    """What the audit concludes, by the harness's own parts."""
    facts = public_facts(setup, stack, attack)
    every = frozenset(range(setup.rounds))
    wanted = dict.fromkeys((*attack.wants, *attack.also_sees), every)
    result = Federation(setup, stack, adversary=attack, facts=facts, wanted=wanted).run()
    position = coalition_position(attack, population_of(setup, attack))
    for topic in attack.wants:
        view, _ = project(result.events, position, [topic, *attack.also_sees])
        if view.of(topic):
            break
    return attack.observe(view, facts, result.memory, generator=generator("observe")), view


def judged(setup: FederationSetup, stack: tuple[Defense, ...], attack: CanaryAudit) -> Judgement:
    evidence, _ = look(setup, stack, attack)
    held = truth(
        setup, stack, attack, events=(), released=setup.initial, challenge=None,
        population=population_of(setup, attack),
    )  # fmt: skip
    return EpsilonJudge().measure(evidence, held)


def value(judgement: Judgement, name: str) -> Pooled:
    measurement: Measurement = next(m for m in judgement.measurements if m.name == name)
    return pool([measurement], generator=numpy_generator("pool"))


@dataclass(frozen=True, kw_only=True)
class QuietServer(ClientLevelDP):
    """Claims its noise and adds a tenth of it."""

    name: ClassVar[str] = "quiet"

    def open(self, aggregate: Payload, context: RoundContext) -> Plain:
        noise = self._noise_multiplier(context)
        return ClientLevelDP(clip_norm=self.clip_norm, noise_multiplier=noise / 10).open(aggregate, context)


@dataclass(frozen=True, kw_only=True)
class Unclipped(ClientLevelDP):
    """Claims to clip."""

    name: ClassVar[str] = "unclipped"

    def seal(self, update: Payload, context: RoundContext) -> Plain:
        assert isinstance(update, Plain)
        return Plain(update.values, torch.ones_like(update.weights))


@dataclass(frozen=True, kw_only=True)
class WrongSensitivity(ClientLevelDP):
    """Scales its noise to the mean's sensitivity and divides it by the cohort once more."""

    name: ClassVar[str] = "wrong-sensitivity"

    def open(self, aggregate: Payload, context: RoundContext) -> Plain:
        mean = super().open(aggregate, context).values
        quiet = ClientLevelDP(clip_norm=self.clip_norm, noise_multiplier=self._noise_multiplier(context) * 1e3)
        loud = quiet.open(aggregate, context).values
        # the noise alone is the difference over 999; what remains is noise / cohort
        noise = (loud - mean) / 999
        return Plain(mean - noise * (1 - 1 / context.cohort), torch.full((1,), context.cohort))


@dataclass(frozen=True, kw_only=True)
class QuietClients(LocalDP):
    """Claims local noise and adds a tenth of it."""

    name: ClassVar[str] = "quiet-clients"

    def seal(self, update: Payload, context: RoundContext) -> Plain:
        noise = self._noise_multiplier(context)
        return LocalDP(clip_norm=self.clip_norm, noise_multiplier=noise / 10).seal(update, context)


SOUND = ClientLevelDP(noise_multiplier=4.0, clip_norm=0.5)


@pytest.mark.parametrize("sees", ["release", "broadcasts"])
def test_a_sound_mechanism_keeps_its_claim(sees: str) -> None:
    setup = build()
    found = judged(setup, (SOUND,), CanaryAudit(canaries=CANARIES, sees=sees))
    claim = float(SOUND.claims(setup.setting((SOUND,)))["epsilon"])
    bound = value(found, "epsilon_lower_bound")
    assert bound.value <= claim < bound.ceiling
    assert not [note for note in found.notes if note.startswith(("BROKEN", "SUSPECT"))]
    # three rounds of noise 4 are as one of noise 2.3
    assert 0.5 < value(found, "auc").value < 0.8
    assert value(found, "epsilon_one_run").value <= claim


@pytest.mark.parametrize("broken", [QuietServer, Unclipped, WrongSensitivity])
def test_a_broken_twin_with_the_same_claim_is_flagged(broken: type[ClientLevelDP]) -> None:
    setup, stack = build(), (broken(noise_multiplier=4.0, clip_norm=0.5),)
    assert stack[0].claims(setup.setting(stack)) == SOUND.claims(setup.setting((SOUND,)))
    found = judged(setup, stack, CanaryAudit(canaries=CANARIES))
    claim = float(SOUND.claims(setup.setting((SOUND,)))["epsilon"])
    assert value(found, "epsilon_lower_bound").value > claim
    assert [note for note in found.notes if note.startswith("BROKEN")]


@pytest.mark.parametrize(("defense", "is_broken"), [(LocalDP, False), (QuietClients, True)])
def test_local_noise_is_audited_at_the_server(defense: type[LocalDP], is_broken: bool) -> None:
    setup, stack = build(rounds=2), (defense(noise_multiplier=3.0, clip_norm=0.5, adjacency="zero-out"),)
    found = judged(setup, stack, CanaryAudit(canaries=CANARIES, sees="server"))
    claim = float(stack[0].claims(setup.setting(stack))["epsilon"])
    assert (value(found, "epsilon_lower_bound").value > claim) == is_broken
    assert bool([note for note in found.notes if note.startswith("BROKEN")]) == is_broken


def test_without_noise_the_bound_is_near_the_ceiling_compressed_or_not() -> None:
    for stack in ((), (TopK(share=0.05),), (Sign(),)):
        found = judged(build(rounds=1), stack, CanaryAudit(canaries=CANARIES))
        bound = value(found, "epsilon_lower_bound")
        # compression sends something close to the direction; the audit looks for the direction itself
        assert bound.value > (2.0 if stack else 0.999 * bound.ceiling), stack
        assert bound.ceiling > 2.5
        assert value(found, "auc").value > (0.97 if stack else 0.999)
        assert "No defense here claims an epsilon" in " ".join(found.notes)


def test_a_server_is_not_bound_by_a_claim_that_does_not_cover_it() -> None:
    found = judged(build(rounds=1), (SOUND,), CanaryAudit(canaries=CANARIES, sees="server"))
    names = {m.name for m in found.measurements}
    assert "epsilon_lower_bound_unclaimed" in names
    assert "epsilon_lower_bound" not in names
    assert not [note for note in found.notes if note.startswith("BROKEN")]
    assert "dp-client claims nothing against a server" in " ".join(found.notes)
    assert value(found, "auc").value == 1.0


def test_where_the_view_is_noise_it_falls_to_its_floor() -> None:
    setup, attack = build(rounds=1), CanaryAudit(canaries=400)
    evidence, view = look(setup, (), attack)
    noise = torch.randn(setup.model.layout.size, generator=generator("noise"))
    blind = dataclasses.replace(view.events[0], values=setup.initial + noise)
    state = {"directions seed": torch.tensor([5]), "asked": torch.tensor([[0, 6 + i] for i in range(400)])}
    facts = public_facts(setup, (), attack)
    found = attack.observe(View("outsider", (blind,)), facts, state, generator=generator("observe"))
    assert found.scores.mean() == pytest.approx(0.0, abs=0.2)
    assert found.scores.std() == pytest.approx(1.0, abs=0.15)
    held = truth(
        setup, (), attack, events=(), released=setup.initial, challenge=None, population=population_of(setup, attack)
    )
    blinded = EpsilonJudge().measure(found, held)
    area = value(blinded, "auc")
    assert area.low < 0.5 < area.high
    assert value(blinded, "epsilon_lower_bound").value == 0.0
    assert evidence.scores.max() > 6


def test_sampled_canaries_are_scored_by_the_rounds_in_which_they_were_asked() -> None:
    setup = build(rounds=6, clients=30, cohort=15)
    broadcasts, view = look(setup, (), CanaryAudit(canaries=20, sees="broadcasts"))
    assert view.of(Topic.BROADCAST)
    release, _ = look(setup, (), CanaryAudit(canaries=20))
    coins = torch.tensor([coin(setup.seed, int(i)) for i in broadcasts.identities])
    never = broadcasts.scores == 0
    assert broadcasts.scores[coins & ~never].min() > broadcasts.scores[~coins].max()
    assert broadcasts.scores[coins].mean() > release.scores[coins].mean()


def test_a_server_that_can_open_nothing_sees_what_an_outsider_sees() -> None:
    setup = build(rounds=2)
    stack = (ClientLevelDP(noise_multiplier=0.5, clip_norm=0.5), CKKS(capacity=32))
    server, view = look(setup, stack, CanaryAudit(canaries=10, sees="server"))
    outsider, _ = look(setup, stack, CanaryAudit(canaries=10))
    assert not view.of(Topic.UPLOAD)
    assert not server.uploads
    torch.testing.assert_close(server.scores, outsider.scores, atol=1e-2, rtol=0)


def test_poisson_sampling_is_tested_without_a_gaussian_curve_and_batch_norm_is_no_obstacle() -> None:
    setup = build(rounds=4, clients=20, cohort=10)
    setup = dataclasses.replace(setup, participation=Participation(clients_per_round=10, sampling="poisson"))
    found = judged(setup, (SOUND,), CanaryAudit(canaries=CANARIES, sees="broadcasts"))
    lower = next(m for m in found.measurements if m.name == "epsilon_lower_bound")
    assert lower.statistic.startswith("epsilon:f-dp@")
    assert value(found, "epsilon_lower_bound").value <= float(SOUND.claims(setup.setting((SOUND,)))["epsilon"])
    layers = (torch.nn.Flatten(), torch.nn.Linear(64, 20), torch.nn.BatchNorm1d(20), torch.nn.Linear(20, 10))
    module = torch.nn.Sequential(*layers)
    model = FlatModel.of(module, task="classification", name="bn")
    batched = dataclasses.replace(build(rounds=1), model=model, initial=model.vector())
    seen = judged(batched, (), CanaryAudit(canaries=40))
    assert value(seen, "auc").value > 0.95


def test_too_many_canaries_for_a_model_are_refused() -> None:
    with pytest.raises(NotApplicable, match="2000 canaries need a model of 4000 parameters"):
        look(build(rounds=1), (), CanaryAudit(canaries=2000))


def test_crafts_zeros_for_excluded_canaries_and_the_same_direction_in_every_round() -> None:
    attack, d, state = CanaryAudit(canaries=4, norm=7.0), 50, dict[str, Tensor]()
    setup = build()
    facts = public_facts(setup, (), attack)
    rows = []
    for number in range(2):
        coalition = CoalitionView(
            round=number, clients=(6, 7, 9), own=torch.ones(3, d), weights=torch.ones(3), model=torch.zeros(d),
            honest=None, expected_cohort=6, state=state, is_sybil=torch.ones(3, dtype=torch.bool),
            included=torch.tensor([True, False, True]),
        )  # fmt: skip
        rows.append(attack.craft(coalition, facts, generator=generator("craft", number)))
    assert torch.equal(rows[0], rows[1])
    assert torch.equal(rows[0][1], torch.zeros(d))
    assert rows[0].norm(dim=1).tolist() == pytest.approx([7.0, 0.0, 7.0])
    assert torch.allclose(rows[0][0] / 7, direction(int(state["directions seed"]), 6, d), atol=1e-6)
    assert state["asked"].tolist() == [[0, 6], [0, 7], [0, 9], [1, 6], [1, 7], [1, 9]]
    with pytest.raises(ValueError, match="coins"):
        attack.craft(dataclasses.replace(coalition, included=None), facts, generator=generator("craft"))


def test_canaries_train_on_one_blank_example() -> None:
    attack = CanaryAudit()
    shard = Examples(torch.rand(0, 64), torch.zeros(0, dtype=torch.int64))
    facts = public_facts(build(), (), attack)
    blank = attack.poison(shard, facts, generator=generator("poison"))
    assert len(blank) == 1
    assert not blank.x.any()
    assert (attack.fraction, attack.identities) == (0.0, 200)
