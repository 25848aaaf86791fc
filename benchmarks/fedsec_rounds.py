"""fedsec's side of the comparison: cohorts of `CohortTrainer`, averaged."""

import argparse
import json
import sys
from pathlib import Path

import torch

from fedsec.data.examples import DatasetInfo, Examples
from fedsec.federation.cohort import CohortTrainer, Shard
from fedsec.federation.training import LocalTraining
from fedsec.models.convolutional import LeNet, McMahanCNN
from fedsec.models.dense import MLP
from fedsec.models.flat import FlatModel
from fedsec.randomness import derive_seed

sys.path.insert(0, str(Path(__file__).parent / "peers"))
import workload as w  # the peers' environments import it from there too

INFO = DatasetInfo(
    name="synthetic",
    summary="Synthetic 28x28 images",
    task="classification",
    input_shape=(1, 28, 28),
    classes=tuple(map(str, range(w.CLASSES))),
    bounds=(0.0, 1.0),
    modality="image",
)
SOURCES = {"mlp": MLP(), "lenet": LeNet(), "cnn": McMahanCNN()}


def main():
    """Print the seconds of each round as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--warmup", type=int)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    x, y, rows = w.data()
    pool = Examples(x, y)
    shards = [Shard(pool, r) for r in rows]
    torch.manual_seed(0)
    model = FlatModel.of(SOURCES[given.model].build(INFO), task=INFO.task, name=given.model)
    state = {"model": model.vector()}
    local = LocalTraining(batch_size=w.BATCH, learning_rate=w.RATE)

    with CohortTrainer(model, local, engine=given.engine, workers=given.workers, pool=pool) as trainer:

        def step(round_):
            clients = w.cohort(round_)
            seeds = [derive_seed("client", round_, client) for client in clients]
            updates = trainer.train(state["model"], [shards[client] for client in clients], seeds)
            state["model"] = state["model"] + updates.mean(0)

        seconds = w.timed(step, warmup=given.warmup, rounds=given.rounds)
        told = {"seconds": seconds, "accuracy": w.accuracy(model.instance(state["model"]), x, y)}
        told["engine"] = trainer.engine if trainer.engine == trainer.inner else f"{trainer.engine} of {trainer.inner}"
    print(json.dumps(told))


if __name__ == "__main__":
    main()
