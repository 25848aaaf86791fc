"""Our gradient attacks beside torchattacks, foolbox and ART: ``python -m benchmarks.evasion_agreement``.

Needs ``FEDSEC_DATA``. Writes ``docs/results/evasion-agreement.{md,json}``, and what the libraries make of four small
images with a small network to ``tests/attacks/evasion/peer_values.json``, with which the ordinary tests compare.
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from benchmarks.environments import ROOT, python
from benchmarks.peers.evasion_package import network
from fedsec.attacks.evasion import carlini_wagner, deepfool, fgsm, pgd
from fedsec.attacks.evasion.gradient_ascent import Passes
from fedsec.data.images import read_idx

RESULTS = ROOT / "docs" / "results"
FIXTURE = ROOT / "tests" / "attacks" / "evasion" / "peer_values.json"
PEERS = ("torchattacks", "foolbox", "ART")
LINF = {"eps": 0.3, "step": 0.01, "steps": 40}
SMALL = {"eps": 0.2, "step": 0.03, "steps": 10}
EUCLIDEAN = {"eps": 2.0, "step": 0.1, "steps": 40}
SEED = 7
IMAGES = 256
"""A power of two: torchattacks and ART divide the loss by it, which then changes no digit of a gradient."""


def signed(given):
    """The calls whose results are to be equal to the bit."""
    calls = []
    for peer in PEERS:
        calls += [
            (f"FGSM, {peer}", peer, "fgsm", {"eps": given["eps"]}),
            (f"PGD, {peer}", peer, "pgd", given),
            (f"PGD from a random start, {peer}", peer, "pgd", {**given, "seed": SEED}),
        ]
    return calls


def ask(x, y, kind, weights, calls):
    """What the libraries answer."""
    with tempfile.TemporaryDirectory() as folder:
        exchange, output = Path(folder) / "exchange.npz", Path(folder) / "output.npz"
        np.savez(exchange, x=x.numpy(), y=y.numpy(), kind=kind, weights=str(weights), calls=json.dumps(calls))
        script = Path(__file__).parent / "peers" / "evasion_values.py"
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([python("evasion"), "-W", "ignore", script, exchange, output], env=environment, check=True)
        return {name: torch.from_numpy(value) for name, value in np.load(output).items()}


def ours(net, x, y, attack, given, start):
    """The same call of ours."""
    if attack == "fgsm":
        return fgsm(net, x, y, **given)
    told = {name: value for name, value in given.items() if name in ("eps", "step", "steps")}
    norm = "l2" if given.get("norm") == "L2" else "linf"
    return pgd(net, x, y, **told, norm=norm, start=start, drop_fooled=False)


def fixture():
    """Four small images, a small network, and what the libraries make of them."""
    generator = torch.Generator().manual_seed(3)
    x, y = torch.rand(4, 1, 8, 8, generator=generator), torch.arange(4)
    x = (1.6 * x - 0.3).clamp(0, 1)  # many pixels at their bounds, as in digits
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 5))
    for parameter in net.parameters():
        parameter.data = torch.rand(parameter.shape, generator=generator) - 0.5
    with tempfile.TemporaryDirectory() as folder:
        save_file(net.state_dict(), Path(folder) / "small.safetensors")
        calls = [*signed(SMALL), ("L2", "foolbox", "pgd", {"eps": 1.0, "step": 0.2, "steps": 10, "norm": "L2"})]
        answers = ask(x, y, "small", Path(folder) / "small.safetensors", calls)
    cases = []
    for label, _, attack, given in calls:
        told = {name: value for name, value in given.items() if name in ("eps", "step", "steps")}
        case = {"label": label, "attack": attack, "norm": "l2" if label == "L2" else "linf", "given": told}
        if "seed" in given:
            case["start"] = answers[f"start/{label}"].flatten(1).tolist()
        cases.append(case | {"found": answers[label].flatten(1).tolist()})
    weights = {name: value.tolist() for name, value in net.state_dict().items()}
    versions = {"torchattacks": "3.5.1", "foolbox": "3.3.4", "adversarial-robustness-toolbox": "1.20.1"}
    held = {"versions": versions, "x": x.flatten(1).tolist(), "y": y.tolist(), "weights": weights, "cases": cases}
    FIXTURE.write_text(json.dumps(held) + "\n")


def equalities(folder, x, y):
    """Rows of the table of equal results, and the largest differences of L2-PGD."""
    rows, euclidean = [], {}
    for name in ("standard", "pgd"):
        weights = folder / "reference-models" / f"{name}.safetensors"
        net = network("reference", weights)
        calls = [*signed(LINF), ("L2", "foolbox", "pgd", {**EUCLIDEAN, "norm": "L2"})]
        answers = ask(x, y, "reference", weights, calls)
        for label, _, attack, given in calls:
            found = ours(net, x, y, attack, given, answers[f"start/{label}"])
            difference = float((found - answers[label]).abs().max())
            if label == "L2":
                euclidean[name] = difference
            else:
                unequal = int((found != answers[label]).sum())
                rows.append({"network": name, "call": label, "unequal": unequal, "difference": difference})
    return rows, euclidean


def distances(folder, x, y):
    """Minimal perturbations of the first 100 images by both, and what they cost."""
    weights = folder / "reference-models" / "standard.safetensors"
    net = network("reference", weights)
    calls = [
        ("DeepFool", "foolbox", "deepfool", {}),
        ("Carlini-Wagner, 9 x 1,000", "foolbox", "carlini_wagner", {"searches": 9, "steps": 1000}),
    ]
    answers = ask(x, y, "reference", weights, calls)
    mine = {
        "DeepFool": lambda passes: deepfool(net, x, y, passes=passes),
        "Carlini-Wagner, 9 x 1,000": lambda passes: carlini_wagner(net, x, y, passes=passes),
        "Carlini-Wagner, 9 x 200 at rate 0.05": lambda passes: carlini_wagner(
            net, x, y, steps=200, rate=0.05, passes=passes
        ),
    }
    rows = []
    for label, call in mine.items():
        passes = Passes()
        found = call(passes)
        theirs = answers.get(label)
        row = {"attack": label, "fedsec": norms(net, x, y, found) | vars(passes)}
        if theirs is not None:
            forwards, backwards = answers[f"passes/{label}"].tolist()
            row["foolbox"] = norms(net, x, y, theirs) | {"forwards": forwards, "backwards": backwards}
        rows.append(row)
    return rows


def norms(net, x, y, found):
    """Mean length and number of the misread points."""
    fooled = net(found).argmax(-1) != y
    return {"mean": float((found - x).flatten(1).norm(dim=1)[fooled].mean()), "misread": int(fooled.sum())}


def margins():
    """The largest relative excess over the exact margin of linear two-class models in 20 dimensions."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 2))
    for parameter in net.parameters():
        parameter.data = 2 * torch.rand(parameter.shape, generator=generator) - 1
    w, b = (net[0].weight[0] - net[0].weight[1]).detach(), (net[0].bias[0] - net[0].bias[1]).detach()
    x = torch.rand(50, 20, generator=generator)
    score = x @ w + b
    y = (score < 0).long()
    worst = {}
    for norm, dual, order in (("linf", 1, torch.inf), ("l2", 2, 2)):
        exact = score.abs() / w.norm(p=dual)
        for name, call in (("DeepFool, overshoot 0", deepfool), ("Carlini-Wagner", carlini_wagner)):
            more = {"overshoot": 0.0} if call is deepfool else {}
            found = call(net, x, y, norm=norm, bounds=(-2.0, 3.0), **more)
            excess = (found - x).norm(p=order, dim=1) / exact - 1
            misread = int((net(found).argmax(-1) != y).sum())
            worst[f"{name}, {norm}"] = {"excess": float(excess.abs().max()), "misread": misread}
        for share, label in ((0.999, "below"), (1.001, "above")):
            fooled = sum(
                int(
                    (
                        net(
                            pgd(
                                net,
                                x[i : i + 1],
                                y[i : i + 1],
                                eps=share * float(exact[i]),
                                norm=norm,
                                bounds=(-2.0, 3.0),
                            )
                        ).argmax(-1)
                        != y[i]
                    ).sum()
                )
                for i in range(len(x))
            )
            worst[f"PGD, {norm}, 0.1 % {label} the margin"] = {"excess": None, "misread": fooled}
    return worst


