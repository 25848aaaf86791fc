"""Errors without tracebacks, and exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from fedsec.errors import ConfigurationError, FedsecError

USAGE = 2
INTERRUPTED = 130


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code.

    What a user can mend is shown on standard error without a traceback, one line per problem; a traceback is a
    defect of fedsec.
    """
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
