"""breaching's attackers on prepared targets, one after the other as the package runs them; torch on one thread.

Reads the exchange file that ``benchmarks.inversion`` wrote, and writes what each target looked like and how much time
it had taken after given numbers of evaluations. The attackers are made by ``breaching.attacks.prepare_attack`` from the
package's own configuration files; only ``max_iterations``, ``callback`` (logging) and the starting point of the
images are set from outside. A checkpoint is taken around the closure that the package hands to its optimizer.
"""

import argparse
import json
import time
import warnings

import numpy as np
import torch
import without_torchvision

without_torchvision.install()
warnings.simplefilter("ignore")

import breaching  # noqa: E402 -- only after the stand-in
from breaching.cases.models.model_preparation import ConvNet, LeNetZhu  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

CONFIGURATION = {"dlg": "deepleakage", "inverting-gradients": "invertinggradients"}


class Clock:
    """The best iterate so far, and the time spent, at given numbers of evaluations."""

    def __init__(self, checkpoints):
        self.checkpoints, self.seen, self.cpu, self.wall, self.images = checkpoints, 0, [], [], []
        self.least, self.best = float("inf"), None
        self.begin = time.process_time(), time.perf_counter()

    def note(self, candidate, value):
        """One evaluation at a candidate."""
        self.seen += 1
        if float(value) < self.least or self.best is None:
            self.least, self.best = float(value), candidate.detach().clone()
        if self.seen in self.checkpoints:
            self.take()

    def take(self):
        """A checkpoint now."""
        self.cpu.append(time.process_time() - self.begin[0])
        self.wall.append(time.perf_counter() - self.begin[1])
        self.images.append(self.best[0].numpy())


def watched(attacker, clock):
    """The attacker, with every evaluation of its objective noted."""
    inner = attacker._compute_objective

    def compute(candidate, *rest):
        closure = inner(candidate, *rest)

        def noted():
            at = candidate.detach().clone()
            value = closure()
            clock.note(at, value)
            return value

        return noted

    attacker._compute_objective = compute
    return attacker


def main():
    """Attack the rows that were asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("exchange")
    parser.add_argument("output")
    parser.add_argument("--rows", type=int, nargs=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    held = np.load(given.exchange)
    case = json.loads(str(held["case"]))
    model = LeNetZhu() if case["model"] == "lenet" else ConvNet(width=case["width"])
    parameters = [torch.from_numpy(held[f"parameter{i}"]) for i in range(len(list(model.parameters())))]
    buffers = [torch.from_numpy(held[f"buffer{i}"]) for i in range(len(list(model.buffers())))]
    cfg = breaching.get_attack_config(CONFIGURATION[case["attack"]])
    inner = 20 if cfg.optim.optimizer == "L-BFGS" else 1  # evaluations in one step of torch's L-BFGS
    cfg.optim.max_iterations = case["evaluations"] // inner
    cfg.optim.callback = 10**9
    metadata = OmegaConf.create(
        {
            "modality": "vision",
            "task": "classification",
            "classes": 10,
            "shape": [3, 32, 32],
            "mean": [case["mean"]] * 3,
            "std": [case["std"]] * 3,
        }
    )
    loss = torch.jit.script(torch.nn.CrossEntropyLoss())
    cpu, wall, images, counts = [], [], [], []
    for row in range(*given.rows):
        torch.manual_seed(row)
        shared = {
            "gradients": [torch.from_numpy(held[f"gradient{i}"][row]) for i in range(len(parameters))],
            "buffers": None,
            "metadata": {
                "num_data_points": 1,
                "labels": None if case["attack"] == "dlg" else torch.from_numpy(held["labels"][row : row + 1]),
                "local_hyperparams": None,
            },
        }
        payload = {"parameters": parameters, "buffers": buffers, "metadata": metadata}
        clock = Clock(set(case["checkpoints"]))
        attacker = watched(breaching.attacks.prepare_attack(model, loss, cfg), clock)
        start = torch.from_numpy(held["start"][row : row + 1])
        attacker.reconstruct([payload], [shared], {}, initial_data=start)
        while len(clock.images) < len(case["checkpoints"]):
            clock.take()  # it ended early, and this is what it has
        cpu.append(clock.cpu)
        wall.append(clock.wall)
        images.append(np.stack(clock.images))
        counts.append(clock.seen)
    np.savez(given.output, cpu=cpu, wall=wall, images=np.stack(images), evaluations=counts)


if __name__ == "__main__":
    main()
