from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from audit_benches import Obedient, Stillborn
from audit_running import survivors

from fedsec.audit.pool import Message, Pool


def said(pool: Pool, count: int = 1) -> list[Message]:
    """The next messages of the workers."""
    found: list[Message] = []
    while len(found) < count:
        found += pool.messages(60)
    return found


def test_a_task_is_done_and_says_how_far_it_is() -> None:
    with Pool(1, Obedient, "hello") as pool:
        assert pool.free == 1
        pool.submit(7, "progress")
        assert pool.free == 0
        with pytest.raises(RuntimeError, match="no worker is free"):
            pool.submit(8, "pid")
        assert said(pool, 3) == [
            Message(7, "progress", (1, 2)),
            Message(7, "progress", (2, 2)),
            Message(7, "done", ("hello", 1, "progress")),
        ]
        pool.submit(8, "threads")
        assert said(pool) == [Message(8, "done", 1)]


def test_an_exception_costs_one_task_and_a_death_one_worker() -> None:
    with Pool(1, Obedient, "hello") as pool:
        pool.submit(1, "raise")
        (failed,) = said(pool)
        assert (failed.task, failed.event) == (1, "failed")
        assert "ValueError: no <such> thing" in failed.value
        pool.submit(2, "next")
        assert said(pool) == [Message(2, "done", ("hello", 2, "next"))]
        pool.submit(3, "kill")
        assert said(pool) == [Message(3, "died", "the worker process died (signal 9)")]
        assert pool.free == 1
        pool.submit(4, "exit")
        assert said(pool) == [Message(4, "died", "the worker process died (exit status 5)")]
        pool.submit(5, "next")
        assert said(pool) == [Message(5, "done", ("hello", 1, "next"))]


def test_a_worker_that_dies_idle_is_replaced() -> None:
    with Pool(1, Obedient, "hello") as pool:
        pool.submit(1, "pid")
        (first,) = said(pool)
        os.kill(first.value, signal.SIGKILL)
        assert not survivors([first.value])
        pool.submit(2, "pid")
        (second,) = said(pool)
        assert (second.event, second.task) == ("done", 2)
        assert second.value != first.value


def test_what_cannot_be_made_fails_every_task_with_the_reason() -> None:
    with Pool(1, Stillborn) as pool:
        for number in (1, 2):
            pool.submit(number, "pid")
            (failed,) = said(pool)
            assert (failed.task, failed.event) == (number, "failed")
            assert "OSError: nothing to work with" in failed.value


def test_workers_are_gone_after_the_pool_even_in_the_middle_of_a_task() -> None:
    pids: list[int] = []

    def interrupted() -> None:
        with Pool(1, Obedient, "hello") as pool:
            pool.submit(1, "pid")
            pids.extend(message.value for message in said(pool))
            pool.submit(2, ("sleep", 600))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(pids) == 1
    assert not survivors(pids, seconds=0.5)


def test_workers_die_with_a_killed_parent_working_or_just_started(tmp_path: Path) -> None:
    script = Path(__file__).with_name("audit_orphans.py")
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], timeout=120)
    assert done.returncode == -signal.SIGKILL
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    assert not survivors(pids)
