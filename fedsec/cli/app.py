"""The commands. Each imports what it needs when it runs, so that ``--help`` and ``list`` stay fast."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(
    name="fedsec",
    help="Attack a federated-learning set-up, measure its defenses, and read one report.",
    epilog="Exit codes: 0 gates met, 1 gate violated, 2 usage or configuration, 3 incomplete, 130 interrupted.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data = typer.Typer(help="Public datasets: what there is, where it lies, fetch it.", no_args_is_help=True)
app.add_typer(data, name="data")

Group = Literal["attacks", "defenses", "datasets", "partitions", "models", "judges", "reports"]
File = Annotated[Path, typer.Argument(metavar="FILE", help="The audit.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Override a value, as in federation.rounds=5.")
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable.")]


def _version(asked: bool) -> None:
    if asked:
        import fedsec

        sys.stdout.write(f"fedsec {fedsec.__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Attack a federated-learning set-up, measure its defenses, and read one report."""


@app.command(name="list")
def list_(
    group: Annotated[Group | None, typer.Argument(help="One kind of plugin; by default all.")] = None,
    as_json: Json = False,
) -> None:
    """List plugins."""
    from fedsec.cli.listing import listing

    sys.stdout.write(listing(group, as_json=as_json))


@app.command()
def explain(
    name: Annotated[str, typer.Argument(help="A plugin, or exit-codes, or severity.")],
    group: Annotated[Group | None, typer.Option(help="Where two kinds of plugin have one of this name.")] = None,
) -> None:
    """Explain a plugin: threat model or guarantee, parameters, source, cost, example."""
    from fedsec.cli.explain import explanation

    sys.stdout.write(explanation(name, group))


@app.command(name="check-defense")
def check_defense(
    name: Annotated[str, typer.Argument(help="A defense, or module:Class, or path.py:Class.")],
    parameters: Annotated[
        list[str] | None, typer.Option("--with", metavar="NAME=VALUE", help="A parameter of the defense.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="List the tests that do not apply too.")] = False,
    as_json: Json = False,
) -> None:
    """Try the known answers of a defense; exit code 1 if one of them fails."""
    from fedsec.cli.check_defense import checked

    def command() -> int:
        text, holds = checked(name, parameters=parameters or [], as_json=as_json, every=every)
        sys.stdout.write(text)
        return 0 if holds else 1

    raise typer.Exit(_code(command))


@app.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What to write.")] = Path("audit.yaml"),
    preset: Annotated[
        Literal["quick", "poisoning", "production"],
        typer.Option(help="A first look, who can break it, or one compromised client in a thousand."),
    ] = "quick",
) -> None:
    """Write a commented configuration to start from."""
    from fedsec.cli.starter import write_starter

    sys.stdout.write(write_starter(file, preset))


@app.command()
def schema() -> None:
    """Print the JSON Schema of audit.yaml, for editors."""
    from fedsec.config.json_schema import audit_schema

    sys.stdout.write(json.dumps(audit_schema(), indent=1) + "\n")


@app.command()
def plan(file: File, overrides: Overrides = None, as_json: Json = False) -> None:
    """Show what an audit would do; nothing trains."""
    path = _checked(file, overrides)
    from fedsec.audit import commands

    raise typer.Exit(_code(lambda: commands.plan(path, overrides=overrides or [], json=as_json)))


@app.command()
def price(
    file: File,
    overrides: Overrides = None,
    clients: Annotated[
        int | None,
        typer.Option("--clients", min=1, help="Clients in a round to extrapolate to; by default the cohort."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure what each stack costs a round on this model: seconds, bytes and memory; nothing trains."""
    path = _checked(file, overrides)
    from fedsec.cli.price import prices

    sys.stdout.write(prices(path, overrides=overrides or [], clients=clients, as_json=as_json))


@app.command()
def audit(
    file: File,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the results.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget earlier results.")] = False,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=0, help="Worker processes; by default all cores.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option("--only", metavar="KEY=LABEL", help="As in attack=dlg.")] = None,
    overrides: Overrides = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:0.")] = None,
    progress: Annotated[
        Literal["auto", "rich", "plain", "json", "none"], typer.Option(help="On standard error.")
    ] = "auto",
    check_defenses: Annotated[
        bool, typer.Option("--check-defenses", help="Try the known answers of every defense too.")
    ] = False,
) -> None:
    """Train, attack and measure; running it again resumes."""
    given = [*(overrides or []), *([f"device={device}"] if device else [])]
    path = _checked(file, given)
    from fedsec.audit import commands

    raise typer.Exit(
        _code(
            lambda: commands.audit(
                path,
                output=output,
                fresh=fresh,
                jobs=jobs,
                only=only or [],
                overrides=overrides or [],
                device=device,
                progress=progress,
                check_defenses=check_defenses,
            )
        )
    )


@app.command()
def report(
    file: Annotated[Path, typer.Argument(metavar="AUDIT_JSON", help="The audit.json that an audit wrote.")],
    form: Annotated[str, typer.Option("--format", help="html, markdown, csv, or a plugin's.")] = "html",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File; by default standard output.")] = None,
) -> None:
    """Render a report again; nothing runs."""
    from fedsec.audit import commands

    raise typer.Exit(_code(lambda: commands.report(file, format=form, output=output)))


@app.command()
def repro(
    name: Annotated[str | None, typer.Argument(help="A reproduction, or the path of a file with one.")] = None,
    list_all: Annotated[bool, typer.Option("--list", help="List what can be reproduced.")] = False,
    as_json: Json = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the results.")] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=0, help="Worker processes; by default all cores.")
    ] = None,
    progress: Annotated[
        Literal["auto", "rich", "plain", "json", "none"], typer.Option(help="On standard error.")
    ] = "auto",
) -> None:
    """Run a published result again: the paper's figures beside the measured ones."""
    from fedsec.cli.repro import listing, reproduce

    if list_all or name is None:
        sys.stdout.write(listing(as_json=as_json))
        return

    def command() -> int:
        text, holds = reproduce(name, output=output, jobs=jobs, progress=progress, as_json=as_json)
        sys.stdout.write(text)
        return 0 if holds else 1

    raise typer.Exit(_code(command))


@data.command(name="list")
def data_list(as_json: Json = False) -> None:
    """List datasets, and whether they are here."""
    from fedsec.data import cache
    from fedsec.errors import DataError
    from fedsec.registry import rows

    def status(name: str) -> str:
        try:
            return cache.status(name)
        except DataError:
            return "a plugin's"

    found = [{"name": row.name, "status": status(row.name), "summary": row.summary} for row in rows("datasets")]
    if as_json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
        return
    from fedsec.cli.listing import columns

    sys.stdout.write(columns([(row["name"], row["status"], row["summary"]) for row in found]))


@data.command(name="path")
def data_path(name: Annotated[str, typer.Argument(help="A dataset.")]) -> None:
    """Print the folder of a dataset's files."""
    from fedsec.data import cache

    sys.stdout.write(f"{cache.locate(name)}\n")


@data.command(name="fetch")
def data_fetch(names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Datasets.")]) -> None:
    """Download what is missing, checked against its SHA-256."""
    from fedsec.data import cache

    for name in names:
        sys.stdout.write(f"{cache.fetch(name)}\n")


def _code(command: Callable[[], int]) -> int:
    try:
        return command()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command resumes\n")
        return 130


def _checked(file: Path, overrides: list[str] | None) -> Path:
    """The file, after the checks that need no torch: what is wrong is said at once."""
    from fedsec.config.load import precheck

    precheck(file, overrides or [])
    return file
