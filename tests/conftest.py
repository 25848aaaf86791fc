"""Lets tests import the zoo of small models by name, also in the worker processes that they spawn.

Tests that need public datasets are skipped without ``FEDSEC_DATA``; a folder that is not there counts as none.
"""

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "models"))
MISSING = os.environ.get("FEDSEC_DATA", "")
if MISSING and not Path(MISSING).is_dir():
    del os.environ["FEDSEC_DATA"]
else:
    MISSING = ""


def pytest_report_header() -> list[str]:
    """Says why tests will be skipped."""
    return [f"FEDSEC_DATA names {MISSING}, which is no folder: taken as not set"] if MISSING else []


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_works() -> None:
    """A suite started in the background by a shell inherits an ignored Ctrl-C, and so would the audits that it runs."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
