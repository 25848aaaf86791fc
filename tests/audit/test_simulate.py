"""What an adversary simulates, and what the judge knows of properties."""

import pytest
import torch

from fedsec.attacks.property.passive import PassivePropertyInference
from fedsec.audit.build import Builder
from fedsec.audit.challenge import property_shares, public_facts
from fedsec.config import config_from
from fedsec.data.examples import Examples
from fedsec.protocol.outcome import NotApplicable


@pytest.fixture(scope="module")
def audit():
    config = config_from(
        {
            "version": 1,
            "federation": {
                "dataset": {"name": "digits", "train": 300, "auxiliary": 100, "test": 50},
                "model": {"name": "mlp", "hidden": [8]},
                "clients": 5,
                "rounds": 2,
            },
            "attacks": ["property-inference"],
            "defenses": ["none", {"name": "dp-local", "clip_norm": 0.5, "noise_multiplier": 0.5}],
        }
    )
    return config, Builder(config).setup(0)


@pytest.mark.parametrize("label", ["none", "dp-local"])
def test_many_clients_at_once_are_the_same_clients(audit, label):
    config, setup = audit
    stack = next(tuple(entry.defenses) for entry in config.stacks if entry.label == label)
    facts = public_facts(setup, stack, PassivePropertyInference())
    shards = [facts.auxiliary.take(range(n, n + 12)) for n in (0, 20, 40)]
    many = facts.simulate_many(facts.initial, shards, [3, 4, 5])
    single = torch.stack([facts.simulate(facts.initial, s, d) for s, d in zip(shards, [3, 4, 5], strict=True)])
    assert torch.allclose(many, single, atol=1e-6)
    # with one batch per client another draw shows only in the noise
    other = facts.simulate(facts.initial, shards[0], 6)
    assert torch.allclose(many[0], other, atol=1e-6) == (label == "none")


def test_auxiliary_examples_are_nobodys(audit):
    _, setup = audit
    held = {tuple(row) for row in setup.split.clients.x.flatten(1).tolist()}
    public = {tuple(row) for row in setup.split.auxiliary.x.flatten(1).tolist()}
    assert not held & public


def test_the_judge_knows_the_share_behind_every_update_and_of_everybody(audit):
    _, setup = audit
    some = Examples(torch.zeros(4, 1), torch.zeros(4), {"ink": torch.tensor([1, 1, 1, 0])})
    shares = property_shares(setup, PassivePropertyInference(), {(0, "client:1"): some})
    rows = torch.from_numpy(setup.index.order)
    everybody = float((setup.split.clients.attributes["ink"][rows] == 1).double().mean())
    assert shares == {"ink": {(0, "client:1"): 0.75, (1, "public"): pytest.approx(everybody)}}
    with pytest.raises(NotApplicable, match="no attribute 'age'"):
        property_shares(setup, PassivePropertyInference(properties=("age",)), {})