def table(report):
    """The report as Markdown."""
    lines = [
        "# Evasion attacks beside torchattacks, foolbox and ART",
        "",
        "Written by `python -m benchmarks.evasion_agreement`: torchattacks 3.5.1, foolbox 3.3.4 and ART 1.20.1 in"
        f" their own environment with torch {report['torch']}, the reference networks, the first {report['images']}"
        " test images of MNIST in one batch on one thread. Random starts are the libraries' own draws.",
        "",
        "## Equal to the bit",
        "",
        f"FGSM at eps {LINF['eps']} and PGD in `linf` ({LINF['steps']} steps of {LINF['step']}, `drop_fooled=False`)."
        " torchattacks and ART divide the loss by the size of the batch. Where that is a power of two no digit of a"
        " gradient changes. With the first 250 images 0.4 % of FGSM's pixels and 2 % of PGD's differ from theirs on"
        " `pgd` (two pixels on `standard`), where the network is so sure that the gradient's sign is a matter of"
        " rounding; foolbox, which sums as fedsec does, was equal there too.",
        "",
        "| network | call | pixels that differ | largest difference |",
        "| --- | --- | ---: | ---: |",
        *(f"| {r['network']} | {r['call']} | {r['unequal']} | {r['difference']:.1e} |" for r in report["equal"]),
        "",
        f"PGD in `l2` (eps {EUCLIDEAN['eps']}, {EUCLIDEAN['steps']} steps of {EUCLIDEAN['step']}, projected, then"
        " clipped) beside foolbox's: largest difference of a pixel "
        + ", ".join(f"{value:.1e} ({name})" for name, value in report["l2_pgd"].items())
        + ".",
        "",
        "## Smallest perturbations",
        "",
        "Network `standard`, the first 100 images: mean Euclidean length over the misread ones, and passes of single"
        " images through the network and through its gradient. Our DeepFool takes the gradients of all classes from"
        " one forward pass; nine backward passes count as nine.",
        "",
        "| attack | library | misread | mean length | forwards | backwards |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in report["distances"]:
        for side in ("foolbox", "fedsec"):
            if side in row:
                r = row[side]
                cost = f"{r['forwards']:,} | {r['backwards']:,}"
                lines.append(f"| {row['attack']} | {side} | {r['misread']} | {r['mean']:.5f} | {cost} |")
    lines += [
        "",
        "## Linear models",
        "",
        "50 points of a linear two-class model in 20 dimensions, whose margins `|w x + b| / |w|` (with the dual norm)"
        " are exact: largest relative distance from the margin, and how many points are misread.",
        "",
        "| attack | from the margin | misread |",
        "| --- | ---: | ---: |",
    ]
    for name, r in report["margins"].items():
        lines.append(f"| {name} | {'' if r['excess'] is None else format(r['excess'], '.1e')} | {r['misread']} of 50 |")
    return "\n".join([*lines, ""])


def main():
    """Compare, and write the files."""
    torch.set_num_threads(1)
    folder = Path(os.environ["FEDSEC_DATA"])
    images = read_idx(folder / "mnist" / "t10k-images-idx3-ubyte.gz", dataset="mnist", dimensions=3)
    labels = read_idx(folder / "mnist" / "t10k-labels-idx1-ubyte.gz", dataset="mnist", dimensions=1)
    x = torch.from_numpy(images[:IMAGES].copy())[:, None].float() / 255
    y = torch.from_numpy(labels[:IMAGES].copy()).long()
    fixture()
    equal, euclidean = equalities(folder, x, y)
    report = {
        "torch": torch.__version__,
        "images": len(x),
        "equal": equal,
        "l2_pgd": euclidean,
        "distances": distances(folder, x[:100], y[:100]),
        "margins": margins(),
    }
    (RESULTS / "evasion-agreement.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / "evasion-agreement.md").write_text(table(report))
    print(table(report))


if __name__ == "__main__":
    main()
