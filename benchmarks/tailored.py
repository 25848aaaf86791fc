"""The search against a known rule beside byzfl's optimised ALIE and IPM, at equal knowledge.

``python -m benchmarks.tailored`` writes ``docs/results/tailored.{md,json}``. All three get the same honest updates and
the same rule. byzfl's searches ask byzfl's own rule, in its own environment; what each found is then measured on both
implementations. One thread each, in turns; seconds are processor time, so that other load on the machine counts less.
Whoever wants the worse of byzfl's two attacks runs both, so the time of both is what one search is held against.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.environments import ROOT, python
from benchmarks.rounds import machine
from fedsec.attacks.poisoning.tailored import REACH, search
from fedsec.defenses.aggregation import (
    centered_clipping,
    coordinate_median,
    geometric_median,
    krum,
    mean,
    mean_around_median,
    minimum_diameter_averaging,
    multi_krum,
    nearest_neighbor_mixing,
    trimmed_mean,
)
from fedsec.randomness import generator
from fedsec.round_geometry import chain

RESULTS = ROOT / "docs" / "results"
COHORTS = ((13, 3), (25, 6), (50, 12))
SUBSETS = 3_000
"""byzfl lists every subset of ``n - f`` rows for minimum-diameter averaging; above this number it is left out."""
STEPS, SURE_STEPS, SMOOTHING = 30, 100, 1e-6
"""byzfl's geometric median is given enough steps to converge: in its search, and where damage is measured. Its default,
3 steps from zero, is another estimator."""
TOLERANCE = 1e-6
"""Relative: where a rule's damage levels off, two searches reach the same and differ by rounding."""


def updates(h, d):
    """Honest updates ``(h, d)`` of clients that differ: a common part, one of six groups, and noise.

    Coordinates have scales that spread over two decades, as those of layers do.
    """
    random = generator(0, "updates", h)
    scale = torch.exp(torch.randn(d, generator=random))
    groups = torch.randn(6, d, generator=random)[torch.arange(h) % 6]
    rows = 0.5 * torch.randn(d, generator=random) + 0.5 * groups + torch.randn(h, d, generator=random)
    return (0.01 * scale * rows).float()


def rules(f, tau):
    """The rules of fedsec by the name that both sides know, with those parameters that make them byzfl's."""
    return {
        "mean": mean,
        "coordinate median": coordinate_median,
        "trimmed mean": partial(trimmed_mean, f=f),
        "mean around median": partial(mean_around_median, f=f),
        "Krum": partial(krum, f=f, preset="byzfl"),
        "Multi-Krum": partial(multi_krum, f=f, preset="byzfl"),
        "geometric median": geometric_median,
        "minimum-diameter averaging": partial(minimum_diameter_averaging, f=f),
        "centered clipping": partial(centered_clipping, tau=tau),
    }


