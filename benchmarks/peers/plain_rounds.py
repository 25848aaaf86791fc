"""The plain PyTorch loop: a DataLoader per client, ``optim.SGD``, and a mean of state dictionaries."""

import argparse
import json

import torch
import workload as w
from torch.utils.data import DataLoader, TensorDataset


def main():
    """Print the seconds of each round as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--warmup", type=int)
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    x, y, rows = w.data()
    shards = [TensorDataset(x[r], y[r]) for r in rows]
    server, client = w.module(given.model), w.module(given.model)
    loss = torch.nn.CrossEntropyLoss()

    def step(round_):
        total = None
        for chosen in w.cohort(round_):
            client.load_state_dict(server.state_dict())
            optimizer = torch.optim.SGD(client.parameters(), lr=w.RATE)
            for images, labels in DataLoader(shards[chosen], batch_size=w.BATCH, shuffle=True):
                optimizer.zero_grad()
                loss(client(images), labels).backward()
                optimizer.step()
            state = {key: value.detach().clone() for key, value in client.state_dict().items()}
            total = state if total is None else {key: total[key] + state[key] for key in state}
        server.load_state_dict({key: value / w.COHORT for key, value in total.items()})

    seconds = w.timed(step, warmup=given.warmup, rounds=given.rounds)
    print(json.dumps({"seconds": seconds, "accuracy": w.accuracy(server, x, y)}))


if __name__ == "__main__":
    main()
