"""A plugin package, put on a path and not installed, whose attacks fail in every way while a file tells them to."""

from __future__ import annotations

import os
from pathlib import Path

MODULE = '''\
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fedsec.protocol.events import Topic
from fedsec.protocol.evidence import MembershipScores
from fedsec.protocol.parties import Adversary, Attack
from fedsec.threat import Capability, Knowledge, Stage, ThreatModel


def fails():
    return Path(os.environ["FAULTY"]).exists()


@dataclass(frozen=True, kw_only=True)
class Base(Attack):
    summary: ClassVar[str] = "Fails while it is told to"
    family: ClassVar[str] = "membership"
    threat: ClassVar[ThreatModel] = ThreatModel(
        "Nobody", "outsider", frozenset({Knowledge.CANDIDATES}), frozenset({Capability.QUERY_ACCESS}), Stage.DEPLOYMENT
    )
    wants: ClassVar[tuple[Topic, ...]] = (Topic.RELEASE,)
    judge: ClassVar[str] = "membership"

    def run(self, view, facts, *, generator):
        if fails():
            self.fail()
        return MembershipScores(scores=facts.candidates.x.flatten(1).sum(1))


@dataclass(frozen=True, kw_only=True)
class Killed(Base):
    name: ClassVar[str] = "killed"

    def fail(self):
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, kw_only=True)
class Left(Base):
    name: ClassVar[str] = "left"

    def fail(self):
        sys.exit(7)


@dataclass(frozen=True, kw_only=True)
class Raised(Base):
    name: ClassVar[str] = "raised"

    def fail(self):
        raise ZeroDivisionError("<b>nothing</b> to divide by")


@dataclass(frozen=True, kw_only=True)
class Sabotage(Adversary):
    """Its training fails, and so do the cells that need it."""

    name: ClassVar[str] = "sabotage"
    summary: ClassVar[str] = "Fails while it is told to"
    family: ClassVar[str] = "poisoning"
    threat: ClassVar[ThreatModel] = ThreatModel(
        "Nobody", "client:0", frozenset(), frozenset({Capability.MODEL_CONTROL}), Stage.TRAINING
    )
    judge: ClassVar[str] = "availability"

    @property
    def fraction(self):
        return 0.5

    def craft(self, coalition, facts, *, generator):
        if fails():
            raise ZeroDivisionError("no update to send")
        return -coalition.own
'''

POINTS = """\
[fedsec.attacks]
killed = faulty:Killed
left = faulty:Left
raised = faulty:Raised
sabotage = faulty:Sabotage
"""


def put(folder: Path) -> dict[str, str]:
    """Write the package; returns the environment in which it is found and fails, until ``folder/fail`` is removed."""
    about = folder / "faulty-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(POINTS)
    (folder / "faulty.py").write_text(MODULE)
    (folder / "fail").touch()
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": path, "FAULTY": str(folder / "fail")}
