"""The verbs about projects: init, list, status, open, scale, destroy."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shipoff.cli import hints, names
from shipoff.cli.account import team_id
from shipoff.cli.claiming import ensure_project
from shipoff.cli.errors import ExitCode, Failure, Missing, UsageFailure
from shipoff.cli.output import Output, ago
from shipoff.cli.releases import find_deployment
from shipoff.cli.verb import PRODUCTION, EnvironmentOption, JsonOption, ProjectOption, here, project_path, signed_in, verb

if TYPE_CHECKING:
    from shipoff.cli.client import Json


@verb
def init(
    path: Annotated[Path, typer.Argument(help="The app's folder.")] = Path(),
    project: ProjectOption = None,
    team: Annotated[str | None, typer.Option("--team", help="The team's name or id; not needed when you have one.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Create the project for a folder, and write its name into shipoff.toml."""
    output = Output(as_json=as_json)
    if not path.is_dir():
        raise UsageFailure(f"{path} is no folder", field="PATH")
    name = names.choose(project, path)
    if not names.is_label(name):
        raise UsageFailure(
            f"{name!r} cannot be a project's name",
            field="--project",
            remedy=f"for example: --project {names.as_label(name) or 'my-app'}",
        )
    with signed_in() as api:
        created, _ = ensure_project(api, output, name, team=team_id(api, team) if team else None)
    file = names.write_project_file(path, name)
    output.data(created)
    output.say(f"{file} names project {name}. Next: shipoff deploy{'' if path == Path() else f' {path}'}")


