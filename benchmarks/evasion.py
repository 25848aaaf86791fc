"""PGD-40 on 1,000 digits beside torchattacks, foolbox, ART and the bound: ``python -m benchmarks.evasion``.

Needs ``FEDSEC_DATA``. Writes ``docs/results/evasion.{md,json}``. Processor seconds on one thread, all sides in turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.environments import ROOT, python
from benchmarks.peers.evasion_package import PEERS, network
from benchmarks.rounds import machine
from fedsec.attacks.evasion import pgd
from fedsec.attacks.evasion.gradient_ascent import Passes
from fedsec.data.images import read_idx

RESULTS = ROOT / "docs" / "results"
GIVEN = {"eps": 0.3, "step": 0.01, "steps": 40, "batch": 250}
SETTINGS = {name: GIVEN[name] for name in ("eps", "step", "steps")}
KEPT = "fedsec, all to the last step"
SIDES = ("bound", "fedsec", KEPT, *PEERS)


def bound(net, x, y):
    """As many forward passes and input gradients as the attack has steps, and nothing else."""
    for _ in range(GIVEN["steps"]):
        leaf = x.detach().requires_grad_()
        loss = torch.nn.functional.cross_entropy(net(leaf), y, reduction="sum")
        torch.autograd.grad(loss, leaf)


def seconds(call, batches):
    """Processor seconds of a call on every batch."""
    begin = time.process_time()
    for x, y in batches:
        call(x, y)
    return time.process_time() - begin


def compare(weights, x, y, repetitions):
    """All sides on one network: the seconds of every repetition, and what our attack did."""
    net = network("reference", weights)
    still = network("reference", weights).requires_grad_(False)
    batches = list(zip(x.split(GIVEN["batch"]), y.split(GIVEN["batch"]), strict=True))
    own = {
        "bound": lambda a, b: bound(still, a, b),
        "fedsec": lambda a, b: pgd(net, a, b, **SETTINGS),
        KEPT: lambda a, b: pgd(net, a, b, **SETTINGS, drop_fooled=False),
    }
    passes = Passes()
    right = sum(int((net(pgd(net, a, b, **SETTINGS, passes=passes)).argmax(-1) == b).sum()) for a, b in batches)
    taken = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        exchange = Path(folder) / "exchange.npz"
        np.savez(exchange, x=x.numpy(), y=y.numpy(), weights=str(weights), given=json.dumps(GIVEN))
        script = Path(__file__).parent / "peers" / "evasion_speed.py"
        peer = subprocess.Popen(
            [python("evasion"), "-W", "ignore", script, exchange],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for repetition in range(-1, repetitions):
            turn = max(repetition, 0) % len(SIDES)
            for side in (*SIDES[turn:], *SIDES[:turn]):
                if side in own:
                    spent = seconds(own[side], batches)
                else:
                    peer.stdin.write(side + "\n")
                    peer.stdin.flush()
                    spent = float(peer.stdout.readline())
                if repetition >= 0:  # the first round warms up
                    taken[side].append(spent)
        peer.stdin.close()
        peer.wait()
    return {"seconds": taken, "robust": right / len(x), "passes": vars(passes)}


def table(report):
    """The report as Markdown."""
    lines = [
        "# PGD-40 beside torchattacks, foolbox and ART",
        "",
        "Written by `python -m benchmarks.evasion`: the first 1,000 test images of MNIST in batches of"
        f" {GIVEN['batch']}, the reference CNN (two convolutions, 166,406 parameters), eps {GIVEN['eps']},"
        f" {GIVEN['steps']} steps of {GIVEN['step']}, from the image. Processor seconds on one thread, median of"
        f" {report['repetitions']} turns; all sides take turns. The bound is {GIVEN['steps']} forward passes and input"
        " gradients of every batch without anything else.",
        "",
        f"Machine: {report['machine']}.",
        "",
    ]
    for name, result in report["networks"].items():
        median = {side: statistics.median(values) for side, values in result["seconds"].items()}
        peers = min(median[peer] for peer in PEERS)
        pairs = zip(result["seconds"]["fedsec"], result["seconds"]["bound"], strict=True)
        ratio = statistics.median(ours / least for ours, least in pairs)
        lines += [
            f"## `{name}`: robust accuracy {result['robust']:.1%}",
            "",
            "| | seconds | lowest to highest | over the bound |",
            "| --- | ---: | ---: | ---: |",
        ]
        for side in SIDES:
            low, high = min(result["seconds"][side]), max(result["seconds"][side])
            over = "" if side == "bound" else f"{median[side] / median['bound'] - 1:+.0%}"
            lines.append(f"| {side} | {median[side]:.2f} | {low:.2f} to {high:.2f} | {over} |")
        verdict = "within 10 % of the bound" if ratio <= 1.1 else "not within 10 % of the bound"
        if name == "standard":
            times = peers / median["fedsec"]
            verdict = f"{times:.1f} times as fast as the fastest library ({'at least' if times >= 3 else 'not'} 3)"
        lines += [
            "",
            f"fedsec is {verdict} (median ratio to the bound of the same turn: {ratio:.3f});"
            f" {result['passes']['forwards']:,} forwards and {result['passes']['backwards']:,} backwards.",
            "",
        ]
    return "\n".join(lines)


def main():
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--output", type=Path, default=RESULTS)
    told = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(os.environ["FEDSEC_DATA"])
    images = read_idx(folder / "mnist" / "t10k-images-idx3-ubyte.gz", dataset="mnist", dimensions=3)
    labels = read_idx(folder / "mnist" / "t10k-labels-idx1-ubyte.gz", dataset="mnist", dimensions=1)
    x = torch.from_numpy(images[:1000].copy())[:, None].float() / 255
    y = torch.from_numpy(labels[:1000].copy()).long()
    report = {"machine": machine(), "repetitions": told.repetitions, "networks": {}}
    for name in ("pgd", "standard"):
        weights = folder / "reference-models" / f"{name}.safetensors"
        report["networks"][name] = compare(weights, x, y, told.repetitions)
    told.output.mkdir(parents=True, exist_ok=True)
    (told.output / "evasion.json").write_text(json.dumps(report, indent=1) + "\n")
    (told.output / "evasion.md").write_text(table(report))
    print(table(report))


if __name__ == "__main__":
    main()
