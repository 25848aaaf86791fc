"""``plan``, ``audit`` and ``report`` of the command line."""

from __future__ import annotations

import json as json_format
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedsec.audit.api import Audit, AuditResult, render, write_overview
from fedsec.audit.plan import Plan
from fedsec.audit.store import glance
from fedsec.audit.verdict import ExitCode, exit_code
from fedsec.errors import DataError, FedsecError


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _overrides(overrides: Sequence[str], device: str | None) -> list[str]:
    return [*overrides, *([f"device={device}"] if device else [])]


def audit(
    path: Path,
    *,
    output: Path | None,
    fresh: bool,
    jobs: int | None,
    only: list[str],
    overrides: list[str],
    device: str | None,
    progress: str,
    check_defenses: bool = False,
) -> int:
    """Run the audits of a file; returns the worst of their exit codes."""
    audits = Audit.load_all(path, _overrides(overrides, device))
    if len(audits) == 1:
        result = audits[0].run(
            output, fresh=fresh, jobs=jobs, only=only, progress=progress, check_defenses=check_defenses
        )
        _tell(result)
        return int(result.exit_code)
    base = output if output is not None else audits[0].default_output()
    results = []
    for one in audits:
        _say(f"{one.config.name}:")
        folder = base / _slug(one.config.name)
        results.append(
            one.run(folder, fresh=fresh, jobs=jobs, only=only, progress=progress, check_defenses=check_defenses)
        )
        _tell(results[-1])
        if results[-1].exit_code == ExitCode.INTERRUPTED:
            break
    write_overview(results, base)
    _say(f"{base / 'report.html'}")
    return int(max((r.exit_code for r in results), key=_SEVERITY.index))


_SEVERITY = (ExitCode.OK, ExitCode.GATE, ExitCode.INCOMPLETE, ExitCode.INTERRUPTED)


def _slug(name: str) -> str:
    """The name of an audit as the name of a folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "audit"


def _tell(result: AuditResult) -> None:
    """The verdict and where the results lie."""
    verdict, counts = result.document["verdict"], result.document["coverage"]
    _say(verdict["sentence"])
    named = ", ".join(
        f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if name != "total" and count
    )
    _say(f"{counts['total']} cells: {named or 'none'}.")
    for gate in verdict["gates"]:
        _say(
            f"gate {'met' if gate['met'] else 'VIOLATED'}: {gate['gate']}"
            + (f" ({gate['found']})" if gate["found"] else "")
        )
    if result.folder is not None:
        _say(f"{result.folder / 'report.html'}")
        _say(f"{result.folder / 'audit.json'}")


def plan(path: Path, *, overrides: list[str], json: bool) -> int:
    """Print what an audit would do; nothing trains."""
    audits = Audit.load_all(path, overrides)
    if len(audits) == 1:
        return _plan(audits[0], audits[0].default_output(), json=json)
    base = audits[0].default_output()
    for one in audits:
        _say("" if json else f"{one.config.name}:")
        _plan(one, base / _slug(one.config.name), json=json)
    return int(ExitCode.OK)


def _plan(loaded: Audit, folder: Path, *, json: bool) -> int:
    made = loaded.plan()
    files, known = glance(folder / "store")
    done = {t.key for t in made.trainings if files.has(t.key) and (not t.transcript or files.has(t.transcript))}
    done.update(cell.key for cell in made.cells if files.has(cell.key))
    summary = _summary(loaded, made, done, known)
    if json:
        _say(json_format.dumps(summary, indent=1))
        return int(ExitCode.OK)
    sizes = " x ".join(f"{len(summary[name])} {name}" for name in ("attacks", "stacks", "seeds"))
    _say(f"{summary['cells']} cells = {sizes}")
    _say(f"{summary['trainings']} trainings ({summary['honest']} honest, shared by all passive attacks)")
    _say(f"{len(done)} results are there already")
    if summary["seconds"] is not None:
        _say(f"about {summary['seconds']:.0f} s of one core are left")
    for stack in summary["stacks"]:
        _say(f"  {stack['stack']}: reads the aggregate: {', '.join(stack['holders'])}")
    return int(ExitCode.OK)


def _summary(loaded: Audit, made: Plan, done: set[str], known: dict[str, float]) -> dict[str, Any]:
    from fedsec.protocol.compose import holders_of

    # The same thing under two labels is computed once.
    trainings, cells = {t.key: t for t in made.trainings}, {c.key for c in made.cells}
    waiting = {"training": len(trainings.keys() - done), "cell": len(cells - done)}
    seconds = sum(count * known[kind] for kind, count in waiting.items() if kind in known)
    estimable = all(kind in known or not count for kind, count in waiting.items())
    return {
        "cells": len(made.cells),
        "trainings": len(trainings),
        "honest": sum(not t.attack for t in trainings.values()),
        "finished": len(done),
        "seconds": seconds if estimable else None,
        "seeds": list(loaded.config.seeds),
        "attacks": [entry.label for entry in loaded.config.attacks],
        "stacks": [
            {"stack": entry.label, "holders": sorted(holders_of(entry.defenses))} for entry in loaded.config.stacks
        ],
    }


def report(path: Path, *, format: str, output: Path | None) -> int:
    """Render a report again from ``audit.json``; nothing runs."""
    try:
        document = json_format.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as audit.json: {error}") from error
    if not isinstance(document, dict) or document.get("schema") != "fedsec/audit/1":
        raise DataError(f"{path} is not a fedsec/audit/1 document; give the audit.json that `fedsec audit` wrote")
    verdict = document.get("verdict")
    if not isinstance(verdict, dict) or not {"status", "complete"} <= verdict.keys():
        raise DataError(f"{path} has no verdict; give the audit.json that `fedsec audit` wrote")
    text = render(document, format)
    if output is None:
        sys.stdout.write(text)
    else:
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise FedsecError(f"{output} cannot be written: {error.strerror}") from error
        _say(str(output))
    return int(exit_code(verdict))
