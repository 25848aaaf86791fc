"""Epsilons by dp-accounting: ``python dp_accounting_values.py OUTPUT`` writes a JSON list of settings with values.

Each setting is a composition of Poisson-subsampled Gaussian mechanisms under adding or removing one unit, or one tree
of Gaussian sums in which a unit is counted once. The tests hold what it wrote (version 0.6.0).
"""

import json
import sys
import warnings

import dp_accounting
from dp_accounting import pld, rdp

SAMPLED = (
    # noise, rate, steps, delta: Opacus' MNIST example at its three levels, then DP-FedAvg, then others
    (1.3, 0.004, 3750, 1e-5),
    (1.1, 0.004, 15000, 1e-5),
    (0.7, 0.004, 11250, 1e-5),
    (1.0, 0.1, 100, 1e-4),
    (2.0, 0.1, 100, 1e-4),
    (1.0, 0.2, 100, 1e-3),
    (4.0, 0.5, 20, 1e-5),
    (1.0, 0.01, 1000, 1e-6),
)
TREES = ((1.0, 1, 1e-5), (4.0, 16, 1e-5), (8.0, 100, 1e-6), (2.0, 1023, 1e-4), (2.0, 1024, 1e-4))
"""Noise, rounds, delta."""


def sampled(noise, rate, steps, delta):
    """One setting of the subsampled Gaussian mechanism by both accountants."""
    event = dp_accounting.SelfComposedDpEvent(
        dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise)), steps
    )
    renyi, losses = rdp.RdpAccountant(), pld.PLDAccountant()
    return {
        "mechanism": "sampled",
        "noise": noise,
        "rate": rate,
        "steps": steps,
        "delta": delta,
        "rdp": renyi.compose(event).get_epsilon(delta),
        "pld": losses.compose(event).get_epsilon(delta),
    }


def tree(noise, rounds, delta):
    """One tree, counted once."""
    event = dp_accounting.SingleEpochTreeAggregationDpEvent(noise, rounds)
    found = rdp.RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_SPECIAL)
    return {
        "mechanism": "tree",
        "noise": noise,
        "steps": rounds,
        "delta": delta,
        "rdp": found.compose(event).get_epsilon(delta),
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    rows = [sampled(*setting) for setting in SAMPLED] + [tree(*setting) for setting in TREES]
    with open(sys.argv[1], "w") as file:
        json.dump(rows, file, indent=1)
        file.write("\n")
