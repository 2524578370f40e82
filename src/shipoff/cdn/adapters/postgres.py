"""The routing table and the register of releases in PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import sqlalchemy as sa

from shipoff.cdn.domain import Endpoint, ProxyTarget, Release, Route, Standing, StaticTarget
from shipoff.common.errors import AlreadyExists
from shipoff.common.postgres import Database, Row, Transaction

_EDGE_LOCK = 7_305_802_201

_LOCK_ALONE = sa.text("SELECT pg_advisory_xact_lock(:key)")
_LOCK_PLACE = sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:place, 0))")
_COLUMNS = """
    SELECT project_id, environment, deployment_id, fence, target,
           (SELECT array_agg(host) FROM hosts h WHERE (h.project_id, h.environment) = (r.project_id, r.environment)) AS hosts
    FROM routes r"""
_ROUTES = sa.text(f"{_COLUMNS} ORDER BY project_id, environment")
_OF_PROJECT = sa.text(f"{_COLUMNS} WHERE project_id = :project ORDER BY environment")
_OF_PLACE = sa.text(f"{_COLUMNS} WHERE project_id = :project AND environment = :environment")
_STORE = sa.text("""
    INSERT INTO routes (project_id, environment, deployment_id, fence, target)
    VALUES (:project, :environment, :deployment, :fence, CAST(:target AS jsonb))
    ON CONFLICT (project_id, environment) DO UPDATE SET deployment_id = excluded.deployment_id, fence = excluded.fence,
        target = excluded.target, changed_at = now()""")
_DROP_HOSTS = sa.text("""
    DELETE FROM hosts WHERE project_id = :project AND environment = :environment
        AND NOT host = ANY(CAST(:hosts AS text[]))""")
_ADD_HOSTS = sa.text("""
    INSERT INTO hosts (host, project_id, environment) SELECT host, CAST(:project AS uuid), :environment
    FROM unnest(CAST(:hosts AS text[])) AS given (host) ORDER BY host
    ON CONFLICT (host) DO NOTHING""")
_OTHERS = sa.text("""
    SELECT host FROM hosts
    WHERE host = ANY(CAST(:hosts AS text[])) AND (project_id, environment) <> (CAST(:project AS uuid), :environment)
    ORDER BY host LIMIT 1""")
_REMOVE = sa.text("""
    UPDATE routes SET deployment_id = NULL, target = NULL, changed_at = now()
    WHERE project_id = :project AND environment = :environment""")
_RELEASES = sa.text("""
    SELECT deployment_id, object_key, digest FROM releases WHERE deployment_id = ANY(CAST(:ids AS uuid[]))""")
_ADD_RELEASE = sa.text("""
    INSERT INTO releases (deployment_id, object_key, digest) VALUES (:id, :object_key, :digest) ON CONFLICT DO NOTHING""")
_EXPIRE = sa.text("UPDATE releases SET expired_at = now() WHERE deployment_id = :id AND expired_at IS NULL")
_EXPIRED = sa.text("""
    SELECT deployment_id FROM releases WHERE expired_at IS NOT NULL
        AND NOT EXISTS (SELECT FROM routes WHERE routes.deployment_id = releases.deployment_id)""")
_FORGET = sa.text("DELETE FROM releases WHERE deployment_id = :id")


class PostgresChanging:
    """ports.Changing in one transaction."""

    def __init__(self, tx: Transaction, place: tuple[str, str], standing: Standing | None) -> None:
        self._tx = tx
        self._place = {"project": place[0], "environment": place[1]}
        self.standing = standing

    async def store(self, route: Route) -> None:
        hosts = {**self._place, "hosts": list(route.hosts)}
        row = {"deployment": route.deployment_id, "fence": route.fence, "target": json.dumps(_json(route.target))}
        await self._tx.execute(_STORE, {**self._place, **row})
        await self._tx.execute(_DROP_HOSTS, hosts)
        await self._tx.execute(_ADD_HOSTS, hosts)
        if (taken := await self._tx.scalar(_OTHERS, hosts)) is not None:
            raise AlreadyExists(f"{taken} belongs to another environment", field="hosts", remedy="choose another host")

    async def remove(self) -> None:
        await self._tx.execute(_REMOVE, self._place)
        await self._tx.execute(_DROP_HOSTS, {**self._place, "hosts": []})


class PostgresTable:
    """ports.Table in the service's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def changing(self, project_id: str, environment: str) -> AsyncIterator[PostgresChanging]:
        async with self._database.transaction() as tx:
            await tx.execute(_LOCK_PLACE, {"place": f"{project_id}/{environment}"})
            row = await tx.one_or_none(_OF_PLACE, {"project": project_id, "environment": environment})
            standing = None if row is None else Standing(row["fence"], _route(row))
            yield PostgresChanging(tx, (project_id, environment), standing)

    @asynccontextmanager
    async def reading_alone(self) -> AsyncIterator[list[Route]]:
        async with self._database.transaction() as tx:
            await tx.execute(_LOCK_ALONE, {"key": _EDGE_LOCK})
            yield _routes(await tx.all(_ROUTES))

    async def routes(self, project_id: str = "") -> list[Route]:
        if not project_id:
            return _routes(await self._database.all(_ROUTES))
        return _routes(await self._database.all(_OF_PROJECT, {"project": project_id}))

    async def release(self, deployment_id: str) -> Release | None:
        return next(iter(await self.releases([deployment_id])), None)

    async def releases(self, deployment_ids: Collection[str]) -> list[Release]:
        rows = await self._database.all(_RELEASES, {"ids": list(deployment_ids)})
        return [Release(str(row["deployment_id"]), row["object_key"], row["digest"]) for row in rows]

    async def add_release(self, release: Release) -> None:
        async with self._database.transaction() as tx:
            row = {"id": release.deployment_id, "object_key": release.object_key, "digest": release.digest}
            await tx.execute(_ADD_RELEASE, row)

    async def expired_releases(self) -> list[str]:
        return [str(row["deployment_id"]) for row in await self._database.all(_EXPIRED)]

    async def forget_release(self, deployment_id: str) -> None:
        async with self._database.transaction() as tx:
            await tx.execute(_FORGET, {"id": deployment_id})


async def expire_release(tx: Transaction, deployment_id: str) -> None:
    """Marks a release as kept no longer; its folder goes with the next sweep."""
    await tx.execute(_EXPIRE, {"id": deployment_id})


def _routes(rows: Sequence[Row]) -> list[Route]:
    return [route for row in rows if (route := _route(row)) is not None]


def _route(row: Row) -> Route | None:
    """The route of a row; None when it was taken off the edge."""
    if row["deployment_id"] is None:
        return None
    return Route(
        project_id=str(row["project_id"]),
        environment=row["environment"],
        deployment_id=str(row["deployment_id"]),
        hosts=tuple(sorted(row["hosts"] or ())),
        target=_parsed(row["target"]),
        fence=row["fence"],
    )


def _json(target: StaticTarget | ProxyTarget) -> dict[str, Any]:
    if isinstance(target, StaticTarget):
        return {"static": {"spa": target.spa}}
    endpoints = [[endpoint.host, endpoint.port] for endpoint in target.endpoints]
    return {"proxy": {"endpoints": endpoints, "paused": target.paused}}


def _parsed(stored: dict[str, Any]) -> StaticTarget | ProxyTarget:
    if "static" in stored:
        return StaticTarget(spa=stored["static"]["spa"])
    proxy = stored["proxy"]
    return ProxyTarget(tuple(Endpoint(host, port) for host, port in proxy["endpoints"]), paused=proxy["paused"])
