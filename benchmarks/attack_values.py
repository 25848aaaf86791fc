"""What byzfl's attacks make of given rows, for the tests: ``python -m benchmarks.attack_values``.

Writes ``tests/attacks/poisoning/byzfl_values.json``. byzfl runs in its own environment, in float64.
"""

import json

import torch

from benchmarks.environments import ROOT
from benchmarks.tailored import Peer
from fedsec.randomness import generator

PATH = ROOT / "tests" / "attacks" / "poisoning" / "byzfl_values.json"
EXAMPLE = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]


def main():
    """Ask byzfl, and keep the answers with the questions."""
    peer, cases = Peer(), []
    for h, d, tau in ((3, 3, 1.5), (2, 5, 0.25), (8, 4, 2.0), (11, 7, 0.7)):
        rows = torch.randn(h, d, generator=generator(0, "byzfl values", h), dtype=torch.float64).tolist()
        asked = {"rows": EXAMPLE if d == 3 else rows, "tau": tau, "target": h // 2, "mu": 0.3, "sigma": 2.0, "seed": h}
        cases.append({**asked, **peer.ask(do="values", **asked)})
    PATH.write_text(json.dumps({"byzfl": "0.0.11", "cases": cases}) + "\n")


if __name__ == "__main__":
    main()
