"""The use cases that lead to a deployment: uploads, requests and webhook deliveries. Called by server.py."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from shipoff.common.errors import Exhausted, InvalidInput, NotFound, ShipoffError
from shipoff.common.ids import new_id
from shipoff.common.sealing import Sealer
from shipoff.project import github
from shipoff.project.domain import (
    PRODUCTION,
    ArchiveSource,
    DeploymentRequest,
    GitSource,
    Project,
    Source,
    Trigger,
    hosts,
)
from shipoff.project.handlers import Rules, in_environment, live_project, snapshot
from shipoff.project.ports import Archives, Store, Work
from shipoff.project.repositories import branch_of, check_ref, check_url

GITHUB = "github"
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Wish:
    """A deployment that somebody asks for."""

    project_id: str
    environment: str
    source: Source
    requested_by: str = ""
    idempotency_key: str = ""
    # It is built even where the same was built before.
    no_cache: bool = False


@dataclass(frozen=True)
class _Facts:
    """What is known of a source beyond itself."""

    source: Source
    trigger: Trigger
    requested_by: str
    branch: str = ""
    commit_message: str = ""
    no_cache: bool = False


class Uploads:
    """Takes archives in."""

    def __init__(self, store: Store, archives: Archives, *, most_bytes: int) -> None:
        self._store = store
        self._archives = archives
        self._most_bytes = most_bytes

    async def upload(self, project_id: str, chunks: AsyncIterator[bytes]) -> ArchiveSource:
        """Stores an archive under its digest and records it for this project. What fails leaves nothing behind.

        Raises NotFound, InvalidInput when it is no gzip file, Exhausted when it is too large.
        """
        async with self._store.work() as work:
            await live_project(work, project_id)
        incoming = f"sources/{project_id}/incoming-{new_id()}"
        digest, size_bytes = await self._stored(incoming, chunks)
        key = f"sources/{project_id}/{digest.removeprefix('sha256:')}.tar.gz"
        archive = ArchiveSource(digest, key, size_bytes)
        try:
            async with self._store.work() as work:
                await live_project(work, project_id)
                # Before the move: a sweep that removes the same archive is over once the record is ours.
                await work.add_archive(project_id, archive)
                await self._archives.move(incoming, key)
        except BaseException:
            await self._archives.delete(incoming)
            raise
        return archive

    async def _stored(self, key: str, chunks: AsyncIterator[bytes]) -> tuple[str, int]:
        refusal: list[ShipoffError] = []

        async def checked() -> AsyncIterator[bytes]:
            try:
                async for chunk in _capped(chunks, self._most_bytes):
                    yield chunk
            except ShipoffError as error:
                refusal.append(error)
                raise

        try:
            return await self._archives.put_stream(key, checked())
        except Exception as error:
            # The object store wraps what its input raises.
            raise (refusal[0] if refusal else error) from error


async def _capped(chunks: AsyncIterator[bytes], most_bytes: int) -> AsyncIterator[bytes]:
    """The chunks. Raises InvalidInput unless they begin as gzip does (RFC 1952), Exhausted beyond the limit."""
    head, size = b"", 0
    async for chunk in chunks:
        if len(head) < len(_GZIP):
            head += chunk[: len(_GZIP) - len(head)]
            if not _GZIP.startswith(head):
                break
        size += len(chunk)
        if size > most_bytes:
            raise Exhausted(
                f"the archive is larger than {most_bytes} bytes",
                retry_after_s=3600.0,
                field="source",
                remedy="leave out what the build does not need, with .shipoffignore",
            )
        yield chunk
    if head != _GZIP:
        raise InvalidInput("the archive is not a gzip file", field="source", remedy="send a .tar.gz")


class Deployments:
    """Accepts deployments: request, configuration snapshot and event in one transaction."""

    def __init__(self, store: Store, sealer: Sealer, rules: Rules) -> None:
        self._store = store
        self._sealer = sealer
        self._rules = rules

    async def request(self, wish: Wish) -> str:
        """The deployment's id; the same one for the same key.

        Raises NotFound for a project that is not there or was deleted, or an archive that was not uploaded for it;
        InvalidInput naming the field.
        """
        async with self._store.work() as work:
            project = await live_project(work, wish.project_id)
            known = wish.idempotency_key and await work.deployment_of_key(project.id, wish.idempotency_key)
            if known:
                return known
            facts = await self._checked(work, project, wish)
            return await self._accept(work, project, wish.environment, facts, key=wish.idempotency_key)

    async def _checked(self, work: Work, project: Project, wish: Wish) -> _Facts:
        if isinstance(wish.source, ArchiveSource):
            archive = await work.archive(project.id, wish.source.digest)
            if archive is None:
                raise NotFound(
                    f"no archive {wish.source.digest} was uploaded for this project",
                    field="source.archive.digest",
                    remedy="upload it first",
                )
            return _Facts(archive, Trigger.UPLOAD, wish.requested_by, no_cache=wish.no_cache)
        url = check_url(wish.source.url, field="source.git.url", allowed=self._rules.allowed_hosts)
        ref = check_ref(wish.source.ref, field="source.git.ref") if wish.source.ref else ""
        source = GitSource(url, ref, wish.source.commit)
        return _Facts(source, Trigger.GIT, wish.requested_by, branch=branch_of(ref), no_cache=wish.no_cache)

    async def _accept(self, work: Work, project: Project, environment: str, facts: _Facts, *, key: str = "") -> str:
        project = await in_environment(work, project, environment)
        request = DeploymentRequest(
            deployment_id=new_id(),
            project_id=project.id,
            project_name=project.name,
            team_id=project.team_id,
            environment=environment,
            hosts=hosts(project.name, environment, self._rules.base_domain),
            source=facts.source,
            trigger=facts.trigger,
            requested_by=facts.requested_by,
            configuration=await snapshot(work, self._sealer, project, environment),
            requested_at=await work.now(),
            branch=facts.branch,
            commit_message=facts.commit_message,
            no_cache=facts.no_cache,
        )
        await work.accept(request, idempotency_key=key)
        return request.deployment_id

    async def find(self, deployment_id: str) -> DeploymentRequest:
        """Raises NotFound."""
        request = await self._store.request(deployment_id)
        if request is None:
            raise NotFound(f"there is no deployment {deployment_id}")
        return request

    async def accept_push(self, work: Work, project: Project, push: github.Push) -> str:
        """The id of the deployment that a push to what this (locked) project follows leads to."""
        return await self._accept(work, project, PRODUCTION, _facts_of(push, project))


def _facts_of(push: github.Push, project: Project) -> _Facts:
    """The project's own URL is cloned, never one that a payload names."""
    assert project.repository is not None  # it was found by its repository
    return _Facts(
        GitSource(project.repository.url, push.branch, push.commit),
        Trigger.WEBHOOK,
        f"{GITHUB}:{push.login}",
        branch=push.branch,
        commit_message=push.message,
    )
