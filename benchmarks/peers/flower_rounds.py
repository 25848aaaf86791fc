"""Flower's simulation on Ray with the lean client of ``flower_client``.

A round is timed from the start of ``configure_train`` to the end of ``aggregate_train``.
"""

import argparse
import json
import os
import time
import warnings

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_DEDUP_LOGS"] = "0"

import workload as w
from flower_client import app
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation


class Timed(FedAvg):
    """FedAvg that notes how long each round took."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seconds = []

    def configure_train(self, *given, **named):
        """A round begins."""
        self.begin = time.perf_counter()
        return super().configure_train(*given, **named)

    def aggregate_train(self, *given, **named):
        """A round ends."""
        result = super().aggregate_train(*given, **named)
        self.seconds.append(time.perf_counter() - self.begin)
        return result


def main():
    """Print the seconds of each round as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--warmup", type=int)
    given = parser.parse_args()
    os.environ["BENCH_MODEL"] = given.model
    warnings.simplefilter("ignore")
    server = ServerApp()

    @server.main()
    def run(grid, context):
        strategy = Timed(
            fraction_train=w.COHORT / w.CLIENTS,
            fraction_evaluate=0.0,
            min_evaluate_nodes=0,
            min_available_nodes=w.CLIENTS,
        )
        model = w.module(given.model)
        arrays = ArrayRecord(model.state_dict())
        result = strategy.start(grid=grid, initial_arrays=arrays, num_rounds=given.warmup + given.rounds)
        model.load_state_dict(result.arrays.to_torch_state_dict())
        x, y, _ = w.data()
        told = {"seconds": strategy.seconds[given.warmup :], "accuracy": w.accuracy(model, x, y)}
        print(json.dumps(told), flush=True)

    run_simulation(
        server_app=server,
        client_app=app,
        num_supernodes=w.CLIENTS,
        backend_config={
            "init_args": {"num_cpus": 2, "include_dashboard": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )


if __name__ == "__main__":
    main()
