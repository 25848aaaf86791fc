"""Processor seconds and memory of every robust rule, beside its peers: ``python -m benchmarks.aggregation``.

The peer is byzfl, and for rules that it lacks another package. Each side is one process of one thread; they take turns,
call by call, on the same rows. Processor time is counted, not the clock, so that other work on the machine counts
little; the figure is the fastest of the repetitions.
``--large`` measures instead a round of 500 clients with a million parameters.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.environments import ROOT, python
from benchmarks.log_plot import log_plot
from benchmarks.rounds import machine

RESULTS = ROOT / "docs" / "results"
N, F = 50, 10
SIZES = (100_000, 1_000_000)
LIMIT = 6 << 30
TURNS = {100_000: 15, 1_000_000: 3}
BYZFL = {
    "mean": ("Average", {}),
    "coordinate median": ("Median", {}),
    "trimmed mean": ("TrMean", {"f": F}),
    "mean around median": ("Meamed", {"f": F}),
    "Krum": ("Krum", {"f": F}),
    "Multi-Krum": ("MultiKrum", {"f": F}),
    "geometric median, 3 steps": ("GeometricMedian", {"nu": 0.1, "T": 3}),
    "geometric median, converged": ("GeometricMedian", {"nu": 0.1, "T": 3}),
    "centered clipping": ("CenteredClipping", {"tau": 100.0}),
    "NNM": ("NNM", {"f": F}),
    "bucketing": ("Bucketing", {"s": 2}),
    "clipping": ("Clipping", {"c": 2.0}),
    "ARC": ("ARC", {"f": F}),
}
OTHERS = {"MDA": "byzpy", "Bulyan": "flwr", "FoolsGold": "fedml", "FLTrust": "blades"}
ALONE = ("DnC",)
ONCE = ("MDA",)
NAMES = {
    "byzfl": "byzfl 0.0.11",
    "byzpy": "byzpy 0.1.4",
    "flwr": "Flower 1.41.0",
    "fedml": "FedML 0.9.6",
    "blades": "Blades 0.0.13",
}
WRITES = ("clipping", "ARC")
GROWTH = ("trimmed mean", "Multi-Krum", "geometric median, converged", "NNM", "Bulyan", "MDA")
GROWTH_N = (10, 20, 50, 100, 200)
GROWTH_D = (10_000, 100_000, 1_000_000)


class Side:
    """A process that answers requests line by line."""

    def __init__(self, command):
        path = os.pathsep.join((str(ROOT), str(ROOT / "benchmarks" / "peers")))
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        )

    def ask(self, **request):
        """The answer to a request."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"no answer to {request}")
        return json.loads(answer)

    def close(self):
        """End it."""
        self.process.stdin.close()
        self.process.wait()


def ours():
    """Our side."""
    return Side([sys.executable, "-m", "benchmarks.fedsec_rules"])


def peer(environment, script):
    """Another package's side."""
    return Side([python(environment), ROOT / "benchmarks" / "peers" / script])


