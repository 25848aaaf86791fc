"""What each kind of adversarial training costs, and the robust accuracy it buys, at equal epochs on MNIST.

``FEDSEC_DATA=... python -m benchmarks.adversarial_training`` writes ``docs/results/adversarial-training.{json,md}``.
One client, the reference network's architecture, every round an epoch; the size grows over the first rounds for all.
Cost is processor time of training as a multiple of natural training, methods in turn round by round so that other load
hits all alike, and passes per example and local step, counted by hooks.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn

from benchmarks.rounds import machine
from fedsec.attacks.evasion import pgd
from fedsec.data.cache import data_root
from fedsec.data.examples import Examples
from fedsec.data.images import read_idx
from fedsec.defenses.adversarial.fast_gradient_training import FGMTraining, FGSMTraining
from fedsec.defenses.adversarial.free_training import FreeTraining
from fedsec.defenses.adversarial.input_gradient_penalty import InputGradientPenalty
from fedsec.defenses.adversarial.pgd_training import PGDTraining
from fedsec.defenses.adversarial.propagate_once import YOPO
from fedsec.defenses.adversarial.trades import Trades
from fedsec.federation.cohort import CohortTrainer
from fedsec.federation.hooks import LocalHooks
from fedsec.federation.shards import Shard, batch, local_order
from fedsec.federation.training import LocalTraining
from fedsec.models.flat import FlatModel
from fedsec.models.single import SingleLane
from fedsec.randomness import derive_seed, generator

RESULTS = Path(__file__).parents[1] / "docs" / "results"


def methods(eps, ramp):
    """The stacks that are compared; the first is natural training."""
    same = {"eps": eps, "ramp": ramp}
    return {
        "natural": (),
        "FGSM-RS": (FGSMTraining(**same),),
        "FGM (L2 2.0)": (FGMTraining(eps=2.0, ramp=ramp),),
        "PGD-3": (PGDTraining(steps=3, **same),),
        "PGD-5": (PGDTraining(steps=5, **same),),
        "PGD-10": (PGDTraining(steps=10, **same),),
        "TRADES-7, beta 6": (Trades(steps=7, **same),),
        "Free-4": (FreeTraining(replays=4, **same),),
        "Free-8": (FreeTraining(replays=8, **same),),
        "YOPO-3-5": (YOPO(passes=3, steps=5, sigma=eps / 10, **same),),
        "YOPO-5-3": (YOPO(passes=5, steps=3, sigma=eps / 6, **same),),
        "YOPO-5-3, all passes": (YOPO(passes=5, steps=3, sigma=eps / 6, closed_form=False, **same),),
        "gradient penalty": (InputGradientPenalty(beta=1.0),),
        "gradient penalty, differences": (InputGradientPenalty(beta=1.0, method="finite-differences"),),
    }


def network():
    """The architecture of the reference networks, drawn anew."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(derive_seed("adversarial-training"))
        module = nn.Sequential(
            nn.Conv2d(1, 16, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(1568, 100),
            nn.ReLU(),
            nn.Linear(100, 10),
        )
    return FlatModel.of(module, task="classification", name="reference")


def digits(part, count):
    """The first images of MNIST and their classes; ``part`` is ``train`` or ``t10k``."""
    images, labels = (
        torch.from_numpy(
            read_idx(data_root() / "mnist" / f"{part}-{kind}-ubyte.gz", dataset="mnist", dimensions=d)[:count].copy()
        )
        for kind, d in (("images-idx3", 3), ("labels-idx1", 1))
    )
    return Examples(images[:, None].float() / 255, labels.long())


def passes(model, stack, shard, local):
    """Passes per example and local step: forwards and backwards of the whole net and of its first layer alone."""
    lane = SingleLane(model, device="cpu", dtype=torch.float32)
    lane.load(model.vector())
    count = dict.fromkeys(("forwards", "backwards", "first layer forwards", "first layer backwards"), 0)

    def watch(which):
        def seen(part, given, output):
            count[f"{which}forwards"] += 1
            if output.requires_grad:
                output.register_hook(lambda _: count.update({f"{which}backwards": count[f"{which}backwards"] + 1}))

        return seen

    lane._module[0].register_forward_hook(watch("first layer "))
    lane._module[7].register_forward_hook(watch(""))
    around = LocalHooks(stack)
    step, order = around.step(), local_order(shard, local, seed=1, replays=around.replays)
    lane.steps, lane.round = (10**6,), 10**6  # never the last step, whose look at overfitting is once per round
    for index in range(2):
        first, last = order.bounds[index]
        lane.begin_step(order.keys[index : index + 1])
        lane.step = index
        step(lane, *batch((shard,), (order.rows[first:last],), lane.state))
    count["first layer forwards"] -= count["forwards"]
    count["first layer backwards"] -= count["backwards"]
    return {name: max(total, 0) / 2 for name, total in count.items()}


def judged(model, vector, test, eps):
    """Clean and PGD accuracy in the size trained against: 20 steps of a quarter, two starts."""
    net = model.instance(vector)
    found = pgd(net, test.x, test.y, eps=eps, steps=20, step=eps / 4, restarts=2, generator=generator("judge"))
    with torch.no_grad():
        return tuple((net(x).argmax(-1) == test.y).double().mean().item() for x in (test.x, found))


def compare(given):
    """Every method, in turn within each round."""
    model, shard = network(), Shard.of(digits("train", given.images))
    local = LocalTraining(epochs=1, batch_size=128, optimizer="adam", learning_rate=given.rate)
    stacks = {
        name: stack
        for name, stack in methods(given.eps, given.ramp).items()
        if not given.methods or name == "natural" or any(word.lower() in name.lower() for word in given.methods)
    }
    trainers = {name: CohortTrainer(model, local, hooks=stack) for name, stack in stacks.items()}
    vectors = {name: model.vector() for name in stacks}
    seconds, reports = dict.fromkeys(stacks, 0.0), {}
    for number in range(given.epochs):
        for name, trainer in trainers.items():
            begin = time.process_time()
            seeds = [derive_seed("train", number)]
            update = trainer.train(vectors[name], [shard], seeds, round_index=number)[0]
            seconds[name] += time.process_time() - begin
            vectors[name] = vectors[name] + update
            reports[name] = trainer.reports[0]
    test, rows = digits("t10k", given.test), []
    for name, stack in stacks.items():
        clean, robust = judged(model, vectors[name], test, given.eps)
        rows.append(
            {
                "method": name,
                "cpu_s": seconds[name],
                "times": seconds[name] / seconds["natural"],
                "clean": clean,
                "robust": robust,
                "report": reports[name],
                **passes(model, stack, shard, local),
            }
        )
        print(rows[-1], flush=True)
    return rows


def table(rows, given):
    """The results as Markdown."""
    lines = [
        "# Adversarial training: what it costs and what it buys",
        "",
        f"`python -m benchmarks.adversarial_training`: {given.images:,} images of MNIST, {given.epochs} epochs, size",
        f"{given.eps} in Linf that grows over the first {given.ramp} of them; PGD accuracy (20 steps, 2 starts) of",
        f"{given.test:,} test images in that size. Adam at {given.rate}, batches of 128. Processor time on one thread.",
        "Passes are per example and local step; those of the first layer are the ones beyond whole passes.",
        "",
        "| method | clean | PGD-20 | CPU s | x natural | forwards | backwards | first layer: forwards | backwards |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        counts = [f"{row[key]:.0f}" for key in ("forwards", "backwards")]
        counts += [f"{row[f'first layer {key}']:.0f}" for key in ("forwards", "backwards")]
        lines.append(
            f"| {row['method']} | {row['clean']:.1%} | {row['robust']:.1%} | {row['cpu_s']:.1f} | {row['times']:.2f} "
            f"| {' | '.join(counts)} |"
        )
    by_name = {row["method"]: row for row in rows}
    yopo, slow, free = (by_name[name] for name in ("YOPO-5-3", "YOPO-5-3, all passes", "Free-8"))
    cheaper = [row for row in rows if row["method"].startswith("PGD") and row["times"] < yopo["times"]]
    better = [row["method"] for row in cheaper if row["robust"] >= yopo["robust"]]
    lines += [
        "",
        f"Free takes the passes of natural training and {free['times']:.2f} times its processor time: natural training",
        "never needs the gradient in the inputs, which the first layer of this small network makes dear. YOPO's closed",
        f"form takes {yopo['times'] / slow['times']:.0%} of the time of its passes through the first layer.",
        f"PGD of fewer steps that is cheaper than YOPO-5-3 and at least as robust here: {', '.join(better) or 'none'}.",
        "The gradient penalty flattens the loss around the inputs, which does not reach as far as this size.",
        "One seed and a short training: differences of two points between methods mean nothing.",
    ]
    return "\n".join(lines) + "\n"


def main():
    """Run what the arguments ask for; only a whole run is recorded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--test", type=int, default=1_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--eps", type=float, default=0.2)
    parser.add_argument("--ramp", type=int, default=4)
    parser.add_argument("--rate", type=float, default=0.002)
    parser.add_argument("--methods", nargs="*", help="only methods whose name contains one of these")
    given = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        command = [sys.executable, "-m", "benchmarks.adversarial_training", *sys.argv[1:]]
        raise SystemExit(subprocess.call(command, env={**os.environ, "OMP_NUM_THREADS": "1"}))
    torch.set_num_threads(1)
    rows = compare(given)
    if not given.methods:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "adversarial-training.md").write_text(table(rows, given))
        record = {"machine": machine(), "given": vars(given), "methods": rows}
        (RESULTS / "adversarial-training.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
