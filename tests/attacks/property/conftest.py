import pytest
import torch
from torch import nn

from fedsec.data.embedded import Digits
from fedsec.federation.cohort import CohortTrainer
from fedsec.federation.shards import Shard
from fedsec.federation.training import LocalTraining
from fedsec.models.flat import FlatModel
from fedsec.protocol.facts import PublicFacts
from fedsec.threat import Knowledge


class World:
    """Digits, whose ink is the property, on a small net; everything that an attack may know of it."""

    def __init__(self):
        digits = Digits().load(None).train
        self.auxiliary, self.victims = digits.take(range(400)), digits.take(range(400, 1297))
        self.local = LocalTraining(epochs=1, batch_size=10, learning_rate=0.1)
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(0)
            net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        self.model = FlatModel.of(net, task="classification", name="net")
        self.initial = self.model.vector()
        self._trainer = CohortTrainer(self.model, self.local)
        long = LocalTraining(epochs=4, batch_size=20, learning_rate=0.1)
        self._long = CohortTrainer(self.model, long)
        self._released = {}

    def simulate(self, model, shards, draws):
        return self._trainer.train(model, [Shard.of(shard) for shard in shards], list(draws))

    def federate(self, sets, draw):
        """One client that holds everything: the limit of a federation of equal clients."""
        shards = [Shard.of(one) for one in sets]
        return self.initial + self._long.train(self.initial, shards, [draw + n for n in range(len(sets))])

    def shard(self, kind, generator, size=30, purity=0.9):
        ink = self.victims.attributes["ink"]
        pure = round(purity * size)
        rows = [
            pool[torch.randperm(len(pool), generator=generator)[:count]]
            for pool, count in (
                ((ink == kind).nonzero().flatten(), pure),
                ((ink != kind).nonzero().flatten(), size - pure),
            )
        ]
        return self.victims.take(torch.cat(rows))

    def facts(self, **changes):
        given = {
            "info": Digits.info,
            "model": self.model,
            "initial": self.initial,
            "stack": (),
            "population": 10,
            "cohort": 5,
            "rounds": 3,
            "rule": "mean",
            "knowledge": frozenset({Knowledge.AUXILIARY_DATA, Knowledge.LOCAL_TRAINING, Knowledge.COUNTS}),
            "_auxiliary": self.auxiliary,
            "_local": self.local,
            "_simulate": lambda model, shard, draw: self.simulate(model, [shard], [draw])[0],
            "_simulate_many": self.simulate,
            "_federate": self.federate,
        }
        return PublicFacts(**(given | changes))


@pytest.fixture(scope="session")
def world():
    return World()
