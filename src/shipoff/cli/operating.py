"""The verbs about the instances of what is live: restart, pause, resume."""

from __future__ import annotations

from shipoff.cli import hints
from shipoff.cli.output import Output
from shipoff.cli.verb import PRODUCTION, EnvironmentOption, JsonOption, ProjectOption, here, project_path, signed_in, verb


@verb
def restart(project: ProjectOption = None, environment: EnvironmentOption = PRODUCTION, as_json: JsonOption = False) -> None:
    """Replace every instance of what is live, one after the other."""
    name = _post("restart", project, environment, Output(as_json=as_json))
    Output(as_json=as_json).say(f"{name} · {environment}: its instances are replaced one after the other (shipoff status)")


@verb
def pause(project: ProjectOption = None, environment: EnvironmentOption = PRODUCTION, as_json: JsonOption = False) -> None:
    """Stop every instance until it is resumed or deployed anew; the address says so meanwhile."""
    name = _post("pause", project, environment, Output(as_json=as_json))
    Output(as_json=as_json).say(f"{name} · {environment} is paused. Back again: {hints.command('resume', name, environment)}")


@verb
def resume(project: ProjectOption = None, environment: EnvironmentOption = PRODUCTION, as_json: JsonOption = False) -> None:
    """Start the instances of what was paused."""
    name = _post("resume", project, environment, Output(as_json=as_json))
    Output(as_json=as_json).say(f"{name} · {environment}: its instances start (shipoff status)")


def _post(action: str, project: str | None, environment: str, output: Output) -> str:
    name = here(project)
    with signed_in() as api:
        output.data(api.post(f"{project_path(name)}/{action}", {"environment": environment}))
    return name
