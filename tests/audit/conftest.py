from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The small audit, run once without an interruption: its file, its folder of results, what the command said."""
    from audit_running import SMALL, Whole, audit, document, write

    folder = tmp_path_factory.mktemp("whole")
    file = write(folder, SMALL)
    done = audit(file, folder / "out", "--jobs", "2", "--progress", "json")
    assert done.returncode == 0, done.stderr
    return Whole(file, folder / "out", document(folder / "out"), done)
