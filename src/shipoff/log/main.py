"""The log service's composition root."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shipoff.common.config import address, load
from shipoff.common.consumers import Consumer, ConsumerOptions
from shipoff.common.lifecycle import looping
from shipoff.common.postgres import Database, migrate
from shipoff.common.rpc import serving
from shipoff.common.streams import LOGS_INGEST, Streams
from shipoff.contracts.log.v1.log_pb2_grpc import add_LogServiceServicer_to_server
from shipoff.log.adapters.postgres import PostgresChunks
from shipoff.log.consumer import storing
from shipoff.log.hub import Hub
from shipoff.log.reconciler import Upkeep
from shipoff.log.server import LogServer
from shipoff.log.settings import LogSettings

_READ_POOL_SIZE = 2


@asynccontextmanager
async def _closing(hub: Hub) -> AsyncIterator[None]:
    """Ends those who follow before the server waits for what is under way: they would never end by themselves."""
    try:
        yield
    finally:
        hub.close()


@asynccontextmanager
async def running(settings: LogSettings | None = None) -> AsyncIterator[None]:
    """Runs the service until the context is left; then drains it."""
    settings = settings or load(LogSettings)
    await migrate("log", settings.database_url)
    hub = Hub(buffer_lines=settings.follow_buffer_lines)
    options = ConsumerOptions(reclaim_idle_s=settings.reclaim_idle_s)
    # Whoever reads lines does not wait for those who store them.
    opened = Database.open(settings.database_url, read_pool_size=_READ_POOL_SIZE)
    async with opened as database, Streams.open(settings.redis_url) as streams:
        store = PostgresChunks(database)
        upkeep = Upkeep(store, hub, settings)
        consumer = Consumer(streams, LOGS_INGEST, "log", storing(store, hub), options=options)
        server = LogServer(store, hub)
        async with (
            serving(settings.listen or address("log"), [(add_LogServiceServicer_to_server, server)]),
            looping("log retention", upkeep.retain, every_s=settings.retention_s),
            looping("log holes", upkeep.report_holes, every_s=max(0.1, settings.hole_patience_s / 3)),
            looping("log poll", upkeep.poll, every_s=settings.poll_s),
            consumer.running(),
            _closing(hub),
        ):
            yield
