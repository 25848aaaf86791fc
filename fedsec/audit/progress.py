"""Live progress with the time that is left: rich on a terminal, plain lines elsewhere, JSON lines for programs."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import IO, Any, Protocol

from fedsec.errors import FedsecError

MODES = ("auto", "rich", "plain", "json", "none")


class Display(Protocol):
    """Where the progress of a run goes."""

    def begin(self, total: int, reused: int, waiting: dict[str, int], seconds: dict[str, float], jobs: int) -> None:
        """A run starts; ``seconds`` are known mean times by kind."""

    def started(self, key: str, label: str) -> None:
        """A task starts."""

    def moved(self, key: str, done: int, total: int) -> None:
        """A task went on."""

    def finished(self, key: str, kind: str, seconds: float) -> None:
        """A task is finished."""

    def failed(self, key: str, kind: str, label: str, reason: str) -> None:
        """A task failed."""

    def end(self, computed: int, reused: int, failed: int, seconds: float, *, interrupted: bool) -> None:
        """The run is over."""


class Clock:
    """Time left, from what tasks of each kind have taken so far."""

    def __init__(self, waiting: dict[str, int], seconds: dict[str, float], jobs: int) -> None:
        self._waiting, self._jobs = dict(waiting), jobs
        self._sum = {kind: mean for kind, mean in seconds.items() if kind in waiting}
        self._count = dict.fromkeys(self._sum, 1)

    def took(self, kind: str, seconds: float) -> None:
        """A task of this kind is over."""
        self._waiting[kind] = max(0, self._waiting.get(kind, 0) - 1)
        self._sum[kind] = self._sum.get(kind, 0.0) + seconds
        self._count[kind] = self._count.get(kind, 0) + 1

    def lost(self, kind: str) -> None:
        """A task of this kind failed: its time says nothing about the others."""
        self._waiting[kind] = max(0, self._waiting.get(kind, 0) - 1)

    @property
    def left(self) -> float | None:
        """Seconds left, ``None`` while nothing of some waiting kind has been timed."""
        total = 0.0
        for kind, count in self._waiting.items():
            if count and kind not in self._count:
                return None
            total += count * self._sum.get(kind, 0.0) / max(1, self._count.get(kind, 1))
        return total / self._jobs


def readable(seconds: float | None) -> str:
    """Seconds for people."""
    if seconds is None:
        return "time left unknown"
    if seconds < 60:
        return f"{seconds:.0f} s left"
    return f"{seconds / 60:.0f} min left" if seconds < 5400 else f"{seconds / 3600:.1f} h left"


class Silent:
    """No progress."""

    def begin(self, total: int, reused: int, waiting: dict[str, int], seconds: dict[str, float], jobs: int) -> None:
        """Nothing."""

    def started(self, key: str, label: str) -> None:
        """Nothing."""

    def moved(self, key: str, done: int, total: int) -> None:
        """Nothing."""

    def finished(self, key: str, kind: str, seconds: float) -> None:
        """Nothing."""

    def failed(self, key: str, kind: str, label: str, reason: str) -> None:
        """Nothing."""

    def end(self, computed: int, reused: int, failed: int, seconds: float, *, interrupted: bool) -> None:
        """Nothing."""


class Lines(Silent):
    """One line per ten per cent, per failure, and at the ends: for logs."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._total = self._done = 0
        self._next = 0.1
        self._clock = Clock({}, {}, 1)

    def _say(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()

    def begin(self, total: int, reused: int, waiting: dict[str, int], seconds: dict[str, float], jobs: int) -> None:
        """Say what there is to do."""
        self._total, self._done = total, reused
        self._clock = Clock(waiting, seconds, jobs)
        parts = ", ".join(f"{count} {kind}s" for kind, count in waiting.items()) or "nothing"
        self._say(f"{total} results: {reused} are there already, to do: {parts}, {jobs} at a time")

    def finished(self, key: str, kind: str, seconds: float) -> None:
        """Count, and say so at every tenth."""
        self._clock.took(kind, seconds)
        self._done += 1
        if self._done >= self._next * self._total or self._done == self._total:
            self._say(f"{self._done}/{self._total} ({self._done / self._total:.0%}), {readable(self._clock.left)}")
            while self._next <= self._done / self._total:
                self._next += 0.1

    def failed(self, key: str, kind: str, label: str, reason: str) -> None:
        """Say what failed, with the last line of the traceback."""
        self._clock.lost(kind)
        self._done += 1
        self._say(f"FAILED {label}: {reason.strip().splitlines()[-1] if reason.strip() else '?'}")

    def end(self, computed: int, reused: int, failed: int, seconds: float, *, interrupted: bool) -> None:
        """Say what became of it."""
        how = "interrupted" if interrupted else "done"
        self._say(f"{how} in {seconds:.0f} s: {computed} computed, {reused} reused, {failed} failed")


class JsonLines(Silent):
    """One JSON object per event."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def _say(self, event: str, **values: Any) -> None:
        self._stream.write(json.dumps({"event": event, "time": time.time(), **values}) + "\n")
        self._stream.flush()

    def begin(self, total: int, reused: int, waiting: dict[str, int], seconds: dict[str, float], jobs: int) -> None:
        """Event ``begin``."""
        self._say("begin", total=total, reused=reused, waiting=waiting, jobs=jobs)

    def started(self, key: str, label: str) -> None:
        """Event ``started``."""
        self._say("started", key=key, label=label)

    def moved(self, key: str, done: int, total: int) -> None:
        """Event ``moved``."""
        self._say("moved", key=key, done=done, total=total)

    def finished(self, key: str, kind: str, seconds: float) -> None:
        """Event ``finished``."""
        self._say("finished", key=key, kind=kind, seconds=seconds)

    def failed(self, key: str, kind: str, label: str, reason: str) -> None:
        """Event ``failed``."""
        self._say("failed", key=key, kind=kind, label=label, reason=reason)

    def end(self, computed: int, reused: int, failed: int, seconds: float, *, interrupted: bool) -> None:
        """Event ``end``."""
        self._say("end", computed=computed, reused=reused, failed=failed, seconds=seconds, interrupted=interrupted)


class Rich(Silent):
    """A bar for the whole audit and one for each running task."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._running: dict[str, Any] = {}
        self._clock = Clock({}, {}, 1)

    def begin(self, total: int, reused: int, waiting: dict[str, int], seconds: dict[str, float], jobs: int) -> None:
        """Draw the whole audit's bar."""
        self._clock = Clock(waiting, seconds, jobs)
        self._bars.start()
        left = readable(self._clock.left) if sum(waiting.values()) else ""
        self._whole = self._bars.add_task("audit", total=total, completed=reused, left=left)

    def started(self, key: str, label: str) -> None:
        """Draw a task's bar."""
        self._running[key] = self._bars.add_task(f"  {label}", total=None, left="")

    def moved(self, key: str, done: int, total: int) -> None:
        """Move a task's bar."""
        if key in self._running:
            self._bars.update(self._running[key], completed=done, total=total)

    def _gone(self, key: str) -> None:
        if key in self._running:
            self._bars.remove_task(self._running.pop(key))
        self._bars.update(self._whole, advance=1, left=readable(self._clock.left))

    def finished(self, key: str, kind: str, seconds: float) -> None:
        """Remove a task's bar."""
        self._clock.took(kind, seconds)
        self._gone(key)

    def failed(self, key: str, kind: str, label: str, reason: str) -> None:
        """Remove a task's bar and show the whole reason."""
        self._clock.lost(kind)
        self._gone(key)
        self._bars.console.print(f"FAILED {label}", style="bold red", markup=False)
        self._bars.console.print(reason.rstrip(), markup=False, highlight=False)

    def end(self, computed: int, reused: int, failed: int, seconds: float, *, interrupted: bool) -> None:
        """Say what became of it."""
        self._bars.stop()
        how = "interrupted" if interrupted else "done"
        text = f"{how} in {seconds:.0f} s: {computed} computed, {reused} reused, {failed} failed"
        self._bars.console.print(text, markup=False, highlight=False)


def make_display(mode: str) -> Display:
    """The display of ``auto``, ``rich``, ``plain``, ``json`` or ``none``; everything goes to standard error.

    Raises:
        FedsecError: it is none of them.
    """
    if mode not in MODES:
        raise FedsecError(f"there is no progress display {mode!r}; there are {', '.join(MODES)}")
    if mode == "auto":
        mode = "rich" if sys.stderr.isatty() and not os.environ.get("CI") else "plain"
    if mode == "rich":
        return Rich()
    if mode == "json":
        return JsonLines(sys.stderr)
    return Lines(sys.stderr) if mode == "plain" else Silent()
