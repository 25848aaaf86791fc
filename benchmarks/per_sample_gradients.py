"""Steps of DP-SGD per second beside opacus, on two networks, in turn in one run.

``python -m benchmarks.per_sample_gradients`` writes ``docs/results/per-sample-gradients.{json,md}``. One thread. A step
takes the gradient of every example, clips it, sums, and adds noise; opacus' optimizer step is left out on both sides,
and so is drawing batches. What is compared is the best of several turns, processor time.
"""

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path

import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import nn

from benchmarks.rounds import machine
from fedsec.data.examples import DatasetInfo
from fedsec.defenses.privacy.sample_level import PrivateStep
from fedsec.models.flat import FlatModel
from fedsec.models.lanes import gradient_step
from fedsec.models.opacus_cnn import OpacusCNN
from fedsec.models.per_example import per_example_gradients
from fedsec.models.single import SingleLane
from fedsec.randomness import derive_seed, generator

RESULTS = Path(__file__).parents[1] / "docs" / "results"
CLIP, NOISE = 1.5, 1.3


def networks():
    """The example of opacus on MNIST, and three convolutions with group norm for CIFAR-10."""
    info = DatasetInfo(
        name="mnist", summary="", task="classification", input_shape=(1, 28, 28), classes=tuple("0123456789"),
        bounds=(0.0, 1.0), modality="image",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(derive_seed("per-sample-gradients"))
        mnist = OpacusCNN().build(info)
        cifar = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1), nn.GroupNorm(8, 32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.GroupNorm(8, 64), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3, padding=1), nn.GroupNorm(8, 128), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(2048, 10),
        )  # fmt: skip
    return {
        "mnist": (FlatModel.of(mnist, task="classification", name="mnist"), (1, 28, 28), 256),
        "cifar": (FlatModel.of(cifar, task="classification", name="cifar"), (3, 32, 32), 128),
    }


def lane_of(model, batch):
    """One client's lane in the middle of a round."""
    lane = SingleLane(model, device="cpu", dtype=torch.float32)
    lane.load(model.vector())
    lane.begin_step(torch.tensor([1]))
    lane.expected = (float(batch),)
    return lane


def fedsec_step(model, x, y):
    """Ours: clip, sum, noise, divide."""
    lane, step = lane_of(model, len(x)), PrivateStep(CLIP, NOISE)
    return lambda: step(lane, x[None], y[None])


def plain_step(model, x, y):
    """An ordinary gradient, for the price of privacy."""
    lane = lane_of(model, len(x))
    return lambda: gradient_step(lane, x[None], y[None])


def opacus_step(model, x, y, mode):
    """Opacus: the module with this way of per-sample gradients, and its optimizer up to the noisy gradient."""
    module = model.instance(model.vector()).train()
    wrapped = GradSampleModule(module, force_functorch=mode == "functorch")
    inner = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    optimizer = DPOptimizer(
        inner, noise_multiplier=NOISE, max_grad_norm=CLIP, expected_batch_size=len(x), generator=generator("noise")
    )

    def step():
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(wrapped(x), y).backward()
        optimizer.pre_step()

    return step


def differences(model, x, y):
    """Largest distance of an example's gradient from opacus', over its norm."""
    found = per_example_gradients(lane_of(model, len(x)), x[None], y[None])
    wrapped = GradSampleModule(model.instance(model.vector()).train(), loss_reduction="sum")
    nn.functional.cross_entropy(wrapped(x), y, reduction="sum").backward()
    ours = torch.cat([gradient[0].flatten(1) for gradient in found], dim=1)
    theirs = torch.cat([parameter.grad_sample.flatten(1) for parameter in wrapped.parameters()], dim=1)
    return float(((ours - theirs).norm(dim=1) / theirs.norm(dim=1)).max())


def compare(turns, repeats):
    """Examples per second of every way, by network."""
    found = {}
    for name, (model, shape, batch) in networks().items():
        x = torch.rand(batch, *shape, generator=generator("x"))
        y = torch.randint(10, (batch,), generator=generator("y"))
        ways = {
            "no privacy": plain_step(model, x, y),
            "fedsec": fedsec_step(model, x, y),
            "opacus hooks": opacus_step(model, x, y, "hooks"),
            "opacus functorch": opacus_step(model, x, y, "functorch"),
        }
        for step in ways.values():
            step()
        seconds = {way: [] for way in ways}
        for _ in range(turns):
            for way, step in ways.items():
                began = time.process_time()
                for _ in range(repeats):
                    step()
                seconds[way].append((time.process_time() - began) / repeats)
        found[name] = {
            "parameters": model.layout.trainable,
            "batch": batch,
            "difference": differences(model, x[:16], y[:16]),
            "examples_per_second": {way: batch / min(times) for way, times in seconds.items()},
            "median": {way: batch / statistics.median(times) for way, times in seconds.items()},
        }
    return found


def page(found):
    """The results as Markdown."""
    lines = [
        "# Gradients of single examples",
        "",
        "`python -m benchmarks.per_sample_gradients`: examples per second of one step of DP-SGD (gradient of every",
        "example, clipped, summed, noise added), one thread, ways in turn, best turn (median). Processor time.",
        "",
        "| network | parameters | batch | no privacy | fedsec | opacus hooks | opacus functorch | fedsec / opacus |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in found["networks"].items():
        speed, middle = row["examples_per_second"], row["median"]
        cells = " | ".join(f"{speed[way]:,.0f} ({middle[way]:,.0f})" for way in speed)
        ratio = speed["fedsec"] / max(speed["opacus hooks"], speed["opacus functorch"])
        lines.append(f"| {name} | {row['parameters']:,} | {row['batch']} | {cells} | {ratio:.2f} |")
    worst = max(row["difference"] for row in found["networks"].values())
    lines += [
        "",
        f"An example's gradient differs from opacus' by at most {worst:.1e} of its norm (float32).",
        "The networks are opacus' example on MNIST, and 3x3 convolutions of 32, 64 and 128 channels with group norm.",
        "",
        f"{found['machine']}.",
        "",
    ]
    return "\n".join(lines)


def main():
    """Measure and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found = {"machine": machine(), "turns": given.turns, "networks": compare(given.turns, given.repeats)}
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "per-sample-gradients.json").write_text(json.dumps(found, indent=2) + "\n")
    (given.output / "per-sample-gradients.md").write_text(page(found))
    print(page(found))


if __name__ == "__main__":
    main()
