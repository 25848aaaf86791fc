"""The masking battery of a released model, run once and kept: every evasion attack on the model reads it."""

from __future__ import annotations

import fcntl
from dataclasses import asdict

from torch import Tensor

from fedsec.audit.keys import JUDGING_CODE, code_fingerprint, digest
from fedsec.audit.store import Artifacts
from fedsec.federation.setup import FederationSetup
from fedsec.judges.checks import Battery, Check
from fedsec.judges.masking import battery
from fedsec.randomness import generator

INPUTS = 512
"""Test inputs among which the battery looks for those that are read rightly."""


def masking_of(setup: FederationSetup, released: Tensor, *, training: str, artifacts: Artifacts) -> Battery:
    """The battery's result for a released model, from the store if it is there.

    Args:
        setup: the federation.
        released: ``(d,)`` the model.
        training: key of the training that it came from.
        artifacts: where the result is kept; one lock per model lets cells that need it at once share the work.
    """
    key = digest({"kind": "masking", "training": training, "code": code_fingerprint(JUDGING_CODE)})
    path = artifacts.path(key).with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the system lets go of the lock of a killed process
        if not artifacts.has(key):
            x, y = setup.split.test.x[:INPUTS].to(released), setup.split.test.y[:INPUTS].to(released.device)
            bounds = setup.info.bounds or (float(x.min()), float(x.max()))
            random = generator(setup.seed, "masking")
            found = battery(setup.model.instance(released), x, y, bounds=bounds, generator=random)
            artifacts.write(key, {"kind": "masking", "label": "masking battery", "found": asdict(found)}, {})
    stored = artifacts.read(key, tensors=False).document["found"]
    return Battery(
        checks=tuple(Check(**one) for one in stored["checks"]), inputs=int(stored["inputs"]), size=float(stored["size"])
    )
