"""The verbs `run` and `exec`: a command where the app runs, its output here, its exit code the verb's own."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

import typer

from shipoff.cli.errors import UsageFailure
from shipoff.cli.limits import seconds
from shipoff.cli.output import Output
from shipoff.cli.verb import PRODUCTION, EnvironmentOption, JsonOption, ProjectOption, here, project_path, signed_in, verb

_CommandArgument = Annotated[list[str], typer.Argument(metavar="COMMAND…", help="The program and its arguments, after --.")]
_InputOption = Annotated[bool, typer.Option("--stdin", "-i", help="Pass standard input on to the command.")]
_LONGEST_S = 3300
_MOST_BYTES = 12 << 10


@verb
def run(
    command: _CommandArgument,
    stdin: _InputOption = False,
    timeout: Annotated[str, typer.Option("--timeout", metavar="TIME", help="When it is ended: 90, 15m; at most 55m.")] = "15m",
    project: ProjectOption = None,
    environment: EnvironmentOption = PRODUCTION,
    as_json: JsonOption = False,
) -> None:
    """Run a command once in the release that is live, beside its instances."""
    _run(command, {"has_input": stdin, "time_limit_s": _limit(timeout)}, here(project), environment, as_json=as_json)


@verb
def exec_(
    command: _CommandArgument,
    instance: Annotated[str, typer.Option("--instance", metavar="NAME", help="As status shows it: web.0, worker.0.")] = "",
    stdin: _InputOption = False,
    timeout: Annotated[str, typer.Option("--timeout", metavar="TIME", help="When it is ended: 90, 15m; at most 55m.")] = "15m",
    project: ProjectOption = None,
    environment: EnvironmentOption = PRODUCTION,
    as_json: JsonOption = False,
) -> None:
    """Run a command in an instance that is running."""
    asked = {"has_input": stdin, "time_limit_s": _limit(timeout), "instance": _place(instance)}
    _run(command, asked, here(project), environment, as_json=as_json)


def _run(command: list[str], asked: dict[str, object], project: str, environment: str, *, as_json: bool) -> None:
    from shipoff.cli.commanding import follow

    if sum(len(part.encode()) + 4 for part in command) > _MOST_BYTES:
        raise UsageFailure(
            "the command is too long", field="COMMAND", remedy=f"at most {_MOST_BYTES >> 10} KiB; pass input with -i"
        )
    path = f"{project_path(project)}/commands?{urlencode({'environment': environment})}"
    with signed_in() as api:
        code = follow(api, path, {"command": command, **asked}, Output(as_json=as_json))
    raise typer.Exit(code)


def _limit(text: str) -> int:
    limit_s = seconds("timeout", text) or 0
    if not 1 <= limit_s <= _LONGEST_S:
        raise UsageFailure(f"--timeout {text!r} is out of range", field="--timeout", remedy="from 1 second to 55 minutes")
    return limit_s


def _place(instance: str) -> dict[str, object]:
    process, _, index = instance.rpartition(".") if "." in instance else (instance, "", "0")
    if not index.isdecimal():
        raise UsageFailure(f"{instance!r} is no instance", field="--instance", remedy="write it as status does: web.0")
    return {"process": process, "index": int(index)}
