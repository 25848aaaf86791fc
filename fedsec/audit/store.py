"""The store of an audit: an SQLite index (WAL) and one safetensors file per result, written atomically.

A result is a JSON document and named tensors in one file: it is there whole or not at all. The file is the
truth and the index follows it, so a process killed between the two loses nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from fedsec.errors import FedsecError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS result (
  key TEXT PRIMARY KEY, kind TEXT NOT NULL, label TEXT NOT NULL, seconds REAL NOT NULL, created REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS failure (
  key TEXT PRIMARY KEY, kind TEXT NOT NULL, label TEXT NOT NULL, reason TEXT NOT NULL, created REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS journal (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL, event TEXT NOT NULL, created REAL NOT NULL
);
"""


@dataclass(frozen=True)
class Stored:
    """A finished result.

    Attributes:
        document: JSON-able values.
        tensors: arrays by name.
    """

    document: dict[str, Any]
    tensors: dict[str, Tensor]


class Artifacts:
    """The files; safe to write from several processes, because a key is only ever written with one content."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        """Where the result with this key lies."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def write(self, key: str, document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Write a result: to a temporary file, to the disk, then in place in one step."""
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        text = json.dumps(document, sort_keys=True, allow_nan=False)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            file.write(save(plain, metadata={"document": text}))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def read(self, key: str, *, tensors: bool = True) -> Stored:
        """Read a result.

        Raises:
            FedsecError: it is not there or damaged.
        """
        try:
            with safe_open(str(self.path(key)), framework="pt") as file:
                document = json.loads((file.metadata() or {})["document"])
                loaded = {name: file.get_tensor(name) for name in file.keys()} if tensors else {}  # noqa: SIM118
        except Exception as error:
            raise FedsecError(f"{self.path(key)} cannot be read ({error}); run again with --fresh") from error
        return Stored(document, loaded)

    def has(self, key: str) -> bool:
        """Whether a result with this key is there, whole: a file cut short is none."""
        if not self.path(key).is_file():
            return False
        try:
            self.read(key, tensors=False)
        except FedsecError:
            return False
        return True


class Store:
    """The index and the files of one output folder; one audit at a time holds it."""

    def __init__(self, folder: Path, *, fresh: bool = False) -> None:
        """Open or make the store.

        Args:
            folder: the store's own folder.
            fresh: forget everything first.

        Raises:
            FedsecError: another audit holds it, or nothing can be written there.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = (folder / "lock").open("w")
        except OSError as error:
            raise FedsecError(f"{folder} cannot be written: {error.strerror}; give another --output") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise FedsecError(
                f"another audit is writing to {folder.parent}; wait for it, or give another --output"
            ) from error
        if fresh:
            shutil.rmtree(folder / "artifacts", ignore_errors=True)
            for file in folder.glob("index.sqlite*"):
                file.unlink()
        self.artifacts = Artifacts(folder / "artifacts")
        self._sweep()
        try:
            self._index = _open(folder / "index.sqlite")
        except sqlite3.DatabaseError:  # damaged; it follows the files and is made again from them
            for file in folder.glob("index.sqlite*"):
                file.unlink()
            self._index = _open(folder / "index.sqlite")

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the store."""
        self._index.close()
        self._lock.close()

    def _sweep(self) -> None:
        """Remove what a killed process was still writing."""
        for leftover in self.artifacts.folder.glob("*/*.tmp"):
            leftover.unlink(missing_ok=True)

    def has(self, key: str) -> bool:
        """Whether a result is finished (a file without its line in the index is finished: the line is added).

        A file that cannot be read is removed with its line, and computed again.
        """
        known = self._index.execute("SELECT 1 FROM result WHERE key = ?", (key,)).fetchone() is not None
        there = self.artifacts.has(key)
        if not there:
            self.artifacts.path(key).unlink(missing_ok=True)
            if known:
                self._index.execute("DELETE FROM result WHERE key = ?", (key,))
        elif not known:
            document = self.artifacts.read(key, tensors=False).document
            self._add(key, str(document.get("kind", "?")), str(document.get("label", "?")), 0.0)
        return there

    def started(self, key: str) -> None:
        """Note in the journal that a result is being computed."""
        self._journal(key, "start")

    def finished(self, key: str, *, kind: str, label: str, seconds: float) -> None:
        """Note that a result is there."""
        self._add(key, kind, label, seconds)
        self._journal(key, "finish")

    def failed(self, key: str, *, kind: str, label: str, reason: str) -> None:
        """Keep why a result could not be computed; it is tried again next time."""
        values = (key, kind, label, reason, time.time())
        self._index.execute("INSERT OR REPLACE INTO failure VALUES (?, ?, ?, ?, ?)", values)
        self._journal(key, "fail")

    def reason(self, key: str) -> str:
        """Why the last try at a result failed; empty if it did not."""
        row = self._index.execute("SELECT reason FROM failure WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else ""

    def seconds(self) -> dict[str, float]:
        """Mean seconds of the finished results, by kind."""
        return _seconds(self._index)

    def journal(self) -> list[tuple[str, str]]:
        """``(key, event)`` in order; events are ``start``, ``finish`` and ``fail``."""
        rows = self._index.execute("SELECT key, event FROM journal ORDER BY id")
        return [(str(key), str(event)) for key, event in rows]

    def _add(self, key: str, kind: str, label: str, seconds: float) -> None:
        values = (key, kind, label, seconds, time.time())
        self._index.execute("INSERT OR REPLACE INTO result VALUES (?, ?, ?, ?, ?)", values)
        self._index.execute("DELETE FROM failure WHERE key = ?", (key,))

    def _journal(self, key: str, event: str) -> None:
        values = (key, event, time.time())
        self._index.execute("INSERT INTO journal (key, event, created) VALUES (?, ?, ?)", values)


def _open(path: Path) -> sqlite3.Connection:
    index = sqlite3.connect(path, isolation_level=None)
    try:
        index.execute("PRAGMA journal_mode=WAL")
        index.execute("PRAGMA synchronous=NORMAL")
        index.executescript(_SCHEMA)
    except sqlite3.DatabaseError:
        index.close()
        raise
    return index


def _seconds(index: sqlite3.Connection) -> dict[str, float]:
    rows = index.execute("SELECT kind, AVG(seconds) FROM result WHERE seconds > 0 GROUP BY kind")
    return {str(kind): float(mean) for kind, mean in rows}


def glance(folder: Path) -> tuple[Artifacts, dict[str, float]]:
    """The files of a store and the mean seconds of its results by kind, without holding it: an audit may be running."""
    known: dict[str, float] = {}
    path = folder / "index.sqlite"
    if path.is_file():
        with contextlib.closing(sqlite3.connect(path)) as index, contextlib.suppress(sqlite3.DatabaseError):
            known = _seconds(index)
    return Artifacts(folder / "artifacts"), known
