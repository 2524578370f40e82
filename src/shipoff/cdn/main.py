"""The cdn's composition root."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from shipoff.cdn.adapters.caddy import CaddyEdge
from shipoff.cdn.adapters.folders import ReleaseFolders
from shipoff.cdn.adapters.postgres import PostgresTable, expire_release
from shipoff.cdn.archive import Caps
from shipoff.cdn.consumer import expiring
from shipoff.cdn.handlers import Switchboard
from shipoff.cdn.reconciler import Reconciler
from shipoff.cdn.resources import EdgeLayout, gateway_hosts
from shipoff.cdn.server import CdnServer
from shipoff.cdn.settings import CdnSettings
from shipoff.common.config import address, load
from shipoff.common.consumers import Consumer
from shipoff.common.errors import TemporaryError
from shipoff.common.lifecycle import looping
from shipoff.common.objects import ObjectStore
from shipoff.common.outbox import clean_inbox, inboxed
from shipoff.common.postgres import Database, migrate
from shipoff.common.rpc import serving
from shipoff.common.streams import DEPLOYMENT_PROGRESS, Streams
from shipoff.contracts.cdn.v1.cdn_pb2_grpc import add_CdnServiceServicer_to_server

_CLEAN_INBOX_S = 3600.0
_AGAIN_S = 0.5

log = structlog.get_logger()


def _layout(settings: CdnSettings) -> EdgeLayout:
    return EdgeLayout(
        http_port=settings.http_port,
        admin_socket=str(settings.admin_socket),
        gateway_socket=str(settings.gateway_socket),
        gateway_hosts=gateway_hosts(settings.base_domain),
        releases=str(settings.releases),
        live=str(settings.live),
    )


def _folders(settings: CdnSettings, objects: ObjectStore) -> ReleaseFolders:
    settings.releases.mkdir(parents=True, exist_ok=True)
    caps = Caps(bytes=settings.unpacked_bytes, files=settings.files, ratio=settings.ratio)
    return ReleaseFolders(settings.releases, objects, caps=caps, packed_bytes=settings.packed_bytes)


@asynccontextmanager
async def _drained(switchboard: Switchboard) -> AsyncIterator[None]:
    """Lets a load that is under way finish before the database closes."""
    try:
        yield
    finally:
        await switchboard.drain()


async def _begun(reconciler: Reconciler) -> None:
    """Returns when everything that was served is served again, however long the edge beside takes to start."""
    while True:
        try:
            return await reconciler.begin()
        except TemporaryError as error:
            log.info("the edge is not ready", error=error.message)
            await asyncio.sleep(_AGAIN_S)


@asynccontextmanager
async def running(settings: CdnSettings | None = None) -> AsyncIterator[None]:
    """Runs the service until the context is left; then drains it."""
    settings = settings or load(CdnSettings)
    await migrate("cdn", settings.database_url)
    layout = _layout(settings)
    async with (
        Database.open(settings.database_url) as database,
        Streams.open(settings.redis_url) as streams,
        ObjectStore.open(settings.objects_url) as objects,
        CaddyEdge.open(layout) as edge,
    ):
        table, releases = PostgresTable(database), _folders(settings, objects)
        switchboard = Switchboard(table, edge)
        reconciler = Reconciler(table, releases, switchboard)
        wake = asyncio.Event()
        consumer = Consumer(streams, DEPLOYMENT_PROGRESS, "cdn", inboxed(database, "cdn", expiring(expire_release, wake)))
        if settings.restore_first:
            await _begun(reconciler)
        server = CdnServer(table, releases, switchboard, reserved=frozenset({*layout.gateway_hosts, settings.base_domain}))
        async with (
            _drained(switchboard),
            looping("cdn inbox", lambda: clean_inbox(database), every_s=_CLEAN_INBOX_S),
            looping("cdn reconcile", reconciler.reconcile, every_s=settings.reconcile_s, wake=wake),
            looping("cdn watch", reconciler.watch, every_s=settings.watch_s),
            consumer.running(),
            serving(settings.listen or address("cdn"), [(add_CdnServiceServicer_to_server, server)]),
        ):
            yield
