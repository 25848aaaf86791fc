"""fedsec's inversion engine beside breaching, on the same targets, models, gradients, starting points and settings.

``FEDSEC_DATA=... python -m benchmarks.inversion`` writes ``docs/results/inversion.{md,json}``. Each side has two
processes of one thread, each with half of the targets: breaching attacks them one after the other, as it does, fedsec
as one batch of lanes. The sides take turns, so they never compete for a core.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.environments import ROOT, python
from benchmarks.fedsec_inversion import module
from benchmarks.rounds import machine

RESULTS = ROOT / "docs" / "results"
MEAN, STD = 0.4735, 0.2507
"""Of all CIFAR-10 pixels; one number for three channels, so that the box is one interval."""
CASES = {
    "lenet-dlg": {"model": "lenet", "attack": "dlg", "evaluations": 1200, "bar": 3},
    "lenet": {"model": "lenet", "attack": "inverting-gradients", "evaluations": 600, "bar": 3},
    "convnet-16": {"model": "convnet", "width": 16, "attack": "inverting-gradients", "evaluations": 300, "bar": 2},
    "convnet-64": {"model": "convnet", "width": 64, "attack": "inverting-gradients", "evaluations": 80, "bar": 2},
}
TITLES = {
    "lenet-dlg": "LeNet (sigmoid, U(-0.5, 0.5)), DLG with L-BFGS",
    "lenet": "LeNet (sigmoid, U(-0.5, 0.5)), Inverting Gradients",
    "convnet-16": "ConvNet of width 16 (187,114 parameters), Inverting Gradients",
    "convnet-64": "ConvNet of width 64 (2,904,970 parameters), Inverting Gradients",
}
CHECKPOINTS = 20
SIDES = ("breaching", "fedsec")


def exchange(case, images, labels, path):
    """Write one case's model, gradients and starting points for both sides."""
    torch.manual_seed(0)
    network = module(case).train()
    inputs = (images - MEAN) / STD
    with torch.no_grad():
        if case["model"] == "convnet":
            for layer in network:
                if isinstance(layer, torch.nn.BatchNorm2d):
                    layer.momentum = None  # the plain average of what follows
            for batch in inputs[1000:1512].split(64):
                network(batch)  # public statistics, of images that are not attacked
    network.eval()
    targets = case["targets"]
    gradients = []
    for row in range(targets):
        loss = torch.nn.functional.cross_entropy(network(inputs[row : row + 1]), labels[row : row + 1])
        gradients.append(torch.autograd.grad(loss, list(network.parameters())))
    held = {f"gradient{i}": torch.stack(parts).numpy() for i, parts in enumerate(zip(*gradients, strict=True))}
    held |= {f"parameter{i}": tensor.detach().numpy() for i, tensor in enumerate(network.parameters())}
    held |= {f"buffer{i}": tensor.numpy() for i, tensor in enumerate(network.buffers())}
    start = torch.randn(targets, 3, 32, 32)
    np.savez(path, **held, labels=labels[:targets].numpy(), start=start.numpy(), case=json.dumps(case))


def attack(side, path, targets, folder):
    """Both processes of one side; what they wrote, and which rows it is about."""
    script = Path(__file__).parent / ("peers/breaching_inversion.py" if side == "breaching" else "fedsec_inversion.py")
    interpreter = python("breaching") if side == "breaching" else sys.executable
    half = targets // 2
    runs = []
    for index, rows in enumerate(((0, half), (half, targets))):
        output = folder / f"{side}{index}.npz"
        command = [interpreter, script, path, output, "--rows", *rows]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        runs.append((subprocess.Popen([*map(str, command)], env=environment, stdout=subprocess.DEVNULL), output))
    for process, _ in runs:
        if process.wait() != 0:
            raise SystemExit(f"{side} failed")
    return [np.load(output) for _, output in runs]


def curve(parts, images, evaluations):
    """What one side reached at each checkpoint, and what it had spent until then.

    The wall-clock time of a checkpoint is what the slower process needs to bring each of its targets that far.
    """
    found = torch.from_numpy(np.concatenate([part["images"] for part in parts])).double()
    error = ((found * STD + MEAN).nan_to_num(nan=0.5).clamp(0, 1) - images[:, None].double()).square().mean((2, 3, 4))
    psnr = -10 * error.clamp_min(1e-8).log10()
    used = np.concatenate([part["evaluations"] for part in parts])
    cpu = np.sum([part["cpu"].sum(0) for part in parts], 0)
    return {
        "psnr": psnr.median(0).values.tolist(),
        "quartiles": [float(q) for q in psnr[:, -1].quantile(torch.tensor([0.25, 0.75]).double())],
        "best": float(psnr[:, -1].max()),
        "below_1e-3": float((error[:, -1] < 1e-3).double().mean()),
        "below_1e-2": float((error[:, -1] < 1e-2).double().mean()),
        "wall": np.max([part["wall"].sum(0) for part in parts], 0).tolist(),
        "cpu": cpu.tolist(),
        "evaluations": int(used.sum()),
        "per_cpu_second": float(used.sum() / cpu[-1]),
        "allowed": evaluations * len(images),
    }