@verb
def list_(
    deployments: Annotated[bool, typer.Option("--deployments", help="The project's deployments instead.")] = False,
    project: ProjectOption = None,
    limit: Annotated[int, typer.Option("-n", min=1, max=1000, help="At most so many deployments.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List your projects, or a project's deployments."""
    output = Output(as_json=as_json)
    with signed_in() as api:
        if deployments or project:
            found = api.get(f"{project_path(here(project))}/deployments", limit=min(limit, 200))["items"]
            output.data({"items": found})
            output.table(
                ("NUMBER", "STATE", "ENVIRONMENT", "TRIGGER", "COMMIT", "CREATED", "REASON"),
                [_deployment_row(item) for item in found],
            )
            return
        projects = list(api.items("/v1/projects", limit=200))
    output.data({"items": projects})
    output.table(("NAME", "URL", "CREATED"), [(item["name"], _first_url(item), ago(item["created_at"])) for item in projects])
    if not projects:
        output.say("No project yet: shipoff deploy")


def _deployment_row(item: Json) -> tuple[str, ...]:
    number = f"#{item['number']}" if item.get("number") else "-"
    commit = (item.get("commit") or "")[:10] or "-"
    return (
        number,
        item["state"],
        item["environment"],
        item["trigger"] or "-",
        commit,
        ago(item["created_at"]),
        item.get("reason") or "",
    )


def _first_url(project: Json) -> str:
    for environment in project.get("environments") or []:
        if environment.get("name") == PRODUCTION and environment.get("urls"):
            return str(environment["urls"][0])
    return "-"


@verb
def status(
    number: Annotated[str | None, typer.Argument(metavar="[N]", help="A deployment's number: shows that one instead.")] = None,
    timeline: Annotated[bool, typer.Option("--timeline", help="Each state: who, why, when, how long.")] = False,
    project: ProjectOption = None,
    environment: EnvironmentOption = PRODUCTION,
    as_json: JsonOption = False,
) -> None:
    """Show what is live, what is under way, and how the instances are; or one deployment."""
    from shipoff.cli import history

    output = Output(as_json=as_json)
    name = here(project)
    with signed_in() as api:
        if number or timeline:
            history.show(api, output, find_deployment(api, name, number, environment=environment), timeline=timeline)
            return
        found = api.get(f"{project_path(name)}/status", environment=environment)
    output.data(found)
    live, latest = found["live"], found["latest"]
    output.say(f"{name} · {environment}", bold=True)
    output.say(f"  address   {', '.join(found['urls']) or '-'}")
    output.say(f"  live      {_one_line(live) if live else 'nothing yet'}")
    if latest and (live is None or latest["id"] != live["id"]):
        output.say(f"  latest    {_one_line(latest)}", colour=output.state_colour(latest["state"]))
    workload = found.get("workload")
    if workload:
        output.say(
            f"  workload  {workload['phase']}, {workload['replicas']} wanted"
            + (f": {workload['reason']}" if workload.get("reason") else "")
        )
        _instances(output, workload.get("instances") or [])


def _instances(output: Output, instances: list[Json]) -> None:
    rows = [
        (
            f"{instance['process']}.{instance['index']}",
            "yes" if instance["ready"] else "no",
            str(instance["restarts"]),
            ago(instance["started_at"]),
            instance["last_exit"] or "-",
        )
        for instance in instances
    ]
    if rows:
        output.table(("INSTANCE", "READY", "RESTARTS", "STARTED", "LAST EXIT"), rows)


def _one_line(deployment: Json) -> str:
    number = f"#{deployment['number']}" if deployment.get("number") else deployment["id"]
    commit = f" {deployment['commit'][:10]}" if deployment.get("commit") else ""
    reason = f": {deployment['reason']}" if deployment.get("reason") else ""
    return f"{number}{commit} {deployment['state']} ({ago(deployment['changed_at'])}){reason}"


@verb
def open_(project: ProjectOption = None, environment: EnvironmentOption = PRODUCTION, as_json: JsonOption = False) -> None:
    """Print the app's address, and open it where there is a screen."""
    output = Output(as_json=as_json)
    name = here(project)
    with signed_in() as api:
        found = api.get(f"{project_path(name)}/status", environment=environment)
    urls = found["urls"]
    if not found["live"] or not urls:
        raise _not_live(name, environment, found["latest"])
    output.data({"url": urls[0]})
    output.say(urls[0])
    has_screen = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if has_screen and not as_json and urls[0].startswith(("http://", "https://")):
        import webbrowser

        webbrowser.open(urls[0])


def _not_live(project: str, environment: str, latest: Json | None) -> Missing:
    """Says how far it is."""
    how_far = f"; the newest deployment is {_one_line(latest)}" if latest else ""
    words = "status" if latest else "deploy"
    return Missing(
        f"nothing of {project} is live in {environment}{how_far}",
        remedy=f"{'see more' if latest else 'deploy it'}: {hints.command(words, project, environment)}",
    )


@verb
def scale(
    replicas: Annotated[int, typer.Argument(metavar="N", min=1, max=100, help="How many instances.")],
    project: ProjectOption = None,
    environment: EnvironmentOption = PRODUCTION,
    as_json: JsonOption = False,
) -> None:
    """Run so many instances."""
    output = Output(as_json=as_json)
    name = here(project)
    with signed_in() as api:
        answer = api.post(f"{project_path(name)}/scale", {"environment": environment, "replicas": replicas})
    output.data(answer)
    output.say(f"{name} · {environment}: {replicas} {'instance' if replicas == 1 else 'instances'} wanted")


@verb
def destroy(
    project: ProjectOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete a project with everything of it. Asks for its name first."""
    output = Output(as_json=as_json)
    name = here(project)
    with signed_in() as api:
        found = api.get(project_path(name))
        if not yes:
            _confirm(found["name"])
        api.delete(project_path(found["id"]))
    output.data({"deleted": found["id"], "name": found["name"]})
    output.say(f"{found['name']} is being deleted")


def _confirm(name: str) -> None:
    if not sys.stdin.isatty():
        raise UsageFailure(
            f"deleting {name} wants to be confirmed, and there is nobody to ask",
            field="--yes",
            remedy=f"confirm it: {hints.command('destroy --yes', name)}",
        )
    typed = typer.prompt(f"This deletes {name}, its deployments and variables. Type its name to go on", err=True)
    if typed.strip() != name:
        raise Failure("that is not its name; nothing was deleted", code=ExitCode.REFUSED)
