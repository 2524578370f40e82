"""What project needs from outside: a store whose unit of work is one transaction, and a place for archives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from shipoff.project.domain import ArchiveSource, Delivery, DeploymentRequest, Project, Variable
from shipoff.project.github import Position


class Work(Protocol):
    """One transaction: everything done through it happens, or nothing."""

    async def now(self) -> datetime:
        """The transaction's time, by the database's clock."""

    async def insert_project(self, project: Project) -> bool:
        """Adds it without environments; False when the name is taken."""

    async def project(self, project_id: str) -> Project | None:
        """A live project, locked until the transaction ends."""

    async def prepare(self, repository_keys: Collection[str], environment: str) -> None:
        """Reads the live projects that follow these repositories, locked in one order, their variables and what was pushed.

        For `following` and `position`, which know no others.
        """

    async def following(self, repository_key: str) -> Sequence[Project]:
        """The projects that follow a prepared repository."""

    async def save_project(self, project: Project) -> None:
        """Writes settings, repository and configuration version. Forgets what was pushed where the repository is another."""

    async def delete_project(self, project: Project, *, deleted_by: str) -> None:
        """Marks it deleted, frees name and hosts, removes its variables, emits ProjectDeleted."""

    async def add_environment(self, project_id: str, environment: str, *, label: str) -> bool:
        """False when another project has the host label."""

    async def newest_variables(self, project_id: str, environment: str) -> Sequence[Variable]:
        """The newest version of every variable ever set, by name, those that were unset included."""

    async def add_variables(self, project_id: str, environment: str, variables: Sequence[Variable]) -> None: ...

    async def archive(self, project_id: str, digest: str) -> ArchiveSource | None:
        """An archive that was uploaded for this very project; notes the use."""

    async def add_archive(self, project_id: str, archive: ArchiveSource) -> None:
        """Records it and notes the use; waits for a sweep that is removing the same one."""

    async def take_stale_archives(self, kept_days: int, *, limit: int) -> Sequence[str]:
        """Deletes the records of archives unused for so long, locked until the transaction ends; their object keys."""

    async def deployment_of_key(self, project_id: str, idempotency_key: str) -> str | None:
        """The deployment that a key has led to."""

    async def accept(self, request: DeploymentRequest, *, idempotency_key: str) -> None:
        """Records the request and emits DeploymentRequested."""

    async def has_request(self, project_id: str) -> bool:
        """Whether a deployment of it was ever accepted."""

    async def begin_deliveries(self, provider: str, events: Mapping[str, str]) -> Collection[str]:
        """Records these, by id, with their events: those that are new. Waits for a transaction that is at one of them."""

    async def end_delivery(self, provider: str, delivery_id: str, outcome: Delivery) -> None: ...

    async def deliveries(self, provider: str, delivery_ids: Collection[str]) -> Mapping[str, Delivery]:
        """What these have led to."""

    async def position(self, project_id: str, environment: str, branch: str) -> Position | None: ...

    async def set_position(self, project_id: str, environment: str, branch: str, position: Position) -> None: ...


class Store(Protocol):
    def work(self) -> AbstractAsyncContextManager[Work]:
        """A transaction; committed when the block ends. Raises TemporaryError when the database is away."""

    async def find_project(self, id_or_name: str) -> Project | None:
        """A live project, not locked."""

    async def list_projects(self, team_ids: Sequence[str], *, after: str, limit: int) -> Sequence[Project]:
        """Live projects of these teams by name, those after `after`."""

    async def request(self, deployment_id: str) -> DeploymentRequest | None:
        """What was accepted under this id."""


class Archives(Protocol):
    """Where uploads lie: shipoff.common.objects.ObjectStore."""

    async def put_stream(self, key: str, chunks: AsyncIterator[bytes]) -> tuple[str, int]: ...

    async def move(self, source: str, target: str) -> None: ...

    async def delete(self, key: str) -> None: ...
