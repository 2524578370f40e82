"""The use cases: publish a release, set and remove a route, forget what has expired."""

from __future__ import annotations

import asyncio

import structlog

from shipoff.cdn.domain import Release, Route, StaticTarget
from shipoff.cdn.ports import Edge, Releases, Table
from shipoff.cdn.transitions import Verdict, decide_remove, decide_set
from shipoff.common.errors import Aborted, AlreadyExists, PreconditionFailed, ShipoffError

log = structlog.get_logger()


class Switchboard:
    """Brings the table to the edge. Changes that come while one load is under way share the next one."""

    def __init__(self, table: Table, edge: Edge) -> None:
        self._table = table
        self._edge = edge
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None
        self._loads: set[asyncio.Task[None]] = set()

    async def settle(self) -> None:
        """Returns once the edge serves what was in the table when this was called. Raises Unavailable."""
        if self._next is None:
            self._next = asyncio.create_task(self._load(), name="load routes into the edge")
            self._loads.add(self._next)
            self._next.add_done_callback(self._loads.discard)
        await asyncio.shield(self._next)

    async def drain(self) -> None:
        """Returns when no load is under way: nobody may wait for one any more."""
        await asyncio.gather(*self._loads, return_exceptions=True)

    async def _load(self) -> None:
        async with self._turn:
            # The table is read below: who comes from here on needs a load of their own.
            self._next = None
            async with self._table.reading_alone() as routes:
                await self._edge.apply(routes)

    async def mend(self) -> None:
        """Loads the routes again when the edge has lost them."""
        if not await self._edge.intact():
            log.info("the edge lost its routes")
            await self.settle()


async def publish(table: Table, releases: Releases, release: Release) -> None:
    """Makes a static release servable. The same again does nothing.

    Raises AlreadyExists when the deployment has been published from another artifact; otherwise as ports.Releases.publish.
    """
    published = await table.release(release.deployment_id)
    if published is not None and published.digest != release.digest:
        raise AlreadyExists("this deployment was published from another artifact", field="artifact.digest")
    if published is None or not await releases.exists(release.deployment_id):
        await releases.publish(release)
        await table.add_release(release)


async def set_route(table: Table, releases: Releases, switchboard: Switchboard, route: Route) -> None:
    """Points the environment at the deployment, and returns when the edge serves it.

    Raises Aborted when a newer switch has happened, AlreadyExists when a host is another environment's, PreconditionFailed
    when the release is not published, Unavailable when the edge is away (the route is kept and loaded later).
    """
    if isinstance(route.target, StaticTarget) and not await releases.exists(route.deployment_id):
        raise PreconditionFailed("this release is not published", field="deployment_id", remedy="publish it first")
    async with table.changing(route.project_id, route.environment) as change:
        verdict = decide_set(change.standing, route)
        if verdict is Verdict.STALE:
            raise Aborted(f"a newer switch of {route.environment} has happened", field="fence")
        if verdict is Verdict.STORE:
            await change.store(route)
    await switchboard.settle()
    if verdict is Verdict.STORE:
        log.info("route switched", deployment_id=route.deployment_id, environment=route.environment)


async def remove_route(table: Table, switchboard: Switchboard, place: tuple[str, str], deployment_id: str) -> None:
    """Takes the environment (project id, name) off the edge where it still points at the deployment."""
    async with table.changing(*place) as change:
        if decide_remove(change.standing, deployment_id):
            await change.remove()
    await switchboard.settle()


async def sweep(table: Table, releases: Releases) -> None:
    """Removes the folders of expired releases, and what interrupted work left."""
    await releases.clean()
    for deployment_id in await table.expired_releases():
        await releases.remove(deployment_id)
        await table.forget_release(deployment_id)
        log.info("release removed", deployment_id=deployment_id)


async def restore(table: Table, releases: Releases) -> None:
    """Publishes releases again that routes point at and whose folders are gone."""
    routed = [route.deployment_id for route in await table.routes() if isinstance(route.target, StaticTarget)]
    missing = [deployment_id for deployment_id in routed if not await releases.exists(deployment_id)]
    for release in await table.releases(missing) if missing else []:
        try:
            await releases.publish(release)
            log.warning("release folder was gone and is back", deployment_id=release.deployment_id)
        except ShipoffError as error:
            log.error("release folder is gone", deployment_id=release.deployment_id, error=str(error))
