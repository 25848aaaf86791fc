"""Peak memory of a cohort of 1,000 clients of the 1.66-million-parameter CNN: ``python -m benchmarks.memory``.

One round of `Federation` with the mean rule: the cohort is trained in chunks and summed as it goes, so the matrix of
all updates (6.65 GB) never exists. Memory is the proportional set size (shared pages count once), sampled
while training; the baseline is taken before the federation exists, with model and data in memory.
"""

import argparse
import json
import sys
import threading
from pathlib import Path

import torch

from benchmarks.environments import ROOT
from benchmarks.fedsec_rounds import INFO, SOURCES, w
from fedsec.data.examples import Examples
from fedsec.data.partitions import Shuffle
from fedsec.data.split import Split
from fedsec.federation.population import Participation
from fedsec.federation.rounds import Federation
from fedsec.federation.setup import FederationSetup, ServerStep
from fedsec.federation.training import LocalTraining
from fedsec.models.flat import FlatModel
from fedsec.randomness import numpy_generator

LIMIT = 1 << 30


class Watch(threading.Thread):
    """Samples the memory of this process and its children ten times a second, and keeps the most."""

    def __init__(self):
        super().__init__(daemon=True)
        self.most = 0
        self.done = threading.Event()

    def run(self):
        """Sample until told to stop."""
        while not self.done.wait(0.1):
            self.most = max(self.most, used())


def used():
    """Bytes of this process and its descendants, shared pages counted once."""
    total, todo = 0, ["self"]
    while todo:
        folder = Path("/proc") / todo.pop()
        try:
            lines = (folder / "smaps_rollup").read_text().splitlines()
            total += 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            for task in (folder / "task").iterdir():
                todo += (task / "children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    return total


def main():
    """Train one round, and write ``docs/results/memory.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    x, y, _ = w.data()
    pool = Examples(x, y)
    few = pool.take(range(100))
    partition = Shuffle()
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        model = FlatModel.of(SOURCES["cnn"].build(INFO), task=INFO.task, name="cnn")
    setup = FederationSetup(
        info=INFO,
        fingerprint="",
        split=Split(pool, few, few, few),
        index=partition.assign(pool, given.clients, generator=numpy_generator("memory benchmark")),
        partition=partition,
        model=model,
        initial=model.vector(),
        participation=Participation(clients_per_round=given.clients),
        local=LocalTraining(batch_size=w.BATCH, learning_rate=w.RATE),
        weighting="examples",
        server=ServerStep(),
        rounds=1,
        evaluate_every=1,
        seed=0,
    )
    before = used()
    watch = Watch()
    watch.start()
    result = Federation(setup).run()
    watch.done.set()
    watch.join()
    report = {
        "clients": given.clients,
        "uploads": result.ledger.uploads,
        "matrix of all updates": 4 * setup.initial.numel() * given.clients,
        "model_and_data": before,
        "peak": watch.most,
        "above": watch.most - before,
        "seconds": round(result.seconds, 1),
    }
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "memory.json").write_text(json.dumps(report, indent=2) + "\n")
    print(f"{report['above'] / 2**20:.0f} MiB above model and data ({before / 2**20:.0f} MiB)")
    sys.exit(report["above"] >= LIMIT)


if __name__ == "__main__":
    main()