def reach(psnr, seconds, level):
    """Seconds until the median reaches a level, between checkpoints in proportion; ``None`` if it never does."""
    before = (-np.inf, 0.0)
    for value, second in zip(psnr, seconds, strict=True):
        if value >= level:
            share = 1.0 if np.isinf(before[0]) or value == before[0] else (level - before[0]) / (value - before[0])
            return before[1] + share * (second - before[1])
        before = (value, second)
    return None


def compare(sides):
    """Times to the median that both reach in the end, and their ratios."""
    level = min(side["psnr"][-1] for side in sides.values())
    row = {"level": level}
    for unit in ("wall", "cpu"):
        took = {name: reach(side["psnr"], side[unit], level) for name, side in sides.items()}
        row[unit] = took
        row[f"{unit}_ratio"] = took["breaching"] / took["fedsec"]
    row["rate_ratio"] = sides["fedsec"]["per_cpu_second"] / sides["breaching"]["per_cpu_second"]
    return row


def table(report):
    """The report as Markdown."""
    lines = [
        "# Gradient inversion beside breaching",
        "",
        "Written by `python -m benchmarks.inversion`. The first images of CIFAR-10, one per gradient; both sides get"
        " the same models, gradients, labels (but for DLG, which optimises them), starting points, number of"
        " evaluations (double backward passes) and settings: those of breaching's own `invertinggradients.yaml` and"
        " `deepleakage.yaml` with fewer iterations. Each side has two processes of one thread with half of the targets"
        " each; breaching attacks them one after the other, fedsec in batches. Batch norm uses public statistics."
        " Time to level: until the median PSNR over all targets is that of the side which ends lower (best iterate by"
        " the objective, checked at 20 points of the budget). fedsec's L-BFGS has a line search, breaching's is"
        " torch's without one; all arithmetic is fp32.",
        "",
        "breaching 0.1.2 runs in its own environment. torchvision is not installed there: a module with the names that"
        " breaching touches at import stands in for it (`benchmarks/peers/without_torchvision.py`), and each of them"
        " raises when it is used. Its attackers, objectives, regularisers and networks are its own.",
        "",
        f"Machine: {report['machine']}.",
        "",
    ]
    for name, result in report["cases"].items():
        row, bar = result["comparison"], CASES[name]["bar"]
        lines += [
            f"## {TITLES[name]}",
            "",
            f"{result['targets']} targets, {result['evaluations']} evaluations each.",
            "",
            "| | evaluations per CPU-second | median PSNR, dB (quartiles) | MSE < 1e-3 | MSE < 1e-2"
            f" | seconds to {row['level']:.2f} dB | CPU-seconds to it | seconds in all |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for side in SIDES:
            got = result["sides"][side]
            low, high = got["quartiles"]
            lines.append(
                f"| {side} | {got['per_cpu_second']:.1f} | {got['psnr'][-1]:.2f} ({low:.2f} to {high:.2f})"
                f" | {got['below_1e-3']:.0%} | {got['below_1e-2']:.0%} | {row['wall'][side]:.1f}"
                f" | {row['cpu'][side]:.1f} | {got['wall'][-1]:.1f} |"
            )
        verdict = "holds" if row["wall_ratio"] >= bar else "does not hold"
        lines += [
            "",
            f"{row['rate_ratio']:.2f} times the evaluations per CPU-second; the same median PSNR in"
            f" 1/{row['wall_ratio']:.2f} of the time ({row['cpu_ratio']:.2f} in CPU-seconds)."
            f" The bar of {bar}: {verdict}.",
            "",
        ]
    return "\n".join(lines)


def main():
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--targets", type=int, default=20)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the evaluations")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    held = np.load(Path(os.environ["FEDSEC_DATA"]) / "cifar10" / "cifar10_train_first4000.npz")
    images = torch.from_numpy(held["x"]).permute(0, 3, 1, 2).float() / 255
    labels = torch.from_numpy(held["y"]).long()
    report = {"machine": machine(), "cases": {}}
    for name in given.cases:
        evaluations = max(CHECKPOINTS, round(CASES[name]["evaluations"] * given.scale / CHECKPOINTS) * CHECKPOINTS)
        steps = range(evaluations // CHECKPOINTS, evaluations + 1, evaluations // CHECKPOINTS)
        case = {**CASES[name], "evaluations": evaluations, "checkpoints": list(steps)}
        case |= {"targets": given.targets, "mean": MEAN, "std": STD}
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            exchange(case, images, labels, folder / "exchange.npz")
            sides = {}
            for side in SIDES:
                parts = attack(side, folder / "exchange.npz", given.targets, folder)
                sides[side] = curve(parts, images[: given.targets], evaluations)
                print(
                    f"{name} {side}: {sides[side]['per_cpu_second']:.1f} evaluations per CPU-second,"
                    f" {sides[side]['psnr'][-1]:.2f} dB after {sides[side]['wall'][-1]:.1f} s",
                    file=sys.stderr,
                )
        report["cases"][name] = {
            "targets": given.targets,
            "evaluations": evaluations,
            "sides": sides,
            "comparison": compare(sides),
        }
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "inversion.json").write_text(json.dumps(report, indent=1) + "\n")
    (given.output / "inversion.md").write_text(table(report) + "\n")
    print(table(report))


if __name__ == "__main__":
    main()
