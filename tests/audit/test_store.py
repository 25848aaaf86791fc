from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import torch

from fedsec.audit.store import Store, glance
from fedsec.errors import FedsecError

KEY, OTHER = "ab" + "0" * 38, "cd" + "1" * 38


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store with one finished result."""
    with Store(tmp_path / "store") as store:
        store.started(KEY)
        store.artifacts.write(KEY, {"kind": "cell", "label": "a", "n": 1}, {"x": torch.arange(40.0)})
        store.finished(KEY, kind="cell", label="a", seconds=2.0)
    return tmp_path / "store"


def test_what_is_written_is_read(folder: Path) -> None:
    with Store(folder) as store:
        assert store.has(KEY)
        assert not store.has(OTHER)
        stored = store.artifacts.read(KEY)
        assert stored.document["n"] == 1
        assert torch.equal(stored.tensors["x"], torch.arange(40.0))
        assert not store.artifacts.read(KEY, tensors=False).tensors
        assert store.journal() == [(KEY, "start"), (KEY, "finish")]
        assert store.seconds() == {"cell": 2.0}


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_a_file_cut_short_is_not_there_and_is_removed(folder: Path, keep: int) -> None:
    with Store(folder) as store:
        path = store.artifacts.path(KEY)
        path.write_bytes(path.read_bytes()[:keep])
        assert not store.artifacts.has(KEY)
        with pytest.raises(FedsecError, match="cannot be read"):
            store.artifacts.read(KEY)
        assert not store.has(KEY)
        assert not path.exists()
        assert not store.has(KEY)
        assert store.seconds() == {}


def test_a_file_without_its_line_is_finished(folder: Path) -> None:
    with Store(folder) as store:
        store.artifacts.write(OTHER, {"kind": "training", "label": "b"}, {})
        assert store.has(OTHER)
    with sqlite3.connect(folder / "index.sqlite") as index:
        assert list(index.execute("SELECT kind, label FROM result WHERE key = ?", (OTHER,))) == [("training", "b")]


def test_a_failure_is_kept_until_the_result_is_there(folder: Path) -> None:
    with Store(folder) as store:
        store.failed(OTHER, kind="cell", label="b", reason="why")
    with Store(folder) as store:
        assert (store.reason(OTHER), store.reason(KEY)) == ("why", "")
        store.finished(OTHER, kind="cell", label="b", seconds=1.0)
        assert store.reason(OTHER) == ""


def test_what_a_killed_process_was_writing_is_swept(folder: Path) -> None:
    leftover = folder / "artifacts" / "ab" / f"{KEY}.123.tmp"
    leftover.write_bytes(b"half")
    with Store(folder) as store:
        assert not leftover.exists()
        assert store.has(KEY)


def test_fresh_forgets(folder: Path) -> None:
    with Store(folder, fresh=True) as store:
        assert not store.has(KEY)
        assert store.journal() == []
        assert store.seconds() == {}


def test_a_damaged_index_is_made_again_from_the_files(folder: Path) -> None:
    (folder / "index.sqlite").write_bytes(b"no database" * 1000)
    with Store(folder) as store:
        assert store.has(KEY)
        assert store.journal() == []


def test_one_at_a_time_and_a_glance_at_any(folder: Path) -> None:
    with Store(folder):
        with pytest.raises(FedsecError, match=r"another audit is writing to .*--output"):
            Store(folder)
        files, seconds = glance(folder)
        assert files.has(KEY)
        assert seconds == {"cell": 2.0}
    Store(folder).close()


def test_a_glance_makes_nothing(tmp_path: Path) -> None:
    files, seconds = glance(tmp_path / "none")
    assert not files.has(KEY)
    assert seconds == {}
    assert not (tmp_path / "none").exists()


def test_a_place_that_cannot_be_written_is_an_error_for_people(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FedsecError, match=r"cannot be written.*--output"):
        Store(tmp_path / "file" / "store")


def test_what_is_no_number_is_refused(folder: Path) -> None:
    with Store(folder) as store, pytest.raises(ValueError, match="JSON"):
        store.artifacts.write(OTHER, {"x": float("nan")}, {})
    assert not list((folder / "artifacts").rglob("*.tmp"))
