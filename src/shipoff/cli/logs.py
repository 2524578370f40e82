"""The verb `logs`: what a build or an app wrote, and what it writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from shipoff.cli import hints
from shipoff.cli.errors import Missing
from shipoff.cli.output import Output
from shipoff.cli.releases import find_deployment
from shipoff.cli.verb import PRODUCTION, EnvironmentOption, JsonOption, ProjectOption, here, project_path, signed_in, verb

if TYPE_CHECKING:
    from shipoff.cli.client import Api, Json


@verb
def logs(
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as lines come; over to the next deployment too.")
    ] = False,
    build: Annotated[bool, typer.Option("--build", help="The build's log, of the newest deployment.")] = False,
    deployment: Annotated[str | None, typer.Option("--deployment", metavar="N", help="A deployment's number or id.")] = None,
    limit: Annotated[int, typer.Option("-n", min=0, max=5000, help="How many of the last lines.")] = 100,
    project: ProjectOption = None,
    environment: EnvironmentOption = PRODUCTION,
    as_json: JsonOption = False,
) -> None:
    """Show the app's log, or the build's."""
    output = Output(as_json=as_json)
    name = here(project)
    with signed_in() as api:
        found = (
            find_deployment(api, name, deployment, environment=None)
            if deployment
            else _newest(api, name, environment, build=build)
        )
        source = "build" if build else "app"
        if build:
            found = _where_built(api, output, found)
        after = _history(api, output, found, source, limit=limit)
        if not after:
            output.note(why_nothing(found, source))
        if follow:
            _follow(api, output, found, source, after=after, next_of=None if deployment or build else (name, environment))


def _newest(api: Api, project: str, environment: str, *, build: bool) -> Json:
    """What a person means by "the log": the newest build, or the app that serves."""
    status = api.get(f"{project_path(project)}/status", environment=environment)
    found = status["latest"] if build else status["live"] or status["latest"]
    if found is None:
        remedy = f"make one: {hints.command('deploy', project, environment)}"
        raise Missing(f"{project} has no deployment in {environment}", remedy=remedy)
    return dict(found)


def _where_built(api: Api, output: Output, deployment: Json) -> Json:
    """The deployment whose build made this one's artifact: itself, unless it was a rollback, a redeploy or a promotion."""
    found, seen = deployment, {deployment["id"]}
    while (origin := found.get("origin_deployment_id")) and origin not in seen:
        seen.add(origin)
        found = api.get(f"/v1/deployments/{origin}")
    if found is not deployment:
        output.note(f"— {_title(deployment)} runs what {_title(found)} built; this is that build's log —")
    return found


def why_nothing(deployment: Json, source: str) -> str:
    """Why a deployment's log is empty, and where else to look."""
    state, plan = deployment["state"], deployment.get("plan") or {}
    passed = {state, *(transition["to"] for transition in deployment["transitions"])}
    reason = f": {deployment['reason']}" if deployment.get("reason") else ""
    number = deployment.get("number") or deployment["id"]
    if source == "build":
        if state == "queued":
            return f"{_title(deployment)} has no build log yet: it waits for its turn (shipoff queue)"
        return f"{_title(deployment)} has no build log; it is {state}{reason}"
    if plan.get("mode") in ("static", "spa"):
        command = hints.command(f"logs --build --deployment {number}", deployment["project_name"])
        return f"a static site has no app log; its build's: {command}"
    if not passed & {"provisioning", "production"}:
        return f"{_title(deployment)} never started, so it has no app log; it is {state}{reason}"
    return f"the app of {_title(deployment)} has written nothing{'' if state in ('failed', 'inactive') else ' yet'}"


def _title(deployment: Json) -> str:
    return f"deployment #{deployment['number']}" if deployment.get("number") else f"deployment {deployment['id']}"


def _history(api: Api, output: Output, deployment: Json, source: str, *, limit: int) -> int:
    """Shows the last lines; returns the position of the last one there is."""
    page = api.get(f"/v1/deployments/{deployment['id']}/logs", source=source, tail=True, limit=max(limit, 1))
    for entry in page["items"][-limit:] if limit else []:
        output.log_entry(entry)
    return int(page["items"][-1]["position"]) if page["items"] else 0


def _follow(api: Api, output: Output, deployment: Json, source: str, *, after: int, next_of: tuple[str, str] | None) -> None:
    """Shows lines until the deployment ends, then goes over to the one that replaced it."""
    from shipoff.cli.follow import Wanted, follow

    while True:
        wanted = Wanted(deployment["id"], source=source, after=after, until_rest=source == "build")
        for message in follow(api, wanted):
            if message["type"] == "lines":
                for entry in message["entries"]:
                    output.log_entry(entry)
            elif message["type"] == "gap":
                output.note(f"… {message['count']} lines were left out here")
        successor = api.get(f"{project_path(next_of[0])}/status", environment=next_of[1])["live"] if next_of else None
        if successor is None or successor["id"] == deployment["id"]:
            return
        deployment, after = successor, 0
        output.note(f"— deployment #{deployment['number']} serves now —")
