"""The verbs that make or end a release: deploy, rollback, redeploy, promote, cancel."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from shipoff.cli import hints, names
from shipoff.cli.claiming import claimed, is_gone
from shipoff.cli.errors import Failure, Missing, UsageFailure
from shipoff.cli.output import Output, counted, duration, size
from shipoff.cli.verb import (
    PRODUCTION,
    DetachOption,
    EnvironmentOption,
    JsonOption,
    ProjectOption,
    here,
    project_path,
    signed_in,
    verb,
)

if TYPE_CHECKING:
    from shipoff.cli.client import Api, Json
    from shipoff.cli.packing import Archive

_CHUNK_BYTES = 256 << 10
_UNDER_WAY = ("queued", "building", "provisioning")
NumberArgument = Annotated[str | None, typer.Argument(metavar="[N]", help="A deployment's number; else the newest.")]


@verb
def deploy(
    path: Annotated[Path | None, typer.Argument(help="The folder to deploy; else this one.")] = None,
    git: Annotated[str | None, typer.Option("--git", metavar="URL", help="Deploy a repository instead.")] = None,
    ref: Annotated[str | None, typer.Option("--ref", help="With --git: a branch, tag or commit.")] = None,
    project: ProjectOption = None,
    environment: EnvironmentOption = PRODUCTION,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Build even what was built before, from scratch.")] = False,
    detach: DetachOption = False,
    as_json: JsonOption = False,
) -> None:
    """Deploy a folder or a repository, and watch it go live."""
    if git is not None and path is not None:
        raise UsageFailure("a PATH and --git cannot both be deployed", field="--git")
    if ref is not None and git is None:
        raise UsageFailure("--ref says what of a repository to deploy", field="--ref", remedy="add --git URL")
    if git is not None and not git.lower().startswith(("https://", "http://")):
        raise UsageFailure("a repository's URL begins with https:// or http://", field="--git")
    output = Output(as_json=as_json)
    folder = path or Path()
    if git is None and not folder.is_dir():
        raise UsageFailure(f"{folder} is no folder", field="PATH")
    name = _name(project, folder, git)
    wish = _Wish(name, environment, {"url": git, "ref": ref} if ref else {"url": git}, no_cache=no_cache)
    with signed_in() as api:
        with _packed(None if git is not None else folder, output) as archive:
            accepted = _accepted(api, output, wish, archive)
        from shipoff.cli.watch import wait

        wait(api, output, accepted, detach=detach)


@dataclass(frozen=True)
class _Wish:
    """What is to be deployed: `git` counts where there is no archive."""

    project: str
    environment: str
    git: Json
    no_cache: bool


@contextmanager
def _packed(folder: Path | None, output: Output) -> Iterator[Archive | None]:
    """The folder's archive, None without a folder."""
    if folder is None:
        yield None
        return
    from shipoff.cli.packing import pack

    started = time.monotonic()
    archive = pack(folder)
    with archive.content:
        for note in archive.notes:
            output.note(f"Note: {note}")
        files = counted(archive.files, "file")
        output.say(f"Packed {files} ({size(archive.content_bytes)}) in {duration(time.monotonic() - started)}")
        yield archive


def _accepted(api: Api, output: Output, wish: _Wish, archive: Archive | None) -> Json:
    """The accepted deployment. A project that is missing is made, and stays only if the deployment is accepted."""
    try:
        return _request(api, output, wish, archive)
    except Missing:
        if not is_gone(api, wish.project):
            raise
        # It was there: another first deployment had made it, was refused, and took it back.
        return _request(api, output, wish, archive)


def _request(api: Api, output: Output, wish: _Wish, archive: Archive | None) -> Json:
    with claimed(api, output, wish.project):
        source: Json = {"archive": {"digest": _upload(api, output, wish.project, archive)}} if archive else {"git": wish.git}
        body: Json = {"environment": wish.environment, "source": source} | ({"no_cache": True} if wish.no_cache else {})
        return api.post(f"{project_path(wish.project)}/deployments", body, keyed=True)


def _name(project: str | None, folder: Path, git: str | None) -> str:
    if git is None or project:
        return names.choose(project, folder)
    return names.written_name(folder) or names.repository_label(git) or names.choose(None, folder)


def _upload(api: Api, output: Output, name: str, archive: Archive) -> str:
    """Uploads the archive; returns its digest."""
    started = time.monotonic()
    archive.content.seek(0)
    chunks = _with_progress(archive.content, archive.size_bytes, show=not output.as_json and sys.stderr.isatty())
    stored = api.upload(f"{project_path(name)}/sources", chunks, archive.size_bytes)
    output.say(f"Uploaded {size(archive.size_bytes)} in {duration(time.monotonic() - started)}")
    if stored.get("digest") != archive.digest:
        raise Failure("the platform received something else than was sent", field="digest", remedy="try again")
    return archive.digest


def _with_progress(content: IO[bytes], size_bytes: int, *, show: bool) -> Iterator[bytes]:
    """The content in chunks, with a bar on standard error while they leave."""
    if not show:
        while chunk := content.read(_CHUNK_BYTES):
            yield chunk
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("Uploading"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=size_bytes)
        while chunk := content.read(_CHUNK_BYTES):
            yield chunk
            progress.advance(task, len(chunk))


