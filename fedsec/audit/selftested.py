"""The known answers of an audit's defenses, tried once and kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fedsec.audit.keys import TESTING_CODE, code_fingerprint, digest, numerics, plugin_fingerprint
from fedsec.audit.store import Artifacts
from fedsec.config.schema import StackEntry
from fedsec.protocol.stage import Defense
from fedsec.selftests.run import check_defense


def selftested(stacks: Sequence[StackEntry], artifacts: Artifacts, *, run: bool) -> list[dict[str, Any]]:
    """``selftests`` of the document: one row per defense and parameters, with the stacks that have it.

    Args:
        stacks: of the audit.
        artifacts: where results are kept, under a key of the defense, its parameters and all code that they rest on.
        run: try those that are not kept yet; otherwise they are left out.
    """
    rows: dict[str, dict[str, Any]] = {}
    for entry in stacks:
        for defense in entry.defenses:
            key = _key(defense)
            if key not in rows:
                if not artifacts.has(key):
                    if not run:
                        continue
                    artifacts.write(key, {"kind": "self-tests", "label": defense.name, "found": _row(defense)}, {})
                rows[key] = {**artifacts.read(key, tensors=False).document["found"], "stacks": []}
            if entry.label not in rows[key]["stacks"]:
                rows[key]["stacks"].append(entry.label)
    return list(rows.values())


def _key(defense: Defense) -> str:
    return digest(
        {
            "kind": "self-tests",
            "defense": plugin_fingerprint(defense),
            "code": code_fingerprint(TESTING_CODE),
            "numerics": numerics(torch.device("cpu")),
        }
    )


def _row(defense: Defense) -> dict[str, Any]:
    """Without seconds: what depends on the machine is no part of an answer."""
    found = check_defense(defense).document()
    tests = [{key: value for key, value in test.items() if key != "seconds"} for test in found["tests"]]
    return {**found, "tests": tests}
