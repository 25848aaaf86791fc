"""A federation on the digits for tests of detectors and of admission, and what its watch says."""

import functools

import torch

from fedsec.audit.build import Builder
from fedsec.audit.challenge import public_facts
from fedsec.config import config_from
from fedsec.federation.rounds import Federation
from fedsec.models.flat import Layout, Slot
from fedsec.protocol.stage import Setting


@functools.cache
def digits(*, clients=20, rounds=12, seed=0, alpha=None):
    partition = "shuffle" if alpha is None else {"name": "dirichlet", "alpha": alpha}
    config = config_from(
        {
            "version": 1,
            "federation": {
                "dataset": {"name": "digits", "train": 1000, "test": 400, "auxiliary": 100},
                "model": "softmax",
                "clients": clients,
                "rounds": rounds,
                "evaluate_every": rounds,
                "partition": partition,
                "local": {"batch_size": 10, "learning_rate": 0.5},
            },
            "attacks": [],
        }
    )
    return Builder(config).setup(seed)


@functools.cache
def trained(stack, adversary=None, **options):
    setup = digits(**options)
    facts = None if adversary is None else public_facts(setup, stack, adversary)
    return Federation(setup, stack, adversary=adversary, facts=facts).run()


def rates(result, *, since=0):
    """Shares of controlled and of honest identities that were dropped, from a round on."""
    watch = result.watch
    late = watch["round"] >= since
    dropped, controlled = watch["excluded"].bool(), watch["controlled"].bool()
    return tuple(float(dropped[late & side].double().mean()) for side in (controlled, ~controlled))


def area(result):
    """Chance that a controlled identity scores higher than an honest one, over all rounds; ties count half."""
    scored = ~torch.isnan(result.watch["score"])
    controlled = result.watch["controlled"].bool()
    high = result.watch["score"][scored & controlled].unsqueeze(1)
    low = result.watch["score"][scored & ~controlled].unsqueeze(0)
    return float((high > low).double().mean() + (high == low).double().mean() / 2)


def setting(**changes):
    """A federation as a defense sees it."""
    layout = Layout((Slot("w", (4,), 0, 4, True),))
    usual = {
        "population": 20, "cohort": 20.0, "rounds": 30, "sampling": "all", "layout": layout, "local_steps": 5,
        "batch_size": 10, "has_batch_norm": False, "task": "classification", "bounds": (0.0, 1.0), "stack": (),
        "public": 100,
    }  # fmt: skip
    return Setting(**{**usual, **changes})
