"""Small audits in processes of their own, and what their stores say."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SMALL = """\
version: 1
name: small
federation:
  dataset: {name: digits, train: 90, holdout: 60, auxiliary: 40, test: 80}
  model: {name: mlp, hidden: [16]}
  clients: 6
  rounds: 4
  evaluate_every: 2
  local: {epochs: 1, batch_size: 8, learning_rate: 0.3}
attacks:
  - linear-layer-inversion
  - loss-threshold
  - {name: label-flip, fraction: 0.4}
  - {name: sign-flip, fraction: 0.4}
  - {name: fgsm, eps: 0.1}
defenses:
  - none
  - {name: clip, c: 1.0}
  - ckks
  - coordinate-median
seeds: [0, 1]
"""

TINY = """\
version: 1
name: tiny
federation:
  dataset: {name: digits, train: 60, holdout: 40, test: 60}
  model: softmax
  clients: 4
  rounds: 2
  local: {batch_size: 8, learning_rate: 0.3}
attacks:
  - loss-threshold
  - {name: fgsm, eps: 0.1}
seeds: [0]
"""

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


@dataclass(frozen=True)
class Whole:
    """An audit that ran to its end."""

    file: Path
    output: Path
    document: dict[str, Any]
    done: subprocess.CompletedProcess[str]


def write(folder: Path, text: str, name: str = "audit.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def line(file: Path, output: Path, *arguments: str, python: str = sys.executable) -> list[str]:
    return [python, "-m", "fedsec", "audit", str(file), "--output", str(output), *arguments]


def audit(
    file: Path,
    output: Path,
    *arguments: str,
    python: str = sys.executable,
    seconds: float = 600,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run an audit to its end."""
    return subprocess.run(
        line(file, output, *arguments, python=python),
        capture_output=True,
        text=True,
        timeout=seconds,
        env={**ENVIRONMENT, **environment},
    )


def start(file: Path, output: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start an audit; its standard error goes to a file, so that no pipe can fill up."""
    output.mkdir(parents=True, exist_ok=True)
    with (output / "stderr.txt").open("a") as said:
        return subprocess.Popen(
            line(file, output, *arguments), stdout=subprocess.DEVNULL, stderr=said, text=True, env=ENVIRONMENT
        )


def document(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "audit.json").read_text(encoding="utf-8"))
    return found


def journal(output: Path) -> list[tuple[str, str]]:
    """``(key, event)`` in order, read beside the audit that may be writing."""
    path = output / "store" / "index.sqlite"
    if not path.is_file():
        return []
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=10)) as index:
            return list(index.execute("SELECT key, event FROM journal ORDER BY id"))
    except sqlite3.OperationalError:  # not made yet
        return []


def finished(output: Path) -> int:
    """Results in the store."""
    return len({key for key, event in journal(output) if event == "finish"})


def wait_for(output: Path, count: int, process: subprocess.Popen[str], seconds: float = 300.0) -> None:
    """Until the store has so many results, or the audit is over."""
    until = time.monotonic() + seconds
    while process.poll() is None and finished(output) < count:
        assert time.monotonic() < until, f"no {count} results in {seconds} s"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """Processes below this one: its workers, and the tracker that multiprocessing starts."""
    found: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name in brackets may hold anything; the parent is the second field after it.
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found + [pid for child in found for pid in children(child)]


def alive(pid: int) -> bool:
    """Whether a process still runs; one that only waits to be collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def survivors(pids: list[int], seconds: float = 10.0) -> list[int]:
    """Which of these processes are still there after a while."""
    until = time.monotonic() + seconds
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < until:
        time.sleep(0.05)
    return left


def kill(process: subprocess.Popen[str]) -> list[int]:
    """``kill -9`` of the audit's own process alone; returns the processes below it that did not die with it."""
    below = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return survivors(below)


def begun_again(events: list[tuple[str, str]]) -> list[str]:
    """Keys that were started after they had been finished, or finished twice."""
    over: set[str] = set()
    again: list[str] = []
    for key, event in events:
        if event == "start" and key in over:
            again.append(key)
        if event == "finish":
            over.add(key)
    counts = Counter(key for key, event in events if event == "finish")
    return again + [key for key, count in counts.items() if count > 1]
