"""ByzFL's own training on MNIST, sorted by label, f = 4: ``python byzfl_training.py RULE ATTACK SEED [DEAL]``.

Run in byzfl's environment (``benchmarks/environments.py``) with the folder of MNIST's files as ``FEDSEC_DATA``. Only
torchvision is stood in for: its reading of MNIST, ``ToTensor`` and ``Normalize``. Prints the accuracy on the test set
at each evaluation. The seed is that of the training; the first model and the dealing of the data come from another one,
which is 0 in all of ByzFL's benchmark.
"""

import gzip
import json
import os
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import torch

RULES = {"geometric median": {"name": "GeometricMedian", "parameters": {"nu": 0.1, "T": 3}}, "trimmed mean": "TrMean"}
ATTACKS = {
    "sign flip": "SignFlipping",
    "Opt-IPM": "Optimal_InnerProductManipulation",
    "Opt-ALIE": "Optimal_ALittleIsEnough",
}
F = 4


def _read(name):
    raw = gzip.decompress((Path(os.environ["FEDSEC_DATA"]) / "mnist" / name).read_bytes())
    return np.frombuffer(raw, np.uint8, offset=16 if "images" in name else 8)


class Images(torch.utils.data.Dataset):
    """MNIST as torchvision gives it, but for one transform: it is applied once to all."""

    def __init__(self, root, train, download, transform):
        kind = "train" if train else "t10k"
        pixels = _read(f"{kind}-images-idx3-ubyte.gz").reshape(-1, 1, 28, 28)
        self.data = (torch.tensor(pixels).float() / 255 - 0.1307) / 0.3081
        self.targets = torch.tensor(_read(f"{kind}-labels-idx1-ubyte.gz")).long()
        self.transform = transform

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, place):
        return self.data[place], int(self.targets[place])


def _stand_in():
    made = types.ModuleType("torchvision")
    made.datasets = types.SimpleNamespace(MNIST=Images)
    names = ("Compose", "RandomHorizontalFlip", "RandomCrop", "ToTensor", "Normalize")
    made.transforms = types.SimpleNamespace(**{name: lambda *given, **named: None for name in names})
    sys.modules["torchvision"] = made


def main(rule, attack, seed, deal=0):
    """Train and print the curve."""
    _stand_in()
    torch.set_num_threads(1)
    from byzfl.benchmark.train import start_training

    chosen = RULES[rule] if isinstance(RULES[rule], dict) else {"name": RULES[rule], "parameters": {"f": F}}
    with tempfile.TemporaryDirectory() as folder:
        start_training(
            {
                "benchmark_config": {
                    "nb_steps": 800,
                    "device": "cpu",
                    "training_seed": seed,
                    "nb_workers": 10 + F,
                    "nb_honest_clients": 10,
                    "f": F,
                    "tolerated_f": F,
                    "data_distribution_seed": deal,
                    "data_distribution": {"name": "gamma_similarity_niid", "distribution_parameter": 0.0},
                },
                "model": {"name": "cnn_mnist", "dataset_name": "mnist", "loss": "NLLLoss", "learning_rate": 0.1},
                "aggregator": chosen,
                "pre_aggregators": [
                    {"name": "Clipping", "parameters": {"c": 2.0}},
                    {"name": "NNM", "parameters": {"f": F}},
                ],
                "honest_clients": {"momentum": 0.9, "weight_decay": 1e-4, "batch_size": 25},
                "attack": {"name": ATTACKS[attack], "parameters": {}},
                "evaluation_and_results": {
                    "evaluation_delta": 50,
                    "batch_size_evaluation": 1000,
                    "evaluate_on_test": True,
                    "results_directory": folder,
                    "data_folder": folder,
                },
            }
        )
        (found,) = Path(folder).rglob("test_accuracy*.txt")
        curve = np.loadtxt(found, delimiter=",").tolist()
    print(
        json.dumps({"rule": rule, "attack": attack, "seed": seed, "deal": deal, "best": max(curve), "accuracy": curve})
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
