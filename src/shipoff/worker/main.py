"""The worker's composition root."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from shipoff.common.config import address, load
from shipoff.common.consumers import Consumer
from shipoff.common.deadletters import DeadLetters
from shipoff.common.lifecycle import looping
from shipoff.common.objects import ObjectStore
from shipoff.common.outbox import clean_inbox, inboxed
from shipoff.common.postgres import Database, Transaction, migrate
from shipoff.common.rpc import serving
from shipoff.common.sealing import Sealer
from shipoff.common.streams import DEPLOYMENT_PROGRESS, RUNTIME_EVENTS, Event, Streams
from shipoff.contracts.worker.v1 import worker_pb2_grpc
from shipoff.worker import consumer
from shipoff.worker.adapters.http import HttpSender
from shipoff.worker.adapters.postgres import PostgresStore
from shipoff.worker.adapters.registry import Everywhere, Registry
from shipoff.worker.dispatcher import Dispatcher
from shipoff.worker.handlers import remove_objects
from shipoff.worker.server import WorkerServer
from shipoff.worker.settings import WorkerSettings

GROUP = "worker"
_HOUSEKEEPING_S = 3600.0


@asynccontextmanager
async def running(settings: WorkerSettings | None = None) -> AsyncIterator[None]:
    """Runs the worker until the context is left; then drains it."""
    settings = settings or load(WorkerSettings)
    sealer = Sealer(settings.master_key.get_secret_value())
    await migrate("worker", settings.database_url)
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(Database.open(settings.database_url, pool_size=4))
        streams = await stack.enter_async_context(Streams.open(settings.redis_url))
        objects = await stack.enter_async_context(ObjectStore.open(settings.objects_url))
        sender = await stack.enter_async_context(HttpSender.open(allowed=settings.allowed))
        registry = await stack.enter_async_context(Registry.open(settings.logins))
        everywhere = Everywhere(objects, registry)
        wake_dispatch, wake_removal = asyncio.Event(), asyncio.Event()

        def changed() -> None:
            wake_dispatch.set()
            wake_removal.set()

        store = PostgresStore(database, lease_s=settings.lease_s, changed=changed)
        dispatcher = Dispatcher(store, sender, sealer, wake_dispatch)

        async def remove() -> None:
            await remove_objects(store, everywhere)

        async def keep_house() -> None:
            await store.forget_finished(settings.kept_days)
            await clean_inbox(database)

        stack.push_async_callback(dispatcher.drain)
        await stack.enter_async_context(looping("deliver", dispatcher.dispatch, every_s=settings.sweep_s, wake=wake_dispatch))
        await stack.enter_async_context(looping("remove objects", remove, every_s=settings.sweep_s, wake=wake_removal))
        await stack.enter_async_context(looping("housekeeping", keep_house, every_s=_HOUSEKEEPING_S))
        await _consume(stack, database, streams, store)
        servicer = WorkerServer(store, sender, sealer, DeadLetters(streams))
        registration = (worker_pb2_grpc.add_WorkerServiceServicer_to_server, servicer)
        await stack.enter_async_context(serving(settings.listen or address("worker"), [registration]))
        yield


async def _consume(stack: AsyncExitStack, database: Database, streams: Streams, store: PostgresStore) -> None:
    async def handle(tx: Transaction, event: Event) -> None:
        await consumer.on_progress(store.recording(tx), event)

    progress = Consumer(streams, DEPLOYMENT_PROGRESS, GROUP, inboxed(database, GROUP, handle))
    runtime = Consumer(streams, RUNTIME_EVENTS, GROUP, consumer.on_runtime)
    await stack.enter_async_context(progress.running())
    await stack.enter_async_context(runtime.running())
