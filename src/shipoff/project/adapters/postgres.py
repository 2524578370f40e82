"""Project's store in PostgreSQL. Times are the database's own."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from shipoff.common.outbox import INSERTION, Outbox
from shipoff.common.postgres import Database, Part, Row, Transaction, arrays, unnested
from shipoff.common.streams import DEPLOYMENT_QUEUE, envelope
from shipoff.contracts.events.v1 import events_pb2
from shipoff.project import messages
from shipoff.project.domain import (
    ArchiveSource,
    BuildSettings,
    Delivery,
    DeploymentRequest,
    Project,
    Repository,
    RunSettings,
    Variable,
)
from shipoff.project.github import Position
from shipoff.project.repositories import repository_key

_ID = "cast(:project_id AS uuid)"
_IN_ENVIRONMENT = f"project_id = {_ID} AND environment = :environment"
_SELECT = (
    "SELECT p.id::text, p.team_id::text, p.name, p.build::text, p.run::text, p.repository_url, p.repository_branch, p.data_key,"
    " p.configuration_version, p.created_at,"
    " (SELECT array_agg(e.name ORDER BY e.created_at, e.name) FROM environments e WHERE e.project_id = p.id) AS environments"
    " FROM projects p WHERE p.deleted_at IS NULL"
)
_INSERT_PROJECT = sa.text(
    "INSERT INTO projects (id, team_id, name, build, run, repository_url, repository_branch, repository_key, data_key,"
    " configuration_version) VALUES (cast(:project_id AS uuid), cast(:team_id AS uuid), :name, cast(:build AS jsonb),"
    " cast(:run AS jsonb), :repository_url, :repository_branch, :repository_key, :data_key, :configuration_version)"
    " ON CONFLICT (name) WHERE deleted_at IS NULL DO NOTHING"
)
# Locked in a statement of its own: the one that reads then sees what the transaction it waited for has written.
_LOCK = sa.text(f"SELECT 1 FROM projects WHERE id = {_ID} AND deleted_at IS NULL FOR NO KEY UPDATE")
# The key is compared with '' for the planner, which may use the index of those that follow one only where it knows that.
_LOCK_FOLLOWING = sa.text(
    "SELECT id::text FROM projects WHERE repository_key = ANY(:keys) AND repository_key <> '' AND deleted_at IS NULL"
    " ORDER BY id FOR NO KEY UPDATE"
)
_BY_ID = sa.text(f"{_SELECT} AND p.id = {_ID}")
_BY_NAME = sa.text(f"{_SELECT} AND p.name = :name")
# With their newest variables and pushes in an environment: rows of three kinds, each with the others' columns empty.
_WITH_SETTINGS = sa.text(
    f"WITH live AS ({_SELECT} AND p.id = ANY(cast(:ids AS uuid[]))),"
    " newest AS (SELECT DISTINCT ON (project_id, name) project_id::text AS variable_of, name AS variable, version, sealed,"
    "  changed_by, changed_at FROM variables WHERE project_id = ANY(cast(:ids AS uuid[])) AND environment = :environment"
    "  ORDER BY project_id, name, version DESC),"
    " pushed AS (SELECT project_id::text AS push_of, branch, pushed_at, commit, before FROM pushes"
    "  WHERE project_id = ANY(cast(:ids AS uuid[])) AND environment = :environment)"
    " SELECT * FROM live FULL JOIN newest ON false FULL JOIN pushed ON false ORDER BY id, variable_of, variable"
)
_PAGE = sa.text(f"{_SELECT} AND p.team_id = ANY(cast(:team_ids AS uuid[])) AND p.name > :after ORDER BY p.name LIMIT :limit")
_FORGET_PUSHES = sa.text(
    f"DELETE FROM pushes WHERE project_id = {_ID} AND (SELECT repository_key FROM projects WHERE id = {_ID}) <> :repository_key"
)
_SAVE = sa.text(
    "UPDATE projects SET build = cast(:build AS jsonb), run = cast(:run AS jsonb), repository_url = :repository_url,"
    " repository_branch = :repository_branch, repository_key = :repository_key,"
    f" configuration_version = :configuration_version WHERE id = {_ID}"
)
_DELETE = sa.text(f"UPDATE projects SET deleted_at = now(), deleted_by = :deleted_by WHERE id = {_ID}")
_FREE_HOSTS = sa.text(f"DELETE FROM environments WHERE project_id = {_ID}")
_DROP_VARIABLES = sa.text(f"DELETE FROM variables WHERE project_id = {_ID}")
_ADD_ENVIRONMENT = sa.text(
    f"INSERT INTO environments (project_id, name, label) VALUES ({_ID}, :name, :label) ON CONFLICT (label) DO NOTHING"
)
_NEWEST = sa.text(
    "SELECT DISTINCT ON (name) name, version, sealed, changed_by, changed_at FROM variables"
    f" WHERE {_IN_ENVIRONMENT} ORDER BY name, version DESC"
)
_ADD_VARIABLE = sa.text(
    "INSERT INTO variables (project_id, environment, name, version, sealed, changed_by)"
    f" VALUES ({_ID}, :environment, :name, :version, :sealed, :changed_by)"
)
_USE_ARCHIVE = sa.text(
    f"UPDATE sources SET used_at = now() WHERE project_id = {_ID} AND digest = :digest RETURNING digest, object_key, size_bytes"
)
_ADD_ARCHIVE = sa.text(
    f"INSERT INTO sources (project_id, digest, object_key, size_bytes) VALUES ({_ID}, :digest, :object_key, :size_bytes)"
    " ON CONFLICT (project_id, digest) DO UPDATE SET used_at = now()"
)
_TAKE_STALE = sa.text(
    "DELETE FROM sources WHERE (project_id, digest) IN (SELECT project_id, digest FROM sources"
    " WHERE used_at < now() - make_interval(days => cast(:kept_days AS integer))"
    " ORDER BY used_at LIMIT :limit FOR UPDATE SKIP LOCKED) RETURNING object_key"
)
_OF_KEY = sa.text(f"SELECT deployment_id::text FROM deployment_requests WHERE project_id = {_ID} AND idempotency_key = :key")
_ACCEPTED = {
    "deployment_id": "uuid",
    "project_id": "uuid",
    "environment": "text",
    "idempotency_key": "text",
    "request": "bytea",
}
_ACCEPT = sa.text(
    f"INSERT INTO deployment_requests ({', '.join(_ACCEPTED)}) SELECT {', '.join(_ACCEPTED)} FROM {unnested(_ACCEPTED)}"
)
_REQUEST = sa.text("SELECT request FROM deployment_requests WHERE deployment_id = cast(:deployment_id AS uuid)")
_HAS_REQUEST = sa.text("SELECT EXISTS (SELECT FROM deployment_requests WHERE project_id = cast(:project_id AS uuid))")
_BEGUN = {"delivery_id": "text", "event": "text"}
# In one order, as whatever is locked for many here: those who do the same wait for each other and never crosswise.
_BEGIN_DELIVERIES = sa.text(
    f"INSERT INTO deliveries (provider, delivery_id, event) SELECT :provider, delivery_id, event FROM {unnested(_BEGUN)}"
    " ORDER BY delivery_id ON CONFLICT DO NOTHING RETURNING delivery_id, received_at"
)
_ENDED = {"delivery_id": "text", "deployment_ids": "text", "ignored_because": "text"}
_END_DELIVERIES = sa.text(
    "UPDATE deliveries AS d SET deployment_ids = cast(string_to_array(given.deployment_ids, ',') AS uuid[]),"
    f" ignored_because = given.ignored_because FROM {unnested(_ENDED)}"
    " WHERE d.provider = :provider AND d.delivery_id = given.delivery_id"
)
_DELIVERIES = sa.text(
    "SELECT delivery_id, deployment_ids::text[] AS deployment_ids, ignored_because FROM deliveries"
    " WHERE provider = :provider AND delivery_id = ANY(:delivery_ids)"
)
_PUSHED = {
    "project_id": "uuid",
    "environment": "text",
    "branch": "text",
    "pushed_at": "timestamptz",
    "commit": "text",
    "before": "text",
}
_SET_POSITIONS = sa.text(
    f"INSERT INTO pushes ({', '.join(_PUSHED)}) SELECT {', '.join(_PUSHED)} FROM {unnested(_PUSHED)}"
    " ON CONFLICT (project_id, environment, branch)"
    " DO UPDATE SET pushed_at = excluded.pushed_at, commit = excluded.commit, before = excluded.before"
)
_NOW = sa.text("SELECT now()")


class PostgresStore:
    """Implements shipoff.project.ports.Store."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox

    @asynccontextmanager
    async def work(self) -> AsyncIterator[PostgresWork]:
        async with self._database.transaction() as tx:
            work = PostgresWork(tx, self._outbox)
            yield work
            await work.complete()

    async def find_project(self, id_or_name: str) -> Project | None:
        if _is_id(id_or_name):
            return _project_or_none(await self._database.one_or_none(_BY_ID, {"project_id": id_or_name}))
        return _project_or_none(await self._database.one_or_none(_BY_NAME, {"name": id_or_name.replace("\0", "")}))

    async def list_projects(self, team_ids: Sequence[str], *, after: str, limit: int) -> Sequence[Project]:
        page = {"team_ids": list(team_ids), "after": after.replace("\0", ""), "limit": limit}
        return [_project(row) for row in await self._database.all(_PAGE, page)]

    async def request(self, deployment_id: str) -> DeploymentRequest | None:
        row = await self._database.one_or_none(_REQUEST, {"deployment_id": deployment_id})
        return messages.request(events_pb2.DeploymentRequested.FromString(row["request"])) if row else None


