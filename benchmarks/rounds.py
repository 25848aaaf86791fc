"""Seconds per round of fedsec and of its peers, in one run: ``python -m benchmarks.rounds``.

Every engine is measured in a fresh process, and the processes of the engines take turns, repetition by repetition,
so that a busy machine slows all alike. The figure is the median over all rounds of all repetitions.
"""

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.environments import ROOT, python

PEERS = Path(__file__).parent / "peers"
RESULTS = ROOT / "docs" / "results"
ROUNDS = {"mlp": 30, "lenet": 10, "cnn": 4}
MODELS = {"mlp": "MLP 784-200-10", "lenet": "LeNet-5", "cnn": "CNN (1,663,370 parameters)"}
ENGINES = {
    "fedsec": "fedsec, 2 workers",
    "plain": "PyTorch loop, 1 thread",
    "plain2": "PyTorch loop, 2 threads",
    "pfl": "pfl-research 0.6.0, 1 process",
    "pfl2": "pfl-research 0.6.0, 2 processes",
    "flower": "Flower 1.41.0 on Ray, 2 actors",
}


def command(engine, model, rounds, warmup):
    """The command line that prints ``{"seconds": [...]}`` as its last line of output."""
    tail = ["--model", model, "--rounds", str(rounds), "--warmup", str(warmup)]
    if engine == "fedsec":
        return [sys.executable, "-m", "benchmarks.fedsec_rounds", *tail]
    if engine in {"plain", "plain2"}:
        return [sys.executable, PEERS / "plain_rounds.py", *tail, "--threads", "1" if engine == "plain" else "2"]
    if engine == "pfl":
        return [python("pfl"), PEERS / "pfl_rounds.py", *tail]
    if engine == "pfl2":
        run = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(_port())]
        return [python("pfl"), *run, PEERS / "pfl_rounds.py", *tail]
    return [python("flower"), PEERS / "flower_rounds.py", *tail]


def measure(engine, model, rounds, warmup):
    """Run one process of one engine; its rounds and the accuracy it reached."""
    threads = "2" if engine == "plain2" else "1"
    environment = os.environ | {"OMP_NUM_THREADS": threads, "PYTHONPATH": f"{ROOT}{os.pathsep}{PEERS}"}
    environment["GLOO_SOCKET_IFNAME"] = "lo"
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command(engine, model, rounds, warmup),
            cwd=ROOT,
            env=environment,
            stdout=out,
            stderr=errors,
            start_new_session=True,
        )
        code = process.wait()
        _settle(process.pid)
        out.seek(0)
        errors.seek(0)
        lines = [line for line in out.read().splitlines() if line.startswith("{")]
        if code or not lines:
            raise RuntimeError(f"{engine} on {model} failed ({code}):\n{errors.read()[-3000:]}")
    return json.loads(lines[-1])


def _settle(session, seconds=30):
    """Wait until every process of a session has ended: Ray's daemons outlive the one that started them."""
    for _ in range(seconds * 10):
        alive = False
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = status.read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            alive |= fields[3] == str(session) and fields[0] != "Z"
        if not alive:
            return
        time.sleep(0.1)


def bound():
    """Floating point operations per second of one thread, measured: the best of matrix products and convolutions."""
    torch.set_num_threads(1)
    a, image, kernel = torch.randn(1024, 1024), torch.randn(32, 32, 14, 14), torch.randn(64, 32, 5, 5)
    image = image.contiguous(memory_format=torch.channels_last)
    product = 2 * 1024**3 / _best(lambda: a @ a)
    return max(product, 2 * 32 * 64 * 32 * 25 * 14 * 14 / _best(lambda: torch.conv2d(image, kernel, padding=2)))


def main():
    """Measure, and write ``docs/results/rounds.json`` and ``rounds.md``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5, help="processes of each engine and model")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--rounds", type=float, default=1.0, help="multiplies the rounds of each process")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    sys.path.insert(0, str(PEERS))
    import workload as w

    rate = bound()
    report = {"machine": machine(), "flops_per_thread": rate, "repetitions": given.repetitions, "models": {}}
    for model in given.models:
        rounds = max(1, round(ROUNDS[model] * given.rounds))
        seconds = {engine: [] for engine in given.engines}
        last = {}
        for repetition in range(given.repetitions):
            turn = repetition % len(given.engines)
            for engine in given.engines[turn:] + given.engines[:turn]:
                last[engine] = measure(engine, model, rounds, warmup=2)
                seconds[engine] += last[engine]["seconds"]
                latest = statistics.median(last[engine]["seconds"])
                print(f"{model} {repetition + 1}/{given.repetitions} {engine}: {latest * 1e3:.0f} ms", file=sys.stderr)
        work = w.FLOP_PER_EXAMPLE[model] * w.COHORT * w.SHARD
        report["models"][model] = {
            "bound": work / (2 * rate),
            "engines": {
                engine: {
                    "median": statistics.median(times),
                    "fastest": min(times),
                    "rounds": len(times),
                    "accuracy": last[engine]["accuracy"],
                    "engine": last[engine].get("engine", ""),
                }
                for engine, times in seconds.items()
            },
        }
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "rounds.json").write_text(json.dumps(report, indent=2) + "\n")
    (given.output / "rounds.md").write_text(table(report))
    print(table(report))


def table(report):
    """The report as Markdown."""
    lines = [
        "# Seconds per round",
        "",
        "Written by `python -m benchmarks.rounds`. 100 clients with 600 synthetic 28x28 images each, 10 clients per "
        "round, one local epoch, batch size 32, SGD with learning rate 0.1. Ratio: time over fedsec's; above 1 is "
        "slower than fedsec. Bound: the round's floating point operations at the measured rate of one thread "
        f"({report['flops_per_thread'] / 1e9:.0f} GFLOP/s), times two cores.",
        "",
        f"Machine: {report['machine']}. Median over {report['repetitions']} processes per engine, which took turns.",
        "",
    ]
    for model, result in report["models"].items():
        base = result["engines"].get("fedsec")
        lines += [
            f"## {MODELS[model]}",
            "",
            "| engine | median, ms | fastest, ms | ratio | share of the bound |",
            "| --- | ---: | ---: | ---: | ---: |",
        ]
        for engine, row in sorted(result["engines"].items(), key=lambda item: item[1]["median"]):
            ratio = f"{row['median'] / base['median']:.2f}" if base else ""
            name = ENGINES[engine] + (f" ({row['engine']})" if row["engine"] else "")
            share = f"{result['bound'] / row['median']:.0%}"
            lines.append(f"| {name} | {row['median'] * 1e3:.1f} | {row['fastest'] * 1e3:.1f} | {ratio} | {share} |")
        lines += [f"| bound | {result['bound'] * 1e3:.1f} | | | 100% |", ""]
    return "\n".join(lines)


def machine():
    """Processor, cores and versions."""
    model = platform.processor()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = [line.split(":", 1)[1].strip() for line in information.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"


def _best(run):
    seconds = []
    for _ in range(30):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def _port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


if __name__ == "__main__":
    main()