class Peer:
    """byzfl's process."""

    def __init__(self):
        script = Path(__file__).parent / "peers" / "byzfl_attacks.py"
        self._process = subprocess.Popen(
            [python("byzfl"), script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **request):
        """Its answer to one request."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit("byzfl failed")
        return json.loads(answer)


def case(peer, honest, folder, name, *, f, mixed, tau):
    """One rule and cohort: damage and seconds of the three searches."""
    n, typical = len(honest) + f, float(torch.pdist(honest).median())
    rule = rules(f, tau)[name]
    if mixed:
        rule = chain(partial(nearest_neighbor_mixing, f=f), rule)
    about = {
        "rule": name, "mixed": mixed, "f": f, "tau": tau, "nu": SMOOTHING * typical, "steps": STEPS,
        "honest": str(folder / "honest.npy"), "folder": str(folder),
    }  # fmt: skip
    seconds = peer.ask(do="search", **about)
    begin = time.process_time()
    found = search(honest, rule, f=f, n=n)
    seconds["tailored"] = time.process_time() - begin
    np.save(folder / "tailored.npy", found.vector.numpy())
    centre = honest.double().mean(dim=0)

    def damage(vector):
        rows = torch.cat([honest, torch.from_numpy(vector).expand(f, -1)])
        return float(torch.linalg.vector_norm(rule(rows).double() - centre))

    names = ("alie", "ipm", "tailored")
    return {
        "n": n,
        "f": f,
        "rule": ("NNM, " if mixed else "") + name,
        "damage": {each: damage(np.load(folder / f"{each}.npy")) for each in names},
        "damage_byzfl": peer.ask(do="damage", vectors=names, **about | {"steps": SURE_STEPS}),
        "seconds": seconds,
        "gamma": found.gamma,
        "direction": found.direction,
        "trials": len(found.curve),
        "spread": float(torch.linalg.vector_norm(honest.double() - centre, dim=1).mean()),
    }


def failures(row):
    """What does not hold of a case."""
    failed = []
    for kind in ("damage", "damage_byzfl"):
        best = max(row[kind]["alie"], row[kind]["ipm"])
        if row[kind]["tailored"] < best * (1.0 - TOLERANCE):
            failed.append(kind)
    if row["seconds"]["tailored"] > row["seconds"]["alie"] + row["seconds"]["ipm"]:
        failed.append("seconds")
    return failed


def table(rows, d):
    """The report."""
    lines = [
        "# A search against a known rule",
        "",
        "`python -m benchmarks.tailored`. Damage is the distance of the aggregate from the honest mean,",
        "by fedsec's rule, in mean distances of an honest update from it. Seconds are processor time on one thread.",
        f"Updates have {d:,} coordinates; byzfl 0.0.11 spends its default of 20 evaluations on each of its searches.",
        "",
        "| n | f | rule | Opt-ALIE | Opt-IPM | tailored | on byzfl's rule | Opt-ALIE, s | Opt-IPM, s | tailored, s |",
        "| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        damage = {name: value / row["spread"] for name, value in row["damage"].items()}
        ratio = row["damage_byzfl"]["tailored"] / max(row["damage_byzfl"]["alie"], row["damage_byzfl"]["ipm"])
        seconds = row["seconds"]
        lines.append(
            f"| {row['n']} | {row['f']} | {row['rule']} | {damage['alie']:.4g} | {damage['ipm']:.4g} "
            f"| {damage['tailored']:.4g} | {ratio:.4g} x | {seconds['alie']:.2f} | {seconds['ipm']:.2f} "
            f"| {seconds['tailored']:.2f} |"
        )
    bad = {row["rule"] + f" (n = {row['n']})": failures(row) for row in rows if failures(row)}
    gains = [row["damage"]["tailored"] / max(row["damage"]["alie"], row["damage"]["ipm"]) for row in rows]
    finite = sorted(gain for row, gain in zip(rows, gains, strict=True) if row["rule"] not in ("mean", "NNM, mean"))
    faster = sorted((r["seconds"]["alie"] + r["seconds"]["ipm"]) / r["seconds"]["tailored"] for r in rows)
    alone = sum(row["seconds"]["tailored"] < min(row["seconds"]["alie"], row["seconds"]["ipm"]) for row in rows)
    lines += [
        "",
        "*On byzfl's rule*: damage of what `tailored` found over the better of byzfl's two, both on byzfl's own",
        "implementation in float64. The mean has no bound: any search can go on for ever, and `tailored` stops at",
        f"{REACH:.0e} radii.",
        "",
        f"Over the better of byzfl's two, on the other rules: {finite[0]:.6f} x at least,",
        f"{finite[len(finite) // 2]:.3f} x in the median, {finite[-1]:.2f} x at most. Both of byzfl's searches take",
        f"{faster[0]:.1f} x the time of this one at least, {faster[len(faster) // 2]:.1f} x in the median; this one is",
        f"quicker than the quicker of them in {alone} of",
        f"{len(rows)} cases.",
        "",
        f"Cases in which it does less damage, or takes more time than both together: {bad or 'none'}.",
    ]
    return "\n".join(lines) + "\n"


def main():
    """Run what the arguments ask for; only a whole run is recorded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=30_000, help="coordinates of an update")
    parser.add_argument("--rules", nargs="*", help="only rules whose name contains one of these")
    parser.add_argument("--cohorts", type=int, nargs="*", help="only these n")
    given = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        # a helper thread that spins on a busy machine would count as time of the search; torch reads this at its start
        command = [sys.executable, "-m", "benchmarks.tailored", *sys.argv[1:]]
        raise SystemExit(subprocess.call(command, env={**os.environ, "OMP_NUM_THREADS": "1"}))
    torch.set_num_threads(1)
    peer, rows = Peer(), []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for n, f in COHORTS:
            if given.cohorts and n not in given.cohorts:
                continue
            honest = updates(n - f, given.size)
            tau = float(torch.linalg.vector_norm(honest, dim=1).median()) / 2
            for mixed in (False, True):
                for name in rules(f, tau):
                    title = ("NNM, " if mixed else "") + name
                    if given.rules and not any(word.lower() in title.lower() for word in given.rules):
                        continue
                    few = f
                    if name == "minimum-diameter averaging" and math.comb(n, f) > SUBSETS:
                        few = max(k for k in range(1, f) if math.comb(n, k) <= SUBSETS)
                    honest = updates(n - few, given.size)
                    np.save(folder / "honest.npy", honest.numpy())
                    rows.append(case(peer, honest, folder, name, f=few, mixed=mixed, tau=tau))
                    print(title, n, rows[-1]["damage"], rows[-1]["seconds"], failures(rows[-1]), flush=True)
    if not given.rules and not given.cohorts:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "tailored.md").write_text(table(rows, given.size))
        record = {"machine": machine(), "size": given.size, "cases": rows}
        (RESULTS / "tailored.json").write_text(json.dumps(record, indent=1) + "\n")
    if any(failures(row) for row in rows):
        raise SystemExit("some cases fail")


if __name__ == "__main__":
    main()