class PostgresWork:
    """Implements shipoff.project.ports.Work. What was accepted and what deliveries led to is written together, at its end."""

    def __init__(self, tx: Transaction, outbox: Outbox) -> None:
        self._tx = tx
        self._outbox = outbox
        self._now: datetime | None = None
        self._accepted: list[dict[str, Any]] = []
        self._events: list[events_pb2.Envelope] = []
        self._ended: dict[str, list[dict[str, Any]]] = defaultdict(list)
        # What `prepare` has read: by the repository, the project and its branch, the project.
        self._followers: dict[str, list[Project]] = defaultdict(list)
        self._positions: dict[tuple[str, str, str], Position] = {}
        self._moved: set[tuple[str, str, str]] = set()
        self._variables: dict[tuple[str, str], list[Variable]] = {}

    async def complete(self) -> None:
        """Writes what is left to be written, by one statement: the transaction's last act."""
        parts, leaving = [], self._outbox.leaving(DEPLOYMENT_QUEUE, self._events) if self._events else None
        if self._moved:
            names = ("project_id", "environment", "branch")
            moved = [dict(zip(names, key, strict=True)) | asdict(self._positions[key]) for key in sorted(self._moved)]
            parts.append(Part("moved", _SET_POSITIONS, arrays(_PUSHED, moved)))
        if self._accepted:
            parts.append(Part("accepted", _ACCEPT, arrays(_ACCEPTED, self._accepted)))
        for provider, ended in self._ended.items():
            parts.append(Part(f"ended_{provider}", _END_DELIVERIES, arrays(_ENDED, ended) | {"provider": provider}))
        if leaving:
            parts.append(Part("emitted", sa.text(INSERTION), leaving.values, "array_agg(position)"))
        if parts:
            answer = await self._tx.together(parts)
            if leaving:
                self._outbox.written(self._tx, leaving, answer["emitted"])

    async def now(self) -> datetime:
        if self._now is None:
            self._now = await self._tx.scalar(_NOW)
        assert self._now is not None
        return self._now

    async def prepare(self, repository_keys: Collection[str], environment: str) -> None:
        if not repository_keys:
            return
        locked = await self._tx.all(_LOCK_FOLLOWING, {"keys": sorted(repository_keys)})
        ids = [row["id"] for row in locked]
        if not ids:
            return
        for row in await self._tx.all(_WITH_SETTINGS, {"ids": ids, "environment": environment}):
            if row["id"]:
                project = _project(row)
                self._followers[repository_key(project.repository.url) if project.repository else ""].append(project)
                self._variables.setdefault((project.id, environment), [])
            elif row["variable_of"]:
                values = {name: row[name] for name in ("version", "sealed", "changed_by", "changed_at")}
                variable = Variable(row["variable"], **values)
                self._variables.setdefault((row["variable_of"], environment), []).append(variable)
            else:
                position = Position(row["pushed_at"], row["commit"], row["before"])
                self._positions[row["push_of"], environment, row["branch"]] = position

    async def insert_project(self, project: Project) -> bool:
        row = {**_written(project), "team_id": project.team_id, "name": project.name, "data_key": project.data_key}
        return await self._tx.execute(_INSERT_PROJECT, row) == 1

    async def project(self, project_id: str) -> Project | None:
        if not await self._tx.scalar(_LOCK, {"project_id": project_id}):
            return None
        return _project_or_none(await self._tx.one_or_none(_BY_ID, {"project_id": project_id}))

    async def following(self, repository_key: str) -> Sequence[Project]:
        return self._followers.get(repository_key, ())

    async def save_project(self, project: Project) -> None:
        row = _written(project)
        await self._tx.execute(_FORGET_PUSHES, {name: row[name] for name in ("project_id", "repository_key")})
        await self._tx.execute(_SAVE, row)

    async def delete_project(self, project: Project, *, deleted_by: str) -> None:
        await self._tx.execute(_DELETE, {"project_id": project.id, "deleted_by": deleted_by})
        for statement in (_FREE_HOSTS, _DROP_VARIABLES):
            await self._tx.execute(statement, {"project_id": project.id})
        event = events_pb2.ProjectDeleted(project_id=project.id, team_id=project.team_id, deleted_by=deleted_by)
        await self._outbox.emit(self._tx, DEPLOYMENT_QUEUE, event, tenant_id=project.team_id)

    async def add_environment(self, project_id: str, environment: str, *, label: str) -> bool:
        row = {"project_id": project_id, "name": environment, "label": label}
        return await self._tx.execute(_ADD_ENVIRONMENT, row) == 1

    async def newest_variables(self, project_id: str, environment: str) -> Sequence[Variable]:
        if (project_id, environment) in self._variables:
            return self._variables[project_id, environment]
        rows = await self._tx.all(_NEWEST, {"project_id": project_id, "environment": environment})
        return [Variable(**row) for row in rows]

    async def add_variables(self, project_id: str, environment: str, variables: Sequence[Variable]) -> None:
        rows = [
            {
                "project_id": project_id,
                "environment": environment,
                "name": variable.name,
                "version": variable.version,
                "sealed": variable.sealed,
                "changed_by": variable.changed_by,
            }
            for variable in variables
        ]
        await self._tx.execute(_ADD_VARIABLE, rows)

    async def archive(self, project_id: str, digest: str) -> ArchiveSource | None:
        row = await self._tx.one_or_none(_USE_ARCHIVE, {"project_id": project_id, "digest": digest})
        return ArchiveSource(**row) if row else None

    async def add_archive(self, project_id: str, archive: ArchiveSource) -> None:
        await self._tx.execute(_ADD_ARCHIVE, {"project_id": project_id, **asdict(archive)})

    async def take_stale_archives(self, kept_days: int, *, limit: int) -> Sequence[str]:
        rows = await self._tx.all(_TAKE_STALE, {"kept_days": kept_days, "limit": limit})
        return [row["object_key"] for row in rows]

    async def deployment_of_key(self, project_id: str, idempotency_key: str) -> str | None:
        found: str | None = await self._tx.scalar(_OF_KEY, {"project_id": project_id, "key": idempotency_key})
        return found

    async def accept(self, request: DeploymentRequest, *, idempotency_key: str) -> None:
        event = messages.request_message(request)
        row = {
            "deployment_id": request.deployment_id,
            "project_id": request.project_id,
            "environment": request.environment,
            "idempotency_key": idempotency_key or None,
            "request": event.SerializeToString(),
        }
        self._accepted.append(row)
        self._events.append(envelope(event, tenant_id=request.team_id))

    async def has_request(self, project_id: str) -> bool:
        return bool(await self._tx.scalar(_HAS_REQUEST, {"project_id": project_id}))

    async def begin_deliveries(self, provider: str, events: Mapping[str, str]) -> Collection[str]:
        begun = {"provider": provider, "delivery_id": list(events), "event": list(events.values())}
        new = await self._tx.all(_BEGIN_DELIVERIES, begun)
        # The transaction's time, which all of them have.
        self._now = next((row["received_at"] for row in new), None)
        return {row["delivery_id"] for row in new}

    async def end_delivery(self, provider: str, delivery_id: str, outcome: Delivery) -> None:
        ids = ",".join(outcome.deployment_ids)
        ended = {"delivery_id": delivery_id, "deployment_ids": ids, "ignored_because": outcome.ignored_because}
        self._ended[provider].append(ended)

    async def deliveries(self, provider: str, delivery_ids: Collection[str]) -> Mapping[str, Delivery]:
        if not delivery_ids:
            return {}
        rows = await self._tx.all(_DELIVERIES, {"provider": provider, "delivery_ids": list(delivery_ids)})
        return {row["delivery_id"]: Delivery(tuple(row["deployment_ids"]), row["ignored_because"]) for row in rows}

    async def position(self, project_id: str, environment: str, branch: str) -> Position | None:
        return self._positions.get((project_id, environment, branch))

    async def set_position(self, project_id: str, environment: str, branch: str, position: Position) -> None:
        self._positions[project_id, environment, branch] = position
        self._moved.add((project_id, environment, branch))


def _written(project: Project) -> dict[str, Any]:
    repository = project.repository
    return {
        "project_id": project.id,
        "build": json.dumps(asdict(project.build)),
        "run": json.dumps(asdict(project.run)),
        "repository_url": repository.url if repository else "",
        "repository_branch": repository.branch if repository else "",
        "repository_key": repository_key(repository.url) if repository else "",
        "configuration_version": project.configuration_version,
    }


def _project_or_none(row: Row | None) -> Project | None:
    return _project(row) if row else None


def _project(row: Row) -> Project:
    return Project(
        id=row["id"],
        team_id=row["team_id"],
        name=row["name"],
        build=BuildSettings(**json.loads(row["build"])),
        run=RunSettings(**json.loads(row["run"])),
        repository=Repository(row["repository_url"], row["repository_branch"]) if row["repository_url"] else None,
        data_key=row["data_key"],
        configuration_version=row["configuration_version"],
        environments=tuple(row["environments"] or ()),
        created_at=row["created_at"],
    )


def _is_id(text: str) -> bool:
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False
