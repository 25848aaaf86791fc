"""Every rule that byzfl has too, on the same rows, in float64: ``python -m benchmarks.byzfl_agreement``.

Writes the largest differences to ``docs/results/byzfl-agreement.md``, and byzfl's results on small inputs to
``tests/defenses/aggregation/byzfl_values.json``, which the ordinary tests compare with.
"""

import json
import os
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.environments import ROOT, python
from fedsec.defenses import aggregation as ours

FIXTURE = ROOT / "tests" / "defenses" / "aggregation" / "byzfl_values.json"
SIZES = ((5, 1, 4), (7, 2, 5), (10, 3, 6), (13, 3, 400), (25, 5, 2000), (50, 10, 3000))
SMALL = 10
KINDS = ("normal", "tiny", "far rows", "one direction")
CONVERGED = {"smoothing": 1e-9, "tolerance": 1e-13, "iterations": 20_000}


def rows(kind, n, f, d, seed):
    """Rows of a kind, ``(n, d)`` float64."""
    generator = np.random.default_rng([seed, n, d])
    made = generator.standard_normal((n, d))
    if kind == "tiny":
        made *= 1e-6
    if kind == "far rows":
        made[:f] = 50.0 + generator.standard_normal((f, d))
    if kind == "one direction":
        made = 0.1 * made + generator.standard_normal(d)
        made[-f:] *= -1.5
    return made


def pairs(n, f, scale):
    """Each rule: a name for it, byzfl's class and parameters, our function."""
    found = [
        ("mean", "Average", {}, ours.mean),
        ("coordinate median", "Median", {}, ours.coordinate_median),
        ("trimmed mean", "TrMean", {"f": f}, partial(ours.trimmed_mean, f=f)),
        ("mean around median", "Meamed", {"f": f}, partial(ours.mean_around_median, f=f)),
        ("Krum (preset byzfl)", "Krum", {"f": f}, partial(ours.krum, f=f, preset="byzfl")),
        ("Multi-Krum (preset byzfl)", "MultiKrum", {"f": f}, partial(ours.multi_krum, f=f, preset="byzfl")),
        (
            "geometric median, three steps from the origin",
            "GeometricMedian",
            {"nu": 0.1 * scale, "T": 3},
            partial(ours.geometric_median, nu=0.1 * scale, iterations=3, start="origin", tolerance=0.0),
        ),
        (
            "geometric median, converged",
            "GeometricMedian",
            {"nu": 1e-9 * scale, "T": 2000},
            partial(ours.geometric_median, **CONVERGED),
        ),
        (
            "centered clipping, one step",
            "CenteredClipping",
            {"tau": 1.5 * scale},
            partial(ours.centered_clipping, tau=1.5 * scale),
        ),
        (
            "centered clipping, five steps",
            "CenteredClipping",
            {"tau": 0.5 * scale, "L": 5},
            partial(ours.centered_clipping, tau=0.5 * scale, iterations=5),
        ),
        ("NNM", "NNM", {"f": f}, partial(ours.nearest_neighbor_mixing, f=f)),
        ("clipping", "Clipping", {"c": 2.0 * scale}, partial(ours.clip_norms, c=2.0 * scale)),
        ("ARC", "ARC", {"f": f}, partial(ours.adaptive_clipping, f=f)),
        ("bucketing into one bucket", "Bucketing", {"s": n}, lambda U: ours.bucketing(U, s=n, generator=chance())),
    ]
    if n <= 13:  # byzfl lists all subsets
        found.append(("MDA", "MDA", {"f": f}, partial(ours.minimum_diameter_averaging, f=f)))
    return found


def chance():
    """A generator whose draw does not matter."""
    return torch.Generator().manual_seed(0)


class Peer:
    """byzfl in its own environment."""

    def __init__(self):
        script = Path(__file__).parent / "peers" / "byzfl_rules.py"
        self.process = subprocess.Popen(
            [python("byzfl"), script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def ask(self, **request):
        """The answer to a request."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError("byzfl ended")
        return json.loads(answer)

    def close(self):
        """End its process."""
        self.process.stdin.close()
        self.process.wait()


def main():
    """Compare, and write both files."""
    torch.set_num_threads(1)
    peer = Peer()
    worst, inputs, fixture = {}, {}, []
    for n, f, d in SIZES:
        for seed, kind in enumerate(KINDS):
            U = rows(kind, n, f, d, seed)
            scale = 1e-6 if kind == "tiny" else 1.0
            listed = pairs(n, f, scale)
            answers = peer.ask(do="values", rows=U.tolist(), rules=[(name, given) for _, name, given, _ in listed])
            for (label, _, _, rule), answer in zip(listed, answers, strict=True):
                expected = np.array(answer)
                found = rule(torch.from_numpy(U)).numpy()
                difference = float(np.abs(found - expected).max() / np.abs(U).max())
                worst[label] = max(worst.get(label, 0.0), difference)
                inputs[label] = inputs.get(label, 0) + 1
            if n <= SMALL:
                named = {label: answer for (label, *_), answer in zip(listed, answers, strict=True)}
                fixture.append({"kind": kind, "f": f, "scale": scale, "rows": U.tolist(), "expected": named})
    peer.close()
    FIXTURE.write_text(json.dumps({"byzfl": "0.0.11", "cases": fixture}) + "\n")
    lines = [
        "# The same rules in byzfl",
        "",
        "Written by `python -m benchmarks.byzfl_agreement`: byzfl 0.0.11 on numpy float64 and our rules on the same",
        f"rows, of four kinds ({', '.join(KINDS)}), with (n, f, d) =",
        f"{', '.join(map(str, SIZES))}. The largest difference of",
        "a coordinate, divided by the largest coordinate of the input. MDA for n up to 13: byzfl lists all subsets.",
        "byzfl draws its buckets itself; with one bucket the draw does not matter.",
        "",
        "| rule | inputs | largest difference |",
        "| --- | ---: | ---: |",
        *(f"| {label} | {inputs[label]} | {difference:.1e} |" for label, difference in worst.items()),
        "",
    ]
    (ROOT / "docs" / "results" / "byzfl-agreement.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