def find_deployment(
    api: Api, project: str, number: str | None, *, environment: str | None, states: tuple[str, ...] = ()
) -> Json:
    """The deployment with this number or id, else the newest in one of the states. Raises Missing, UsageFailure."""
    from shipoff.cli.client import segment

    path = f"{project_path(project)}/deployments"
    if number is not None and not number.removeprefix("#").isdigit():
        return api.get(f"/v1/deployments/{segment(number)}")
    if number is not None:
        found = api.get(path, number=int(number.removeprefix("#")))["items"]
        if not found:
            raise Missing(f"{project} has no deployment {number}", field="N", remedy=_see_them(project))
        return dict(found[0])
    for deployment in api.items(path, environment=environment, limit=50):
        if not states or deployment["state"] in states:
            return deployment
    what = f" that is {' or '.join(states)}" if states else ""
    remedy = _see_them(project) if states else f"make one: {hints.command('deploy', project, environment or PRODUCTION)}"
    raise Missing(f"{project} has no deployment in {environment or 'any environment'}{what}", remedy=remedy)


def _see_them(project: str) -> str:
    return f"see its deployments: {hints.command('list --deployments', project)}"


@verb
def rollback(
    to: Annotated[
        str | None, typer.Option("--to", metavar="N", help="The deployment to go back to; else the one before.")
    ] = None,
    project: ProjectOption = None,
    environment: EnvironmentOption = PRODUCTION,
    detach: DetachOption = False,
    as_json: JsonOption = False,
) -> None:
    """Put an earlier deployment back into production, without building."""
    from shipoff.cli.watch import wait

    body: Json = {"environment": environment}
    if to is not None:
        target = to.removeprefix("#")
        body["to"] = int(target) if target.isdigit() else target
    with signed_in() as api:
        accepted = api.post(f"{project_path(here(project))}/rollback", body, keyed=True)
        wait(api, Output(as_json=as_json), accepted, detach=detach)


@verb
def redeploy(
    number: NumberArgument = None,
    current_env: Annotated[bool, typer.Option("--current-env", help="With today's variables, not those of back then.")] = False,
    project: ProjectOption = None,
    environment: EnvironmentOption = PRODUCTION,
    detach: DetachOption = False,
    as_json: JsonOption = False,
) -> None:
    """Deploy the same artifact again, without building."""
    from shipoff.cli.watch import wait

    with signed_in() as api:
        name = here(project)
        deployment = find_deployment(api, name, number, environment=environment) if number else _live(api, name, environment)
        body = {"current_configuration": current_env}
        accepted = api.post(f"/v1/deployments/{deployment['id']}/redeploy", body, keyed=True)
        wait(api, Output(as_json=as_json), accepted, detach=detach)


def _live(api: Api, project: str, environment: str) -> Json:
    live = api.get(f"{project_path(project)}/status", environment=environment)["live"]
    if live is None:
        deploy_it = hints.command("deploy", project, environment)
        remedy = f"name a deployment's number ({_see_them(project)}), or deploy: {deploy_it}"
        raise Missing(f"nothing of {project} is live in {environment}", remedy=remedy)
    return dict(live)


@verb
def promote(
    number: Annotated[
        str | None, typer.Argument(metavar="[N]", help="A deployment's number; else what is live in --from.")
    ] = None,
    source: Annotated[str | None, typer.Option("--from", help="The environment whose live deployment is promoted.")] = None,
    environment: Annotated[str, typer.Option("--to", "--environment", "-e", help="The environment it goes to.")] = PRODUCTION,
    project: ProjectOption = None,
    detach: DetachOption = False,
    as_json: JsonOption = False,
) -> None:
    """Put another environment's artifact into production, without building."""
    from shipoff.cli.watch import wait

    if (number is None) == (source is None):
        raise UsageFailure("say what to promote: a deployment's number, or --from ENVIRONMENT", field="--from")
    with signed_in() as api:
        name = here(project)
        deployment = _live(api, name, source) if source else find_deployment(api, name, number, environment=None)
        accepted = api.post(f"/v1/deployments/{deployment['id']}/promote", {"environment": environment}, keyed=True)
        wait(api, Output(as_json=as_json), accepted, detach=detach)


@verb
def cancel(
    number: Annotated[str | None, typer.Argument(metavar="[N]", help="A deployment's number; else the one under way.")] = None,
    project: ProjectOption = None,
    environment: EnvironmentOption = PRODUCTION,
    as_json: JsonOption = False,
) -> None:
    """Stop a deployment that is not live yet."""
    output = Output(as_json=as_json)
    with signed_in() as api:
        deployment = find_deployment(api, here(project), number, environment=environment, states=() if number else _UNDER_WAY)
        cancelled = api.post(f"/v1/deployments/{deployment['id']}/cancel")
    output.data(cancelled)
    output.say(f"Deployment {'#' + str(deployment['number']) if deployment.get('number') else deployment['id']} is cancelled")