def save(folder, n, d):
    """Rows of which ``n // 5`` lie apart, as a file."""
    generator = np.random.default_rng([n, d])
    rows = generator.standard_normal((n, d), dtype=np.float32)
    rows[: n // 5] += 0.1
    np.save(Path(folder) / f"{n}-{d}.npy", rows)
    return str(Path(folder) / f"{n}-{d}.npy")


def best(answers):
    """Fastest call, and the growth of memory in the first, which starts without leftovers."""
    return {"seconds": min(a["seconds"] for a in answers), "extra": answers[0]["extra"]}


def beside(folder):
    """Each rule at n = 50, ours and the peer's in turns."""
    mine, byzfl, others = ours(), peer("byzfl", "byzfl_rules.py"), peer("rules", "other_rules.py")
    found = []
    for d in SIZES:
        path = save(folder, N, d)
        for name in (*BYZFL, *OTHERS, *ALONE):
            # byzfl gathers n (n - f) rows at once
            skipped = name == "NNM" and 4 * N * (N - F) * d > 0.45 * _free()
            side = OTHERS.get(name, "byzfl")
            answers = {"fedsec": [], side: []}
            for turn in range(TURNS[d]):
                given = {"do": "time", "rows": path, "fresh": turn == 0}
                if name in BYZFL and not skipped:
                    answers[side].append(byzfl.ask(**given, rule=BYZFL[name], copy=name in WRITES))
                if name in OTHERS and (turn == 0 or name not in ONCE):
                    f = (N - 3) // 4 if name == "Bulyan" else F
                    answers[side].append(others.ask(**given, rule=(name, f)))
                answers["fedsec"].append(mine.ask(**given, rule=name))
            row = {"rule": name, "d": d} | {side: best(a) for side, a in answers.items() if a}
            print(json.dumps(row), file=sys.stderr)
            found.append(row)
    for side in (mine, byzfl, others):
        side.close()
    return found


def growth(folder):
    """Ours with n and with d."""
    mine, found = ours(), []
    for n, d in [*((n, 100_000) for n in GROWTH_N), *((N, d) for d in GROWTH_D if d != 100_000)]:
        path = save(folder, n, d)
        for name in GROWTH:
            answer = best([mine.ask(do="time", rows=path, rule=name, fresh=False) for _ in range(2)])
            found.append({"rule": name, "n": n, "d": d, "seconds": answer["seconds"]})
    mine.close()
    return found


def large():
    """500 clients x 1,000,000 parameters: the highest resident set of a process that does nothing else."""
    report = {"n": 500, "d": 1_000_000, "machine": machine(), "rules": {}}
    for name in ("Multi-Krum", "trimmed mean"):
        side = ours()
        answer = side.ask(do="large", rule=name, n=500, d=1_000_000)
        status = Path(f"/proc/{side.process.pid}/status").read_text()
        side.close()
        peak = 1024 * int(status.split("VmHWM:")[1].split()[0])
        report["rules"][name] = answer | {"peak": peak}
        print(json.dumps({name: report["rules"][name]}), file=sys.stderr)
    (RESULTS / "aggregation-large.json").write_text(json.dumps(report, indent=2) + "\n")
    return max(rule["peak"] for rule in report["rules"].values()) < LIMIT


def table(report):
    """The report as Markdown."""
    lines = [
        "# Seconds and memory of the robust rules",
        "",
        "Written by `python -m benchmarks.aggregation`. fp32 rows, n = 50, f = 10 (Bulyan: 11). Each side is one",
        "process of one thread, and they take turns on the same rows; processor time, the fastest call. Memory: growth",
        "of the resident set at its highest, output included, in a call that starts without what earlier ones left.",
        "byzfl's clipping and ARC overwrite their input and get a copy. Its geometric median stops after 3 steps in",
        "both rows; ours runs to convergence in the second. Its NNM gathers n (n - f) rows and is left out where they",
        "do not fit. byzfl has no Bulyan, FoolsGold, FLTrust or DnC, and its MDA would list 10^10 subsets: there the",
        "peers are other packages; for DnC none was found that can be installed. byzpy's MDA is exact and is called",
        "once, because it takes long. FoolsGold: the weights of the clients, without the weighted mean.",
        "",
        f"Machine: {report['machine']}.",
        "",
        "| rule | d | peer | fedsec, ms | peer, ms | ratio | fedsec, MB | peer, MB |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in report["rules"]:
        side = next((side for side in NAMES if side in row), "")
        mine, theirs = row["fedsec"], row.get(side)
        peer_name = NAMES.get(side, "")
        other = f"{theirs['seconds'] * 1e3:.1f}" if theirs else ""
        ratio = f"{theirs['seconds'] / mine['seconds']:.1f}" if theirs else ""
        memory = f"{theirs['extra'] / 1e6:.0f}" if theirs else ""
        lines.append(
            f"| {row['rule']} | {row['d']:,} | {peer_name} | {mine['seconds'] * 1e3:.1f} | {other} | {ratio} | "
            f"{mine['extra'] / 1e6:.0f} | {memory} |"
        )
    lines += ["", "## Growth", "", "Milliseconds of ours, f = n // 5.", ""]
    for title, fixed, values, key in (
        ("d = 100,000", "d", GROWTH_N, "n"),
        (f"n = {N}", "n", GROWTH_D, "d"),
    ):
        lines += [f"| rule ({title}) | {' | '.join(f'{key} = {v:,}' for v in values)} |"]
        lines += ["| --- |" + " ---: |" * len(values)]
        for name in GROWTH:
            cells = {
                g[key]: g["seconds"]
                for g in report["growth"]
                if g["rule"] == name and g[fixed] == (100_000 if fixed == "d" else N)
            }
            lines.append(f"| {name} | " + " | ".join(f"{cells[v] * 1e3:.1f}" for v in values) + " |")
        lines.append("")
    lines += ["![Seconds over n](aggregation-n.svg) ![Seconds over d](aggregation-d.svg)", ""]
    stored = RESULTS / "aggregation-large.json"
    if stored.exists():
        big = json.loads(stored.read_text())
        lines += [
            "## A large round",
            "",
            f"`python -m benchmarks.aggregation --large`: {big['n']} clients x {big['d']:,} parameters. Peak is",
            "the highest resident set of the whole process, input included.",
            "",
            "| rule | peak, GiB | processor seconds |",
            "| --- | ---: | ---: |",
            *(f"| {k} | {v['peak'] / 2**30:.2f} | {v['seconds']:.1f} |" for k, v in big["rules"].items()),
            "",
        ]
    return "\n".join(lines)


def plots(report):
    """Growth as two drawings."""
    for key, fixed, value in (("n", "d", 100_000), ("d", "n", N)):
        lines = {
            name: sorted((g[key], g["seconds"]) for g in report["growth"] if g["rule"] == name and g[fixed] == value)
            for name in GROWTH
        }
        (RESULTS / f"aggregation-{key}.svg").write_text(log_plot(lines, x=key, y="seconds"))


def main():
    """Measure, and write ``docs/results/aggregation.{json,md}`` and two drawings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true", help="500 clients x 1,000,000 parameters, memory only")
    parser.add_argument("--growth", action="store_true", help="measure only the growth, and keep the rest")
    given = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    stored = RESULTS / "aggregation.json"
    within = large() if given.large else True
    report = json.loads(stored.read_text()) if (given.large or given.growth) and stored.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        if not given.large:
            if not given.growth:
                report = {"machine": machine(), "n": N, "f": F, "rules": beside(folder)}
            report["growth"] = growth(folder)
    if report:
        stored.write_text(json.dumps(report, indent=1) + "\n")
        plots(report)
        (RESULTS / "aggregation.md").write_text(table(report))
        print(table(report))
    sys.exit(not within)


def _free():
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("the kernel does not say how much memory is free")


if __name__ == "__main__":
    main()
