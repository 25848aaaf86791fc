"""Errors without tracebacks, and exit codes."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

from fedsec.errors import ConfigurationError, FedsecError

USAGE = 2
INTERRUPTED = 130


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code.

    What a user can mend is shown on standard error without a traceback, one line per problem; a traceback is a
    defect of fedsec.
    """
    with _noting_interrupts() as interrupts:
        try:
            return _run(arguments)
        except Exception:
            # Ctrl-C in the middle of an import comes out of some libraries as an ImportError.
            if interrupts:
                return INTERRUPTED
            raise


@contextlib.contextmanager
def _noting_interrupts() -> Iterator[list[int]]:
    """Signals of Ctrl-C so far; each still raises `KeyboardInterrupt`."""
    interrupts: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        signal.default_int_handler(number, frame)

    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield interrupts
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _run(arguments: Sequence[str]) -> int:
    from fedsec.cli.app import app

    try:
        app(args=list(arguments) or ["--help"], prog_name="fedsec")
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    except ConfigurationError as error:
        lines = [str(problem) for problem in error.problems]
        return _refuse(lines)
    except FedsecError as error:
        return _refuse(str(error).splitlines())
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    return 0


def _refuse(lines: Sequence[str]) -> int:
    for line in lines:
        sys.stderr.write(f"error: {line}\n")
    if len(lines) > 1:
        sys.stderr.write(f"{len(lines)} errors\n")
    return USAGE
