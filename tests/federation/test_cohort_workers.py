"""Worker processes: same result, and they end when they should."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from zoo import ZOO, Fail, build, examples

from fedsec.federation.cohort import CohortTrainer, Shard
from fedsec.federation.training import LocalTraining
from fedsec.federation.workers import WorkerError
from fedsec.randomness import generator


@pytest.mark.parametrize("name", ["mlp dropout", "convnet batch norm"])
def test_workers_give_what_one_process_gives_round_after_round(name):
    source, data = ZOO[name]
    model = build(source, data)
    pool, foreign = examples(data, 60), examples(data, 9, seed=1)
    order = torch.randperm(60, generator=generator("split"))
    shards = [
        Shard(pool, order[:20]),
        Shard(foreign, torch.arange(1, 9)),
        Shard(pool, order[:0]),
        Shard(pool, order[20:]),
    ]
    local = LocalTraining(epochs=2, batch_size=4)
    with (
        CohortTrainer(model, local, workers=2, pool=pool) as workers,
        CohortTrainer(model, local, engine=workers.inner) as alone,
    ):
        assert workers.engine == "workers"
        start = model.vector()
        for round_, clients in enumerate(((0, 1, 2, 3), (3,), (1, 0, 3, 2, 1, 0), (2,), (0, 3))):
            chosen = [shards[c] for c in clients]
            seeds = [100 * round_ + c for c in clients]
            limits = [None if c % 2 else 3 for c in clients]
            start = start.double() if round_ == 3 else start
            updates = workers.train(start, chosen, seeds, max_steps=limits)
            expected = alone.train(start, chosen, seeds, max_steps=limits)
            torch.testing.assert_close(updates, expected, rtol=1e-4, atol=1e-6)
            start = start + updates.mean(0)


@pytest.mark.parametrize(("how", "message"), [("raise", "the hook broke"), ("die", "exit code 3")])
def test_a_failure_in_a_worker_is_told_and_ends_the_workers(how, message):
    source, data = ZOO["mlp"]
    pool = examples(data, 8)
    trainer = CohortTrainer(
        build(source, data), LocalTraining(), engine="workers", workers=2, pool=pool, hooks=(Fail(how),)
    )
    shards = [Shard(pool, torch.arange(4)), Shard(pool, torch.arange(4, 8))]
    with trainer:
        with pytest.raises(WorkerError, match=message):
            trainer.train(build(source, data).vector(), shards, (1, 2))
        with pytest.raises(WorkerError, match="closed"):
            trainer.train(build(source, data).vector(), shards, (1, 2))


SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
if __name__ == "__main__":
    from zoo import ZOO, build, examples
    import torch
    from fedsec.federation.cohort import CohortTrainer, Shard
    from fedsec.federation.training import LocalTraining
    source, data = ZOO["mlp"]
    pool = examples(data, 8)
    trainer = CohortTrainer(build(source, data), LocalTraining(), engine="workers", workers=2, pool=pool)
    trainer.train(build(source, data).vector(), [Shard(pool, torch.arange(8))] * 2, (1, 2))
    print(*(p.pid for p in trainer._engine._processes), flush=True)
    time.sleep(60)
"""


def test_workers_die_with_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parents[1] / "models")))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    for _ in range(100):
        alive = [pid for pid in pids if _alive(pid)]
        if not alive:
            return
        time.sleep(0.1)
    pytest.fail(f"still alive: {alive}")


def _alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_closing_removes_the_shared_files():
    source, data = ZOO["mlp"]
    pool = examples(data, 8)
    trainer = CohortTrainer(build(source, data), LocalTraining(), engine="workers", workers=1, pool=pool)
    folder = trainer._engine._folder
    updates = trainer.train(build(source, data).vector(), [Shard(pool, torch.arange(8))], (1,))
    kept = updates.clone()
    assert folder.exists()
    trainer.close()
    trainer.close()
    assert not folder.exists()
    assert torch.equal(updates, kept)
