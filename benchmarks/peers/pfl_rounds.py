"""pfl-research with its own data set, model, algorithm and backend classes; one process, or several under torchrun."""

import argparse
import json
import os
import time
import types

import numpy as np
import torch
import workload as w
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel


class Clock(TrainingProcessCallback):
    """Notes the time at the end of each round."""

    def __init__(self):
        self.ends = []

    def on_train_begin(self, *, model):
        """Start the clock."""
        self.ends.append(time.perf_counter())
        return Metrics()

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        """A round has ended."""
        self.ends.append(time.perf_counter())
        return False, Metrics()


def main():
    """Print the seconds of each round as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--warmup", type=int)
    given = parser.parse_args()
    torch.set_num_threads(1)
    np.random.seed(0)  # noqa: NPY002 -- pfl draws from it, and every process must draw the same
    x, y, rows = w.data()
    users = {str(i): Dataset(raw_data=[x[r], y[r]], user_id=str(i)) for i, r in enumerate(rows)}
    sampler = get_user_sampler("minimize_reuse", list(users))
    training = FederatedDataset(users.__getitem__, sampler)
    module = w.module(given.model)
    objective = torch.nn.CrossEntropyLoss()
    module.loss = types.MethodType(lambda self, images, labels, eval=False: objective(self(images), labels), module)
    module.metrics = types.MethodType(lambda self, images, labels, eval=False: {}, module)
    model = PyTorchModel(
        model=module,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(module.parameters(), 1.0),
    )
    clock = Clock()
    rounds = given.warmup + given.rounds
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=10**9,
            train_cohort_size=w.COHORT,
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(training_data=training, val_data=training),
        model=model,
        model_train_params=NNTrainHyperParams(local_num_epochs=1, local_learning_rate=w.RATE, local_batch_size=w.BATCH),
        callbacks=[clock],
        send_metrics_to_platform=False,
    )
    if os.environ.get("RANK", "0") == "0":
        seconds = [end - begin for begin, end in zip(clock.ends, clock.ends[1:], strict=False)][given.warmup :]
        print(json.dumps({"seconds": seconds, "accuracy": w.accuracy(module, x, y)}), flush=True)


if __name__ == "__main__":
    main()
