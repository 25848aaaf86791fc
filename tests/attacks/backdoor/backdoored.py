"""A federation on the digits that the package carries: 8 x 8 images, a small dense network, a dozen clients."""

import dataclasses
import functools

from fedsec.audit.build import Builder
from fedsec.audit.challenge import public_facts
from fedsec.config import config_from
from fedsec.federation.evaluate import hits
from fedsec.federation.rounds import Federation
from fedsec.federation.setup import ServerStep

FEDERATION = {
    "dataset": {"name": "digits", "train": 600, "auxiliary": 0, "test": 400},
    "model": {"name": "mlp", "hidden": [32]},
    "clients": 12,
    "rounds": 12,
    "local": {"batch_size": 10, "learning_rate": 0.2, "epochs": 2},
}


@functools.cache
def setup(seed=0):
    config = config_from({"version": 1, "federation": FEDERATION, "attacks": []})
    return Builder(config, device="cpu").setup(seed)


@functools.cache
def clean(seed=0):
    """The honest federation."""
    return Federation(setup(seed)).run()


def resumed(*, rounds, rate=1.0, **changes):
    """The federation from the clean model on."""
    server = ServerStep(learning_rate=rate)
    return dataclasses.replace(setup(), initial=clean().released, rounds=rounds, server=server, **changes)


def attacked(where, adversary, stack=()):
    """The result of the attacked federation."""
    return Federation(where, stack, adversary=adversary, facts=public_facts(where, stack, adversary)).run()


def floor(where, adversary, model):
    """How often a model obeys the trigger."""
    return float(hits(where.model, model, adversary.probe(where.split.test, where.info)).double().mean())
