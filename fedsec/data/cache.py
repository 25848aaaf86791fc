"""Where the files of the public datasets lie, and how to get them."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Literal

from fedsec.data.holdings import EMBEDDED, HOLDINGS, File, Holding
from fedsec.errors import DataError

VARIABLE = "FEDSEC_DATA"


def data_root() -> Path:
    """The folder of the public datasets: the environment variable FEDSEC_DATA, else the user's cache."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given).expanduser()
    import pooch

    return Path(pooch.os_cache("fedsec"))


def locate(name: str, root: Path | None = None) -> Path:
    """The folder of a dataset's files.

    Raises:
        DataError: the dataset is embedded or unknown, or files are missing; says which, where and what to do.
    """
    holding, folder = _holding(name), _folder(name, root)
    missing = [file.name for file in holding.files if not (folder / file.name).is_file()]
    if missing:
        raise _missing(name, folder, missing)
    return folder


def file_of(name: str, file: str, root: Path | None = None) -> Path:
    """One file of a dataset, whatever of the others is there.

    Raises:
        DataError: it is missing.
    """
    _holding(name)
    path = _folder(name, root) / file
    if not path.is_file():
        raise _missing(name, path.parent, [file])
    return path


def damaged(name: str, path: Path, why: str) -> DataError:
    """The error of a file that is not what its loader expects."""
    return DataError(
        f"dataset {name!r}: {path} is damaged or of another version: {why}. "
        f"Delete it and type: fedsec data fetch {name}"
    )


def status(name: str, root: Path | None = None) -> Literal["present", "missing", "embedded"]:
    """Whether a dataset can be loaded without a download.

    Raises:
        DataError: the name is unknown.
    """
    if name in EMBEDDED:
        return "embedded"
    folder = _folder(name, root)
    return "present" if all((folder / file.name).is_file() for file in _holding(name).files) else "missing"


def fetch(name: str, root: Path | None = None) -> Path:
    """Download the files that are missing, check their SHA-256, and give the folder. Nothing is done if all are there.

    Raises:
        DataError: there is no place to download it from (says how to get it by hand), a download fails, or what
            came is not the file.
    """
    holding, folder = _holding(name), _folder(name, root)
    missing = [file for file in holding.files if not (folder / file.name).is_file()]
    by_hand = [file.name for file in missing if not file.urls]
    if by_hand:
        raise DataError(
            f"dataset {name!r}: {', '.join(by_hand)} cannot be fetched automatically. {holding.manual} "
            f"Put {'it' if len(by_hand) == 1 else 'them'} into {folder} (the folder follows from {VARIABLE})"
        )
    for file in missing:
        _download(name, file, folder)
    return folder


def _download(name: str, file: File, folder: Path) -> None:
    import pooch

    pooch.get_logger().setLevel(logging.WARNING)
    failures = []
    for url in file.urls:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            pooch.retrieve(url, known_hash=f"sha256:{file.sha256}", fname=file.name, path=folder)
            return
        except (OSError, ValueError) as error:  # requests' errors are OSError; a wrong hash is ValueError
            failures.append(f"{url}: {_first_line(error)}")
    raise DataError(
        f"dataset {name!r}: {file.name} could not be fetched ({'; '.join(failures)}). "
        f"With a connection, try again; without, copy the file to {folder / file.name} or set {VARIABLE}"
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__


def _holding(name: str) -> Holding:
    if name in EMBEDDED:
        raise DataError(f"dataset {name!r} is embedded: it has no files and nothing needs to be fetched")
    if name not in HOLDINGS:
        known = ", ".join(sorted([*HOLDINGS, *EMBEDDED]))
        raise DataError(f"no dataset of fedsec is called {name!r}; there are {known}")
    return HOLDINGS[name]


def _folder(name: str, root: Path | None) -> Path:
    return (root if root is not None else data_root()) / _holding(name).folder


def _missing(name: str, folder: Path, files: list[str]) -> DataError:
    there = "" if folder.is_dir() else " (no such folder)"
    return DataError(
        f"dataset {name!r}: {', '.join(files)} not found; looked in {folder}{there}. "
        f"Type: fedsec data fetch {name}, or set {VARIABLE} to the folder of the public datasets"
    )
