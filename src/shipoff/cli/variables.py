"""The verbs of `shipoff env`: set, unset, list, import."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from shipoff.cli import hints
from shipoff.cli.errors import UsageFailure
from shipoff.cli.output import Output, ago
from shipoff.cli.parsing import Group, Verb
from shipoff.cli.verb import PRODUCTION, EnvironmentOption, JsonOption, ProjectOption, here, project_path, signed_in, verb

app = typer.Typer(
    cls=Group,
    add_completion=False,
    help="Environment variables: kept sealed, taken into a deployment when it is made.",
    no_args_is_help=True,
)


def _takes_effect(project: str, environment: str) -> str:
    command = hints.command("redeploy --current-env", project, environment)
    return f"In effect from the next deployment on; at once with: {command}"


@app.command("set", cls=Verb)
@verb
def set_(
    assignments: Annotated[list[str], typer.Argument(metavar="NAME=VALUE…", help="Variables to set.")],
    project: ProjectOption = None,
    environment: EnvironmentOption = PRODUCTION,
    as_json: JsonOption = False,
) -> None:
    """Set variables; the others stay. (`env import -` keeps secrets out of the shell's history.)"""
    variables: dict[str, str] = {}
    for assignment in assignments:
        name, separator, value = assignment.partition("=")
        if not separator or not name:
            # Not the whole argument: it may be a secret.
            raise UsageFailure("every argument has to be NAME=VALUE", field=name[:40] if separator else "NAME=VALUE")
        variables[name] = value
    _put(here(project), environment, variables, Output(as_json=as_json))


@app.command("import", cls=Verb)
@verb
def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .env file; - for standard input.")],
    project: ProjectOption = None,
    environment: EnvironmentOption = PRODUCTION,
    as_json: JsonOption = False,
) -> None:
    """Set the variables of a .env file; the others stay."""
    from shipoff.cli.dotenv import parse

    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageFailure(f"{file} cannot be read: {error.strerror}", field="FILE") from error
    except UnicodeDecodeError as error:
        raise UsageFailure(f"{file} is no UTF-8 text", field="FILE") from error
    variables = parse(text)
    if not variables:
        raise UsageFailure("there is no variable in it", field="FILE", remedy="write NAME=value, one a line")
    _put(here(project), environment, variables, Output(as_json=as_json))


def _put(project: str, environment: str, variables: dict[str, str], output: Output) -> None:
    with signed_in() as api:
        answer = api.put(f"{project_path(project)}/variables", {"environment": environment, "variables": variables})
    output.data(answer or {"set": sorted(variables)})
    output.say(f"Set {', '.join(sorted(variables))} in {environment} of {project}. {_takes_effect(project, environment)}")


@app.command("unset", cls=Verb)
@verb
def unset(
    names: Annotated[list[str], typer.Argument(metavar="NAME…", help="Variables to remove.")],
    project: ProjectOption = None,
    environment: EnvironmentOption = PRODUCTION,
    as_json: JsonOption = False,
) -> None:
    """Remove variables."""
    output = Output(as_json=as_json)
    chosen = here(project)
    with signed_in() as api:
        api.delete(f"{project_path(chosen)}/variables", environment=environment, name=names)
    output.data({"unset": names})
    output.say(f"Removed {', '.join(names)} from {environment} of {chosen}. {_takes_effect(chosen, environment)}")


@app.command("list", cls=Verb)
@verb
def list_(
    reveal: Annotated[bool, typer.Option("--reveal", help="With their values.")] = False,
    project: ProjectOption = None,
    environment: EnvironmentOption = PRODUCTION,
    as_json: JsonOption = False,
) -> None:
    """List variables; without --reveal their names only."""
    output = Output(as_json=as_json)
    with signed_in() as api:
        found = api.get(f"{project_path(here(project))}/variables", environment=environment, reveal=reveal)
    output.data(found)
    rows = [
        (item["name"], _shown(item.get("value")) if reveal else "(sealed)", str(item["version"]), ago(item["changed_at"]))
        for item in found["items"]
    ]
    output.table(("NAME", "VALUE", "VERSION", "CHANGED"), rows)


def _shown(value: str | None) -> str:
    """On one line, whatever it holds."""
    return (value or "").replace("\\", "\\\\").replace("\n", "\\n")
