import pytest
import torch
from torch import nn

from fedsec.attacks.membership.loss_threshold import LossThreshold
from fedsec.data.embedded import Digits
from fedsec.data.examples import Examples
from fedsec.errors import NotKnownError
from fedsec.federation.cohort import CohortTrainer
from fedsec.federation.shards import Shard
from fedsec.federation.training import LocalTraining
from fedsec.models.flat import FlatModel
from fedsec.protocol.events import Topic
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.view import Seen, View
from fedsec.statistics.intervals import auc
from fedsec.threat import Knowledge

DIGITS = Digits().load(None)


def model():
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    return FlatModel.of(net, task="classification", name="net")


def setting(knowledge, candidates):
    flat = model()
    return PublicFacts(
        info=Digits.info,
        model=flat,
        initial=flat.vector(),
        stack=(),
        population=1,
        cohort=1,
        rounds=1,
        rule="mean",
        knowledge=knowledge,
        _candidates=candidates,
    )


def attack(released, candidates, knowledge=LossThreshold.threat.knowledge):
    seen = Seen(round=0, topic=Topic.RELEASE, sender="server", values=released, weight=1.0, about=())
    facts = setting(knowledge, candidates)
    return LossThreshold().run(View("outsider", (seen,)), facts, generator=torch.Generator()).scores


def challenge():
    """40 members with a random label each, which only a model that trained on them can know, and 40 others."""
    some = DIGITS.train.take(range(80))
    labels = torch.randint(10, (80,), generator=torch.Generator().manual_seed(1))
    return Examples(some.x, labels), torch.arange(80) < 40


def test_memorised_labels_are_found():
    candidates, members = challenge()
    flat = model()
    trainer = CohortTrainer(flat, LocalTraining(epochs=150, batch_size=20, learning_rate=0.3))
    shard = Shard(candidates, members.nonzero().flatten())
    released = flat.vector() + trainer.train(flat.vector(), [shard], [0])[0]
    scores = attack(released, candidates)
    assert scores.dtype == torch.float64
    assert auc(scores, members) > 0.97


def test_an_untrained_model_says_nothing():
    candidates, members = challenge()
    assert 0.35 < auc(attack(model().vector(), candidates), members) < 0.65


def test_confident_models_do_not_tie_and_diverged_ones_do_not_fail():
    candidates, _ = challenge()
    sure = attack(model().vector() * 30, candidates)
    assert len(sure.unique()) == 80
    broken = attack(torch.full_like(model().vector(), torch.nan), candidates)
    assert torch.isfinite(broken).all()


def test_candidates_must_be_declared():
    candidates, _ = challenge()
    with pytest.raises(NotKnownError):
        attack(model().vector(), candidates, knowledge=frozenset({Knowledge.TEST_INPUTS}))
