"""``fedsec price``: what each stack of a configuration costs a round, before anything trains."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from fedsec.audit.build import Builder
from fedsec.config import load_configs
from fedsec.config.schema import AuditConfig
from fedsec.federation.prices import Cost, Price, price
from fedsec.federation.server_side import Server
from fedsec.federation.stages import Stages
from fedsec.protocol.compose import check_stack


def prices(
    path: Path,
    *,
    overrides: Sequence[str] = (),
    clients: int | None = None,
    sizes: Sequence[int] = (4, 8, 16),
    as_json: bool = False,
) -> str:
    """The price list of every audit in a file.

    Args:
        path: of the configuration.
        overrides: ``PATH=VALUE`` each.
        clients: to extrapolate to; by default the federation's own cohort.
        sizes: cohort sizes that are measured.
        as_json: machine-readable.

    Raises:
        ConfigurationError: the configuration is wrong.
    """
    found = [_priced(config, clients, sizes) for config in load_configs(path, list(overrides))]
    if as_json:
        return json.dumps(found, indent=1) + "\n"
    return "\n".join(_page(audit) for audit in found)


def _priced(config: AuditConfig, clients: int | None, sizes: Sequence[int]) -> dict[str, Any]:
    setup = Builder(config).setup(config.seeds[0])
    rows: list[dict[str, Any]] = []
    asked = 0
    for entry in config.stacks:
        stack = tuple(entry.defenses)
        setting = setup.setting(stack)
        asked = clients or int(setting.cohort)
        refusals = check_stack(stack, setting, server_optimizer=setup.server.name)
        if refusals:
            rows.append({"stack": entry.label, "refused": [f"{r.found}: {r.why}" for r in refusals]})
            continue
        own = setup.of_stack(stack)
        prepare = partial(Stages.agree, agreed=own.model, model=own.initial, server=Server(own))
        found = price(stack, setting, sizes=sizes, prepare=prepare)
        rows.append({"stack": entry.label, **asdict(found), **_extrapolated(found, asked)})
    return {"audit": config.name, "clients": asked, "stacks": rows}


def _extrapolated(found: Price, clients: int) -> dict[str, Any]:
    return {
        "client_seconds": found.client_seconds(clients),
        "server_seconds": found.server_seconds(clients),
        "client_formula": _formula(_together(found, "seal", "serialise"), "client"),
        "server_formula": _formula(_together(found, "add", "open"), "server"),
    }


def _together(found: Price, *phases: str) -> Cost:
    parts = [found.seconds[phase] for phase in phases]
    return Cost(fixed=sum(p.fixed for p in parts), each=sum(p.each for p in parts), pairs=sum(p.pairs for p in parts))


def _formula(cost: Cost, who: str) -> str:
    """Seconds of a round of ``n``, in milliseconds: of one client, or of the server."""
    if who == "client":
        terms = ((cost.fixed, "{} / n"), (cost.each, "{}"), (cost.pairs, "{} n"))
    else:
        terms = ((cost.fixed, "{}"), (cost.each, "{} n"), (cost.pairs, "{} n^2"))
    shown = [words.format(f"{1000 * seconds:.3g}") for seconds, words in terms if 1000 * seconds >= 5e-4]
    return " + ".join(shown) or "0"


def _page(audit: dict[str, Any]) -> str:
    from fedsec.cli.listing import columns

    priced = [row for row in audit["stacks"] if "refused" not in row]
    lines = [
        ("stack", "client s", "server s", "upload", "x fp32", "download", "peak", "client ms, n clients", "server ms")
    ]
    for row in priced:
        lines.append(
            (
                row["stack"],
                f"{row['client_seconds']:.3g}",
                f"{row['server_seconds']:.3g}",
                _bytes(row["upload"] + row["protocol"][-1]),
                f"{(row['upload'] + row['protocol'][-1]) / row['plain']:.2f}",
                _bytes(row["download"]),
                "?" if row["peak"] is None else _bytes(row["peak"]),
                row["client_formula"],
                row["server_formula"],
            )
        )
    sizes = ", ".join(map(str, priced[0]["measured"])) if priced else ""
    head = f"{audit['audit']}: a round of {audit['clients']} clients, without training\n" if audit["audit"] else ""
    parameters = f"{priced[0]['parameters']:,} parameters; " if priced else ""
    foot = (
        f"{parameters}measured with {sizes} clients on this machine, formulas fitted to them and extrapolated; n is\n"
        "the number of clients in a round. A client's messages beside its upload are counted with it, at the largest\n"
        "size; a rule that compares clients is not priced here: `fedsec audit` measures it.\n"
    )
    refused = [f"{row['stack']}: refused. {'; '.join(row['refused'])}\n" for row in audit["stacks"] if "refused" in row]
    return head + columns(lines) + foot + "".join(refused)


def _bytes(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"
