"""The project of a deployment: made with its first one, and gone again when that is not accepted. Called by releases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from shipoff.cli.errors import Failure, Missing
from shipoff.cli.verb import project_path

if TYPE_CHECKING:
    from shipoff.cli.client import Api, Json
    from shipoff.cli.output import Output


def ensure_project(api: Api, output: Output, name: str, *, team: str | None = None) -> tuple[Json, bool]:
    """The project, and whether it was made for this."""
    try:
        return api.get(project_path(name)), False
    except Missing:
        project = api.post("/v1/projects", {"name": name, "team_id": team} if team else {"name": name})
        output.say(f"Created project {name}")
        return project, True


@contextmanager
def claimed(api: Api, output: Output, name: str) -> Iterator[None]:
    """The project is there for the block, which gets a deployment accepted. One made for it goes again when that fails."""
    project, made = ensure_project(api, output, name)
    try:
        yield
    except BaseException:
        if made:
            _take_back(api, output, project)
        raise


def _take_back(api: Api, output: Output, project: Json) -> None:
    """Removes it, unless somebody has deployed or set it up in the meantime: the platform decides that, not this program."""
    try:
        api.delete(project_path(project["id"]), only_unused=True)
    except Failure:
        return  # what the deployment failed with is worth more than a second error
    output.note(f"Project {project['name']} was made for this deployment and is removed again")


def is_gone(api: Api, name: str) -> bool:
    """Whether there is no such project (any more)."""
    try:
        api.get(project_path(name))
    except Missing:
        return True
    return False
