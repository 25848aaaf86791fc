"""From a file to a checked configuration; every problem is reported at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsec import parameters, registry
from fedsec.config.consistency import check_coalition, check_consistency, check_knowledge
from fedsec.config.draft import Draft
from fedsec.config.entries import AttackDraft, Entries, PluginDraft, check_splits, read_entries
from fedsec.config.schema import (
    AttackEntry,
    AuditConfig,
    DatasetSpec,
    FederationConfig,
    GateEntry,
    PluginSpec,
    StackEntry,
)
from fedsec.config.sectioning import check_sections
from fedsec.config.sections import Root, Splits
from fedsec.config.yaml_lines import Document, read_yaml, split_documents
from fedsec.errors import ConfigurationError, PluginError, Problem
from fedsec.federation.training import LocalTraining


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> AuditConfig:
    """Read, override and check a configuration.

    Args:
        path: the YAML (or JSON) file, of one document.
        overrides: ``path=value`` each, applied in order before anything is checked.

    Raises:
        ConfigurationError: with every problem of the file and the overrides.
    """
    configs = load_configs(path, overrides)
    if len(configs) > 1:
        found, hint = f"{len(configs)} audits", "`fedsec audit` runs them all; from Python use `load_audits`"
        expected = "one audit is expected here"
        raise ConfigurationError([Problem(path="", found=found, expected=expected, hint=hint, file=str(path))])
    return configs[0]


def load_configs(path: Path | str, overrides: Sequence[str] = ()) -> tuple[AuditConfig, ...]:
    """Read, override and check every document of a file: each is an audit of its own.

    Args:
        path: the YAML (or JSON) file; documents are separated by lines ``---``.
        overrides: ``path=value`` each, applied in order to every document before anything is checked.

    Raises:
        ConfigurationError: with every problem of all documents.
    """
    drafts = _read(Path(path), overrides)
    problems: list[Problem] = []
    configs = []
    for draft, entries in drafts:
        try:
            configs.append(_finished(draft, entries, str(path), Path(path).resolve().parent))
        except ConfigurationError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigurationError(problems)
    return tuple(configs)


def precheck(path: Path | str, overrides: Sequence[str] = ()) -> None:
    """The checks of `load_config` that need no plugin imported; nearly all of them, in a fraction of its time.

    Raises:
        ConfigurationError: with every problem.
    """
    _read(Path(path), overrides)


def config_from(raw: Mapping[str, Any], *, folder: Path | None = None, overrides: Sequence[str] = ()) -> AuditConfig:
    """Check a configuration that is no file, such as one that an audit has written down.

    Args:
        raw: JSON-able values.
        folder: where a user's own modules are looked up.
        overrides: as for `load_config`.

    Raises:
        ConfigurationError: with every problem.
    """
    copied = json.loads(json.dumps(raw))
    draft, entries = _drafted(Document(value=copied), overrides, "")
    return _finished(draft, entries, "", (folder or Path()).resolve())


def _read(path: Path, overrides: Sequence[str]) -> list[tuple[Draft, Entries]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        hint = "`fedsec init` writes one to start from" if isinstance(error, FileNotFoundError) else ""
        expected = f"cannot be read: {(error.strerror or str(error)).lower()}"
        raise ConfigurationError([Problem(path="", found="", expected=expected, hint=hint, file=str(path))]) from error
    read: list[tuple[Draft, Entries]] = []
    problems: list[Problem] = []
    for part in split_documents(data):
        try:
            read.append(_drafted(read_yaml(part, str(path)), overrides, str(path)))
        except ConfigurationError as error:
            problems.extend(error.problems)
    problems += _same_names([draft for draft, _ in read], str(path)) if not problems else []
    if problems:
        raise ConfigurationError(problems)
    return read


def _same_names(drafts: Sequence[Draft], file: str) -> list[Problem]:
    """Several audits of one file are told apart by their names."""
    met: set[str] = set()
    problems = []
    for draft in drafts if len(drafts) > 1 else ():
        name = str(draft.raw.get("name", "")) if isinstance(draft.raw, dict) else ""
        if not name or name in met:
            found = repr(name) if name else "no name"
            expected = "each audit of a file with several needs a name of its own"
            line = draft.line("name") if name else draft.line("")
            problems.append(Problem(path="name", found=found, expected=expected, file=file, line=line))
        met.add(name)
    return problems


def _drafted(document: Document, overrides: Sequence[str], file: str) -> tuple[Draft, Entries]:
    """Everything that can be said without importing a plugin."""
    draft = Draft(document, file)
    if draft.problems and draft.raw is None:
        raise ConfigurationError(draft.problems)
    for override in overrides:
        draft.override(override)
    check_sections(draft)
    if not isinstance(draft.raw, dict):
        raise ConfigurationError(draft.problems)
    entries = read_entries(draft)
    check_splits(draft)
    check_consistency(draft, entries)
    _raise(draft)
    return draft, entries


def _finished(draft: Draft, entries: Entries, file: str, folder: Path) -> AuditConfig:
    config = _build(draft, entries, file, folder)
    _raise(draft)
    return config


def _raise(draft: Draft) -> None:
    if draft.problems:
        # The sort is stable: what has no line stands last, in the order in which it was found.
        raise ConfigurationError(sorted(draft.problems, key=lambda p: p.line if p.line is not None else 1 << 30))


def _build(draft: Draft, entries: Entries, file: str, folder: Path) -> AuditConfig:
    root = Root.model_validate(draft.raw)
    attacks = tuple(_attack(draft, entry) for entry in entries.attacks)
    stacks = tuple(
        StackEntry(
            label=stack.label,
            defenses=tuple(_object(draft, plugin) for plugin in stack.plugins),
            line=draft.line(stack.path),
        )
        for stack in entries.stacks
    )
    federation = _federation(draft, root, entries)
    info = getattr(federation.dataset.plugin, "info", None)
    originals = root.report.originals or ("show" if info is not None and info.public else "redact")
    return AuditConfig(
        version=root.version,
        name=root.name,
        federation=federation,
        attacks=attacks,
        stacks=stacks,
        seeds=tuple(root.seeds) if isinstance(root.seeds, list) else tuple(range(root.seeds)),
        device=root.device,
        gates=tuple(
            GateEntry(**gate.model_dump(), line=draft.line(f"gates[{index}]")) for index, gate in enumerate(root.gates)
        ),
        report=root.report.model_copy(update={"originals": originals}),
        source=file,
        folder=folder,
    )


def _object(draft: Draft, plugin: PluginDraft | None) -> Any:
    """The plugin's object, or ``None`` with what is wrong reported."""
    if plugin is None or plugin.own:
        return None
    try:
        cls = registry.get(plugin.group, plugin.name)
    except PluginError as error:
        draft.report(plugin.path, str(error))
        return None
    built, problems = parameters.validate(cls, plugin.parameters, plugin.path)
    draft.add(problems)
    return built


