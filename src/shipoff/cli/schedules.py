"""The verbs of `shipoff schedules`: what is run at times of its own, and what became of it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shipoff.cli import hints
from shipoff.cli.errors import Missing
from shipoff.cli.output import Output, ago
from shipoff.cli.parsing import Group, Verb
from shipoff.cli.verb import PRODUCTION, EnvironmentOption, JsonOption, ProjectOption, here, project_path, signed_in, verb

if TYPE_CHECKING:
    from shipoff.cli.client import Json

app = typer.Typer(
    cls=Group,
    add_completion=False,
    help="Commands that the live release runs at times of their own. Taken into a deployment when it is made.",
    no_args_is_help=True,
)


@app.command("list", cls=Verb)
@verb
def list_(project: ProjectOption = None, environment: EnvironmentOption = PRODUCTION, as_json: JsonOption = False) -> None:
    """Show the schedules, when each runs next, and how its last run ended."""
    output = Output(as_json=as_json)
    name = here(project)
    with signed_in() as api:
        found = api.get(_path(name), environment=environment)
    output.data(found)
    live = {one["name"]: one for one in found["live"]}
    waiting = [one for one in found["configured"] if _told(one) not in map(_told, live.values())]
    rows = [_row(one) for one in live.values()]
    rows += [(one["name"], one["cron"], "from the next deployment on", "-", "-", shlex.join(one["command"])) for one in waiting]
    if not rows:
        output.say(f"{name} has no schedule: shipoff schedules set NAME --cron '0 3 * * *' -- COMMAND")
        return
    output.table(("NAME", "CRON (UTC)", "NEXT", "LAST", "OUTCOME", "COMMAND"), rows)


@app.command("set", cls=Verb)
@verb
def set_(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Small letters, digits and hyphens.")],
    command: Annotated[list[str], typer.Argument(metavar="COMMAND…", help="The program and its arguments, after --.")],
    cron: Annotated[str, typer.Option("--cron", metavar="CRON", help="Minute hour day month weekday, in UTC: '0 3 * * 1-5'.")],
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add a schedule, or replace the one of this name."""
    output = Output(as_json=as_json)
    mine = {"name": name, "cron": cron, "command": list(command)}
    chosen = here(project)
    with signed_in() as api:
        # Last: what is wrong with it is then told of the last one.
        others = [one for one in api.get(_path(chosen))["configured"] if one["name"] != name]
        output.data(api.put(_path(chosen), {"schedules": [*others, mine]}))
    output.say(f"{name} is set. {_takes_effect(chosen)}")


@app.command("remove", cls=Verb)
@verb
def remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name.")],
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a schedule."""
    output = Output(as_json=as_json)
    chosen = here(project)
    with signed_in() as api:
        before = api.get(_path(chosen))["configured"]
        kept = [one for one in before if one["name"] != name]
        if len(kept) == len(before):
            remedy = f"see them: {hints.command('schedules list', chosen)}"
            raise Missing(f"{chosen} has no schedule {name}", field="NAME", remedy=remedy)
        output.data(api.put(_path(chosen), {"schedules": kept}))
    output.say(f"{name} is removed. {_takes_effect(chosen)}")


def _path(project: str) -> str:
    return f"{project_path(project)}/schedules"


def _takes_effect(project: str) -> str:
    command = hints.command("redeploy --current-env", project)
    return f"In effect from the next deployment on; at once with: {command}"


def _told(schedule: Json) -> tuple[Any, ...]:
    return schedule["name"], schedule["cron"], tuple(schedule["command"])


def _row(one: Json) -> tuple[str, ...]:
    following = (one["next_run"] or "paused").replace("T", " ").removesuffix(":00Z")
    return one["name"], one["cron"], following, ago(one["last_run"]), one["outcome"] or "-", shlex.join(one["command"])
