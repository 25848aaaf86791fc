"""Keys: a hash of everything that can change a result."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import fedsec
from fedsec.plugin import Plugin

_RUNNING = (
    "audit/bench.py",
    "audit/build.py",
    "audit/challenge.py",
    "audit/masks.py",
    "audit/planted.py",
    "audit/shadows.py",
    "audit/transcripts.py",
)
LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "tenseal", "opacus")
TRAINING_CODE = ("data", "epsilon", "federation", "models", "protocol", *_RUNNING)
TESTING_CODE = ("epsilon", "federation", "models", "protocol", "selftests")
JUDGING_CODE = ("epsilon", "judges", "statistics", *_RUNNING)


def digest(value: Any) -> str:
    """Hex digest of a JSON-able value in canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def _digest_files(files: Iterable[Path]) -> str:
    whole = hashlib.sha256()
    for file in sorted(files):
        whole.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return whole.hexdigest()[:40]


@functools.cache
def code_fingerprint(places: tuple[str, ...]) -> str:
    """Digest of the sources of some of fedsec's own folders and files, and of its top-level modules."""
    root = Path(inspect.getfile(fedsec)).parent
    files = list(root.glob("*.py"))
    for place in (root / name for name in places):
        files.extend(place.rglob("*.py") if place.is_dir() else [place])
    return _digest_files(files)


@functools.cache
def _class_fingerprint(cls: type) -> str:
    """Digest of the whole package that a plugin lives in: what it imports from its neighbours is part of it."""
    file = Path(inspect.getfile(cls))
    if "." not in cls.__module__:
        return _digest_files([file])
    # `fedsec` is the harness; its built-in plugins live in packages of their own under that name.
    depth = cls.__module__.count(".") - (1 if cls.__module__.startswith("fedsec.") else 0)
    return _digest_files(file.parents[max(0, depth - 1)].rglob("*.py"))


def plugin_fingerprint(plugin: Plugin) -> dict[str, Any]:
    """What identifies a plugin's behaviour: parameters, revision, sources; nested plugins included."""
    nested = {name: plugin_fingerprint(value) for name, value in vars(plugin).items() if isinstance(value, Plugin)}
    cls: type = type(plugin)
    return {
        "spec": plugin.spec(),
        "revision": plugin.revision,
        "code": _class_fingerprint(cls),
        "class": f"{cls.__module__}.{cls.__qualname__}",
        "nested": nested,
    }


def numerics(device: torch.device) -> dict[str, str]:
    """What changes results at rounding level."""
    libraries = {name: version(name) for name in LIBRARIES}
    return {**libraries, "device": device.type, "isa": torch.backends.cpu.get_cpu_capability()}