def _attack(draft: Draft, entry: AttackDraft) -> AttackEntry:
    built = _object(draft, entry.plugin)
    position = ""
    if built is not None and not entry.is_active:
        position = entry.position or built.threat.position
        check_coalition(draft, position, entry.plugin.path)
    if built is not None:
        check_knowledge(draft, built.threat, entry.plugin.path)
    return AttackEntry(label=entry.label, plugin=built, position=position, line=draft.line(entry.plugin.path))


def _federation(draft: Draft, root: Root, entries: Entries) -> FederationConfig:
    given, local = root.federation, root.federation.local
    is_full = given.algorithm.name == "fedsgd"
    return FederationConfig(
        dataset=_dataset(draft, entries.dataset),
        partition=_spec(draft, entries.partition),
        model=_spec(draft, entries.model),
        algorithm=given.algorithm,
        clients=given.clients,
        clients_per_round=given.clients if given.clients_per_round is None else given.clients_per_round,
        sampling=given.sampling,
        availability=given.availability,
        dropouts=given.dropouts,
        stragglers=given.stragglers,
        rounds=given.rounds,
        evaluate_every=given.evaluate_every,
        local=LocalTraining(
            epochs=local.epochs,
            batch_size=None if is_full else local.batch_size,
            optimizer=local.optimizer,
            learning_rate=local.learning_rate,
            momentum=local.momentum,
            weight_decay=local.weight_decay,
            proximal=given.algorithm.proximal,
            max_steps=local.max_steps,
            schedule=local.schedule,
            rounds=given.rounds,
        ),
        precision=given.precision,
    )


def _dataset(draft: Draft, entry: PluginDraft | None) -> DatasetSpec:
    if entry is None:
        raise TypeError("a checked configuration has a dataset")
    raw = draft.at("federation.dataset")
    splits = Splits(**{key: raw[key] for key in Splits.model_fields if isinstance(raw, dict) and key in raw})
    spec = _spec(draft, entry)
    return DatasetSpec(
        name=spec.name, parameters=spec.parameters, load=spec.build, plugin=spec.plugin, **splits.model_dump()
    )


def _spec(draft: Draft, entry: PluginDraft | None) -> PluginSpec:
    if entry is None:
        raise TypeError("a checked configuration has a partition and a model")
    if entry.own:
        return PluginSpec(name=entry.name, parameters=entry.parameters, build=entry.name)
    built = _object(draft, entry)
    return PluginSpec(name=entry.name, parameters=dict(built.parameters()) if built is not None else {}, plugin=built)
