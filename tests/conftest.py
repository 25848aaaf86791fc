"""Lets tests import the zoo of small models by name, also in the worker processes that they spawn."""

import signal
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "models"))


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_works() -> None:
    """A suite started in the background by a shell inherits an ignored Ctrl-C, and so would the audits that it runs."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
