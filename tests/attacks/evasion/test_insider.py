"""What one client can do to the final model with what it holds: its data, models that it was sent, one of its own."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fedsec.attacks.evasion import momentum, pgd
from fedsec.attacks.evasion.insider import InsiderTransfer
from fedsec.audit.build import Builder
from fedsec.audit.challenge import public_facts
from fedsec.ball import lengths
from fedsec.config import config_from
from fedsec.data.embedded import Digits
from fedsec.errors import NotKnownError
from fedsec.federation.cohort import CohortTrainer
from fedsec.federation.shards import Shard
from fedsec.federation.training import LocalTraining
from fedsec.models.dense import Softmax
from fedsec.models.flat import FlatModel
from fedsec.protocol.events import Topic
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.view import Seen, View
from fedsec.threat import Knowledge

from .networks import drawn, net_of, small

DIGITS = Digits().load(None)
ROUNDS, CLIENTS = 6, 4
LOCAL = LocalTraining(epochs=2, batch_size=16, learning_rate=0.2)


def trained():
    """Global models before every round and after the last, of four clients with a quarter of the digits each."""
    net = net_of(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    for parameter in net.parameters():
        parameter.data *= 0.1
    flat = FlatModel.of(net, task="classification", name="net")
    models = [flat.vector()]
    trainer = CohortTrainer(flat, LOCAL)
    shards = [Shard(DIGITS.train, torch.arange(client, 1297, CLIENTS)) for client in range(CLIENTS)]
    for number in range(ROUNDS):
        seeds = [CLIENTS * number + client for client in range(CLIENTS)]
        models.append(models[-1] + trainer.train(models[-1], shards, seeds).mean(0))
    return flat, models, shards


MODEL, MODELS, SHARDS = trained()


def view_of(models, position="client:0", rounds=range(ROUNDS)):
    sent = [(number, Topic.BROADCAST, models[number]) for number in rounds] + [(ROUNDS - 1, Topic.RELEASE, models[-1])]
    return View(
        position,
        tuple(
            Seen(round=number, topic=topic, sender="server", values=values, weight=1.0, about=())
            for number, topic, values in sent
        ),
    )


def facts_for(attack, own=None):
    knows = attack.knows()
    return PublicFacts(
        info=Digits.info,
        model=MODEL,
        initial=MODELS[0],
        stack=(),
        population=CLIENTS,
        cohort=CLIENTS,
        rounds=ROUNDS,
        rule="mean",
        knowledge=knows,
        _test_inputs=DIGITS.test,
        _local=LOCAL,
        _own=SHARDS[0].examples() if own is None else own,
    )


def run(attack, view=None, own=None):
    facts = facts_for(attack, own)
    return attack.run(view or view_of(MODELS), facts, generator=torch.Generator().manual_seed(0))


def error(found):
    wrong = MODEL.instance(MODELS[-1])(found.inputs).argmax(-1) != DIGITS.test.y[: len(found.inputs)]
    return wrong.float().mean().item()


def same_size_noise(found):
    delta = found.inputs - DIGITS.test.x[: len(found.inputs)]
    flat = delta.flatten(1)
    order = drawn(*flat.shape).argsort(1)
    return replace(found, inputs=(found.inputs - delta + flat.gather(1, order).reshape(delta.shape)).clamp(0, 1))


@pytest.mark.parametrize("method", ["momentum", "pgd"])
@pytest.mark.parametrize("source", ["released", "local", "past", "surrogate"])
def test_inputs_transfer_from_what_a_client_holds_and_stay_in_the_ball(source, method):
    found = run(InsiderTransfer(source=source, method=method, eps=0.2))
    assert lengths(found.inputs - DIGITS.test.x[:500], "linf").max() <= 0.2 + 1e-6
    assert error(found) > error(same_size_noise(found)) + 0.3


@pytest.mark.parametrize("source", ["released", "local", "past"])
def test_nothing_transfers_from_models_of_noise(source):
    noise = [drawn(*model.shape, seed=number) - 0.5 for number, model in enumerate(MODELS)]
    own = DIGITS.train.take([])
    attack = InsiderTransfer(source=source, eps=0.15, epochs=1)
    if source == "local":
        with pytest.raises(NotApplicable, match="holds no example"):
            run(attack, view_of(noise), own)
        return
    assert error(run(attack, view_of(noise))) < error(run(attack)) / 2


def test_the_older_the_model_the_less_transfers():
    errors = [error(run(InsiderTransfer(source="past", age=age, eps=0.15))) for age in (1, 4, 6)]
    assert errors[0] > errors[1] > errors[2]


def test_the_last_model_that_is_old_enough_is_taken():
    attack = InsiderTransfer(source="past", age=2)
    view = view_of(MODELS, rounds=(0, 1, 3, 5))
    assert torch.equal(attack.substitute(view, facts_for(attack), torch.Generator())[1], MODELS[3])
    old = InsiderTransfer(source="past", age=9)
    assert torch.equal(old.substitute(view, facts_for(old), torch.Generator())[1], MODELS[0])
    with pytest.raises(NotApplicable, match="was sent no model"):
        run(InsiderTransfer(source="past", age=4), view_of(MODELS, rounds=(3, 5)))


def test_the_rounds_that_are_kept_hold_the_model_that_is_looked_for():
    assert InsiderTransfer(source="past", age=3).rounds(30) == (*range(7, 28), 29)
    assert InsiderTransfer(source="past", age=1).rounds(2) == (0, 1)
    assert InsiderTransfer(source="released").rounds(30) == (29,)


def test_a_surrogate_knows_its_own_data_alone():
    attack = InsiderTransfer(source="surrogate")
    draw = torch.Generator().manual_seed(3)
    _, first = attack.substitute(view_of(MODELS), facts_for(attack), draw)
    _, again = attack.substitute(view_of([m * 0 for m in MODELS]), facts_for(attack), torch.Generator().manual_seed(3))
    assert torch.equal(first, again)


def test_a_surrogate_of_another_architecture_transfers_less_and_leaves_the_global_generator():
    before = torch.random.get_rng_state()
    other = InsiderTransfer(source="surrogate", architecture=Softmax(), eps=0.2)
    found = run(other)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(found.inputs, run(other).inputs)
    assert error(same_size_noise(found)) + 0.2 < error(found)


def test_who_is_no_client_holds_nothing():
    for source in ("local", "past", "surrogate"):
        with pytest.raises(NotApplicable, match="no client"):
            run(InsiderTransfer(source=source), view_of(MODELS, position="server"))
    assert run(InsiderTransfer(source="released", steps=1), view_of(MODELS, position="server")).forwards > 0


def test_knowledge_is_what_the_source_needs():
    assert InsiderTransfer(source="past").knows() == {Knowledge.TEST_INPUTS}
    assert Knowledge.OWN_DATA in InsiderTransfer(source="surrogate").knows()
    with pytest.raises(NotKnownError):
        _ = facts_for(InsiderTransfer(source="past")).own


def test_a_client_is_given_its_own_examples_and_no_others():
    federation = {
        "dataset": {"name": "digits", "train": 200, "test": 50},
        "model": "softmax",
        "clients": 5,
        "rounds": 1,
    }
    setup = Builder(config_from({"version": 1, "federation": federation, "attacks": []})).setup(0)
    attack = InsiderTransfer(source="surrogate")
    own = public_facts(setup, (), attack, position="client:1").own
    assert torch.equal(own.x, setup.shard(1).examples().x)
    both = public_facts(setup, (), attack, position="client:1+client:0").own
    assert len(both) == len(setup.index.rows(0)) + len(setup.index.rows(1))
    assert torch.equal(both.y[: len(setup.index.rows(0))], setup.shard(0).examples().y)
    with pytest.raises(NotKnownError, match="own examples"):
        _ = public_facts(setup, (), attack, position="server").own


def test_momentum_without_memory_is_the_fixed_step_and_a_linear_model_falls_to_both():
    net, x = small(), drawn(20, 8)
    y = net(x).argmax(-1)
    steady = pgd(net, x, y, eps=0.2, step=0.02, steps=10, drop_fooled=False)
    assert torch.equal(momentum(net, x, y, eps=0.2, steps=10, decay=0.0), steady)
    line = net_of(nn.Linear(8, 2))
    y = line(x).argmax(-1)
    difference = (line[0].weight[0] - line[0].weight[1]).detach()
    margin = (line(x)[:, 0] - line(x)[:, 1]).detach().abs() / difference.abs().sum()
    for eps in (0.05, 0.2):
        found = momentum(line, x, y, eps=eps, bounds=(-9.0, 9.0))
        assert torch.equal(line(found).argmax(-1) != y, margin < eps)
