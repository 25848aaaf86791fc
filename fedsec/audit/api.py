"""The Python API: ``Audit.load("audit.yaml").run()``; the command line is a thin layer over it."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fedsec
from fedsec.audit.build import Builder
from fedsec.audit.described import attack_row
from fedsec.audit.engine import Run, execute
from fedsec.audit.environment import describe
from fedsec.audit.plan import Plan, check_stacks, make_plan
from fedsec.audit.progress import make_display
from fedsec.audit.results import Assembly
from fedsec.audit.selftested import selftested
from fedsec.audit.store import Store
from fedsec.audit.verdict import ExitCode, coverage, exit_code, judge
from fedsec.config import load_config, load_configs
from fedsec.config.schema import AuditConfig
from fedsec.registry import get

if TYPE_CHECKING:
    import pandas

SCHEMA = "fedsec/audit/1"
SEVERAL = "fedsec/audits/1"


@dataclass(frozen=True)
class AuditResult:
    """The result of an audit; ``result["dlg", "ckks"]`` is a finding.

    Attributes:
        document: what stands in ``audit.json``.
        exit_code: what ``fedsec audit`` exits with.
        folder: where ``audit.json`` and ``report.html`` lie; ``None`` if they were not written.
    """

    document: dict[str, Any]
    exit_code: ExitCode
    folder: Path | None = None

    def __getitem__(self, place: tuple[str, str]) -> dict[str, Any]:
        """The finding of an attack and a stack.

        Raises:
            KeyError: there is no such finding; names those that there are.
        """
        for finding in self.document["findings"]:
            if (finding["attack"], finding["stack"]) == place:
                found: dict[str, Any] = finding
                return found
        attacks = sorted({f["attack"] for f in self.document["findings"]})
        stacks = sorted({f["stack"] for f in self.document["findings"]})
        raise KeyError(f"no finding {place}; attacks: {', '.join(attacks)}; stacks: {', '.join(stacks)}")

    def to_frame(self) -> pandas.DataFrame:
        """One row per attack, stack and metric (needs pandas: ``pip install 'fedsec[frame]'``)."""
        import pandas

        rows = [
            {
                "attack": f["attack"],
                "stack": f["stack"],
                "family": f["family"],
                "status": f["status"],
                "severity": f["severity"],
                "metric": name,
                **metric,
            }
            for f in self.document["findings"]
            for name, metric in (f["metrics"] or {"": {}}).items()
        ]
        return pandas.DataFrame(rows)

    def _repr_html_(self) -> str:
        """The report, for notebooks."""
        import html

        page = html.escape(render(self.document, "html"), quote=True)
        return f'<iframe srcdoc="{page}" style="width:100%;height:80vh;border:0" sandbox></iframe>'


class Audit:
    """An audit that can be planned and run."""

    def __init__(self, config: AuditConfig) -> None:
        self.config = config

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Audit:
        """Read a configuration file.

        Args:
            path: the YAML file.
            overrides: ``a.b=c`` each, as with ``--set``.

        Raises:
            ConfigurationError: with every problem at once.
        """
        return cls(load_config(Path(path), overrides))

    @classmethod
    def load_all(cls, path: str | Path, overrides: Sequence[str] = ()) -> tuple[Audit, ...]:
        """Read a configuration file of one or more documents, each an audit of its own.

        Args:
            path: the YAML file; documents are separated by lines ``---``.
            overrides: ``a.b=c`` each, applied to every document.

        Raises:
            ConfigurationError: with every problem of all documents at once.
        """
        return tuple(cls(config) for config in load_configs(Path(path), overrides))

    def plan(self, only: Iterable[str] = ()) -> Plan:
        """What would be done, after the checks that need no training.

        Raises:
            ConfigurationError: a stack cannot work, or a filter names nothing.
        """
        builder = Builder(self.config)
        check_stacks(self.config, builder)
        return make_plan(self.config, builder, only=only)

    def run(
        self,
        output: str | Path | None = None,
        *,
        fresh: bool = False,
        jobs: int | None = None,
        only: Iterable[str] = (),
        progress: str = "auto",
        check_defenses: bool = False,
    ) -> AuditResult:
        """Run what is not finished yet, and write ``audit.json`` and ``report.html``.

        Args:
            output: folder of the results; by default ``fedsec-out/<name of the file>`` beside the file.
            fresh: forget earlier results.
            jobs: worker processes; by default one per core; 0 runs in this process.
            only: filters such as ``attack=dlg``.
            progress: ``auto``, ``rich``, ``plain``, ``json`` or ``none``.
            check_defenses: try the known answers of every defense too (`fedsec.selftests`), once: what was found is
                kept, and stands in the result of later runs without asking.
        """
        folder = Path(output) if output is not None else self.default_output()
        builder = Builder(self.config)
        check_stacks(self.config, builder)
        plan = make_plan(self.config, builder, only=only)
        if jobs is None:
            # A GPU is shared by all federations; a CPU runs one federation per core.
            jobs = 1 if builder.device.type == "cuda" else _cores()
        with Store(folder / "store", fresh=fresh) as store:
            run = execute(self.config, plan, store, jobs=jobs, display=make_display(progress))
            document = self._document(builder, plan, store, run, jobs)
            if tested := selftested(self.config.stacks, store.artifacts, run=check_defenses and not run.interrupted):
                document["selftests"] = tested
        code = exit_code(document["verdict"], interrupted=run.interrupted)
        write(document, folder)
        return AuditResult(document, code, folder)

    def default_output(self) -> Path:
        """``fedsec-out/<name of the file>`` beside the configuration file."""
        stem = Path(self.config.source).stem if self.config.source else "audit"
        return self.config.folder / "fedsec-out" / stem

    def _document(self, builder: Builder, plan: Plan, store: Store, run: Run, jobs: int) -> dict[str, Any]:
        config, info = self.config, builder.dataset.info
        assembly = Assembly(config, plan, store, info=info)
        cells, findings, utilities = assembly.cell_rows(), assembly.findings(), assembly.utilities()
        attacks = [attack_row(entry) for entry in config.attacks]
        auditors = {row["label"] for row in attacks if row["audits"]}
        verdict = judge(config.gates, findings, utilities, cells, undefended=assembly.control, auditors=auditors)
        model, setup = builder.model(config.seeds[0]), builder.setup(config.seeds[0])
        federation = config.federation
        return {
            "schema": SCHEMA,
            "tool": {"name": "fedsec", "version": fedsec.__version__},
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "name": config.name,
            "title": config.report.title or config.name,
            "verdict": verdict,
            "complete": verdict["complete"],
            "config": config.resolved(),
            "environment": {**describe(builder.device, jobs=jobs), "seconds": run.seconds, "reused": run.reused},
            "federation": {
                "dataset": {
                    "name": info.name,
                    "summary": info.summary,
                    "task": info.task,
                    "modality": info.modality,
                    "input_shape": list(info.input_shape),
                    "classes": list(info.classes),
                    "bounds": list(info.bounds) if info.bounds else None,
                    "public": info.public,
                    "source": info.source,
                    "licence": info.licence,
                },
                "model": {"name": model.name, "parameters": model.layout.trainable},
                "clients": federation.clients,
                "clients_per_round": federation.clients_per_round,
                "rounds": federation.rounds,
                "algorithm": federation.algorithm.name,
                "seeds": list(config.seeds),
            },
            "attacks": attacks,
            "stacks": assembly.stack_rows(lambda entry: setup.setting(entry.defenses)),
            "cells": cells,
            "findings": findings,
            "utilities": utilities,
            "coverage": coverage(cells),
            "opens": assembly.opens(),
            "robustness": assembly.robustness(),
        }


def _cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # only Linux has it
        return os.cpu_count() or 1


def render(document: dict[str, Any], form: str) -> str:
    """A document in one of the registered report formats.

    Raises:
        PluginError: there is no such format.
    """
    text: str = get("reports", form)(document)
    return text


def write(document: dict[str, Any], folder: Path) -> None:
    """Write ``audit.json`` and ``report.html``, each in one step."""
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    _place(folder, {"audit.json": text, "report.html": render(document, "html")})


def write_overview(results: Sequence[AuditResult], folder: Path) -> None:
    """Write ``report.html`` over several audits, which lie in folders of ``folder``."""
    entries = [{"folder": r.folder.relative_to(folder).as_posix(), "document": r.document} for r in results if r.folder]
    _place(folder, {"report.html": render({"schema": SEVERAL, "audits": entries}, "overview")})


def _place(folder: Path, files: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        temporary = folder / f".{name}.tmp"
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(folder / name)
