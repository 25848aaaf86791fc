"""Peak memory of a cohort of 1,000 clients of the 1.66-million-parameter CNN: ``python -m benchmarks.memory``.

The cohort is trained in chunks and its mean is kept as a running sum, so the matrix of all updates (6.65 GB) never
exists. Memory is the proportional set size of the process and its workers (shared pages count once), sampled while
training; the baseline is taken before the trainer exists, with model and data in memory.
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
from fedsec.federation.cohort import CohortTrainer, Shard
from fedsec.federation.training import LocalTraining
from fedsec.models.flat import FlatModel
from fedsec.randomness import derive_seed

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
    parser.add_argument("--chunk", type=int, default=8, help="clients whose updates are in memory at once")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    x, y, rows = w.data()
    pool = Examples(x, y)
    shards = [Shard(pool, r) for r in rows.reshape(-1).tensor_split(given.clients)]
    torch.manual_seed(0)
    model = FlatModel.of(SOURCES["cnn"].build(INFO), task=INFO.task, name="cnn")
    start = model.vector()
    before = used()
    watch = Watch()
    watch.start()
    mean = torch.zeros_like(start)
    local = LocalTraining(batch_size=w.BATCH, learning_rate=w.RATE)
    with CohortTrainer(model, local, workers=given.workers, pool=pool) as trainer:
        for first in range(0, given.clients, given.chunk):
            clients = range(first, min(first + given.chunk, given.clients))
            updates = trainer.train(start, [shards[c] for c in clients], [derive_seed("client", 0, c) for c in clients])
            mean += updates.sum(0) / given.clients
    watch.done.set()
    watch.join()
    report = {
        "clients": given.clients,
        "chunk": given.chunk,
        "workers": given.workers,
        "model_and_data": before,
        "peak": watch.most,
        "above": watch.most - before,
        "accuracy": w.accuracy(model.instance(start + mean), x, y),
    }
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "memory.json").write_text(json.dumps(report, indent=2) + "\n")
    print(f"{report['above'] / 2**20:.0f} MiB above model and data ({before / 2**20:.0f} MiB)")
    sys.exit(report["above"] >= LIMIT)


if __name__ == "__main__":
    main()
