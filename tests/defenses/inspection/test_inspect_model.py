import itertools

import pytest
import torch
from planted_scene import ONE_STEP, conv, federation, mlp

from fedsec.attacks.malicious.fishing import ClassFishing, FeatureFishing
from fedsec.attacks.malicious.robbing_the_fed import RobbingTheFed
from fedsec.attacks.malicious.trap_weights import TrapWeights
from fedsec.audit.challenge import public_facts
from fedsec.defenses.inspection.inspect_model import CERTAIN, InspectModel, detection, suspicion
from fedsec.federation.rounds import Federation
from fedsec.federation.stages import Stages
from fedsec.federation.training import LocalTraining
from fedsec.protocol.events import Topic
from fedsec.protocol.stage import EnforcedBy
from fedsec.randomness import generator

LOCAL = LocalTraining(epochs=2, batch_size=8, learning_rate=0.1)
ROUNDS = 6
ATTACKS = (RobbingTheFed(bins=64), TrapWeights(), ClassFishing(), FeatureFishing())


@pytest.fixture(scope="module", params=[lambda: mlp(64), conv], ids=["mlp", "conv"])
def trained(request):
    """A federation and its global models before each round."""
    setup = federation(request.param, clients=4, each=32, local=LOCAL, rounds=ROUNDS)
    events = Federation(setup, wanted={Topic.BROADCAST: frozenset(range(ROUNDS))}).run().events
    sent = sorted((e for e in events if e.topic == Topic.BROADCAST), key=lambda e: e.round)
    return setup, [event.payload.values[0] for event in sent]


def score(setup, model, vector, previous, client, **changes):
    return suspicion(
        vector,
        previous,
        setup.shard(client).examples(),
        sent=model,
        agreed=setup.model,
        generator=generator(client, "inspect"),
        examples=32,
        walks=2,
        **changes,
    )


def test_the_score_tells_planted_from_honest_models(trained):
    setup, models = trained
    before = [models[0], *models]
    honest = [
        score(setup, setup.model, models[r], before[r], c).score for r, c in itertools.product(range(ROUNDS), range(2))
    ]
    refused = sum(value > InspectModel().threshold for value in honest) / len(honest)
    assert refused <= 0.1
    for attack in ATTACKS:
        facts = public_facts(setup, (), attack)
        planted = []
        for r in (0, ROUNDS - 1):
            one = attack.plant(models[r], facts, generator=generator(r))
            planted += [
                score(setup, one.model, one.vector, before[r], c, changed_is_certain=False).score for c in range(2)
            ]
        found = detection(honest, planted)
        assert found.auc >= 0.99, attack.name
        assert found.tpr_at(0.1) == 1.0, attack.name
        assert min(planted) > InspectModel().threshold, attack.name


def test_the_roc_of_scores_by_counting():
    found = detection([0.0, 1.0, 2.0, 3.0], [2.5, 4.0, 5.0, 2.0])
    pairs = [(p > h) + 0.5 * (p == h) for p in (2.5, 4.0, 5.0, 2.0) for h in (0.0, 1.0, 2.0, 3.0)]
    assert found.auc == pytest.approx(sum(pairs) / 16)
    assert found.tpr_at(0.0) == pytest.approx(0.5)
    assert found.tpr_at(0.25) == pytest.approx(0.75)
    assert (found.fpr[0], found.fpr[-1], found.tpr[-1]) == (0.0, 1.0, 1.0)


def test_another_architecture_is_refused_whatever_it_looks_like():
    setup = federation(conv)
    planted = RobbingTheFed(bins=16).plant(
        setup.initial, public_facts(setup, (), RobbingTheFed()), generator=generator(0)
    )
    assert score(setup, planted.model, planted.vector, setup.initial, 0).score == CERTAIN


def test_clients_refuse_through_the_stack_and_remember_what_they_accept():
    setup = federation(lambda: mlp(64), each=32, clients=4, local=ONE_STEP)
    defense = InspectModel(walks=1, steps=2)
    assert defense.enforcement == EnforcedBy.CLIENT
    stages = Stages((defense,), setup.setting((defense,)), seed=1)
    assert stages.inspects
    attack = RobbingTheFed(bins=64)
    planted = attack.plant(setup.initial, public_facts(setup, (), attack), generator=generator(0))
    shard = setup.shard(0).examples()
    names = {"sent": setup.model, "agreed": setup.model}
    assert stages.refuses(setup.initial, setup.initial, shard, 0, 0, **names) == ""
    assert stages.refuses(planted.vector, setup.initial, shard, 1, 0, **names) == "inspect-model"
    assert stages.diagnostics["inspect-model.refused"] == [0.0, 1.0]
    assert stages.diagnostics["inspect-model.suspicion"][1] > defense.threshold


def test_a_model_of_no_number_is_refused():
    setup = federation(lambda: mlp(64), each=32, clients=4)
    defense = InspectModel(walks=1, steps=2)
    stages = Stages((defense,), setup.setting((defense,)), seed=1)
    shard = setup.shard(0).examples()
    broken = torch.full_like(setup.initial, torch.nan)
    assert stages.refuses(broken, setup.initial, shard, 0, 0, sent=setup.model, agreed=setup.model)


def test_the_threshold_grows_as_fewer_false_alarms_are_wanted():
    assert InspectModel(false_positives=0.06).threshold == pytest.approx(2.326, abs=1e-3)
    assert InspectModel(false_positives=0.001).threshold > InspectModel(false_positives=0.01).threshold


def test_an_honest_federation_pays_for_false_alarms_and_says_so():
    """Clients inspect in every round; a threshold that refuses everything leaves the model as it was."""
    setup = federation(lambda: mlp(64), clients=3, each=32, local=LOCAL, rounds=3)
    kept = Federation(setup, (InspectModel(walks=1, steps=2),)).run()
    assert "inspect-model.refused" in kept.diagnostics
    assert kept.diagnostics["inspect-model.refused"] <= 0.2
    plain = Federation(setup).run()
    assert abs(kept.accuracy[-1] - plain.accuracy[-1]) < 0.15

    class Never(InspectModel):
        def inspect(self, model, previous, shard, context):
            return super().inspect(model, previous, shard, context) and False

    refused = Federation(setup, (Never(walks=1, steps=2),)).run()
    assert torch.equal(refused.released, setup.initial)
    assert refused.ledger.refused == {"inspect-model refused the model": 9}
    assert refused.ledger.uploads == 0
