"""The orchestrator's composition root."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial

from shipoff.common.config import address, load
from shipoff.common.consumers import Consumer, ConsumerOptions
from shipoff.common.lifecycle import background, looping
from shipoff.common.outbox import Outbox, clean_inbox, inboxed_together
from shipoff.common.postgres import Database, Transaction, migrate
from shipoff.common.rpc import channel, serving
from shipoff.common.streams import DEPLOYMENT_PROGRESS, DEPLOYMENT_QUEUE, RUNTIME_EVENTS, Event, Streams
from shipoff.contracts.build.v1 import build_pb2_grpc
from shipoff.contracts.cdn.v1 import cdn_pb2_grpc
from shipoff.contracts.log.v1 import log_pb2_grpc
from shipoff.contracts.orchestrator.v1 import orchestrator_pb2_grpc
from shipoff.contracts.runtime.v1 import runtime_pb2_grpc
from shipoff.orchestrator import consumer, handlers
from shipoff.orchestrator.adapters import retention
from shipoff.orchestrator.adapters.postgres import PostgresStore
from shipoff.orchestrator.adapters.services import Services
from shipoff.orchestrator.adapters.work import Limits, Wakes
from shipoff.orchestrator.performer import Performer, Terms
from shipoff.orchestrator.reconciler import sweep
from shipoff.orchestrator.records import Held
from shipoff.orchestrator.server import Changes, DeploymentServer
from shipoff.orchestrator.settings import OrchestratorSettings

GROUP = "orchestrator"
_HOUSEKEEPING_S = 60.0
# How often the cluster is asked what it has: nodes come and go.
_CAPACITY_S = 60.0
# Only for what another process left: a change made by this one wakes its loops.
_LOOK_S = 4.0


@asynccontextmanager
async def running(settings: OrchestratorSettings | None = None) -> AsyncIterator[None]:
    """Runs the orchestrator until the context is left; then drains it."""
    settings = settings or load(OrchestratorSettings)
    await migrate("orchestrator", settings.database_url)
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(_database(settings))
        streams = await stack.enter_async_context(Streams.open(settings.redis_url))
        outbox = Outbox(database, streams, producing=[DEPLOYMENT_PROGRESS])
        changes, wake_admission, wake_performer = Changes(), asyncio.Event(), asyncio.Event()

        def take(held: Sequence[Held]) -> None:
            performer.take(held)

        wakes = Wakes(
            changed=changes.notify,
            admission=wake_admission.set,
            performer=wake_performer.set,
            room=lambda: performer.room,
            lease_s=settings.lease_s,
            take=take,
        )
        store = PostgresStore(database, outbox, terms=settings.terms, limits=_limits(settings), wakes=wakes)
        services = await _services(stack, settings)
        logs = log_pb2_grpc.LogServiceStub(await stack.enter_async_context(channel(address("log"))))
        performer = Performer(store, services, _terms(settings), wake=wake_performer.set)

        async def take_over_budget() -> None:
            await store.set_budget(settings.budget)
            wake_admission.set()
            while settings.asks_for_capacity:
                await store.set_budget(settings.with_capacity(await services.capacity()))
                wake_admission.set()
                await asyncio.sleep(_CAPACITY_S)

        async def admit() -> None:
            await handlers.admit(store, settings.terms)

        async def keep_house() -> None:
            while await store.expire_releases(settings.kept_releases) == retention.AT_MOST:
                pass
            await clean_inbox(database)

        await stack.enter_async_context(performer.holding())
        stack.push_async_callback(performer.drain)
        # Beside the rest: whoever holds the budget's row, paused in mid-transaction, must not keep another one from starting.
        await stack.enter_async_context(background("budget", take_over_budget))
        await stack.enter_async_context(outbox.relaying())
        await stack.enter_async_context(
            looping("perform", performer.perform_due, every_s=min(_LOOK_S, settings.lease_s), wake=wake_performer)
        )
        await stack.enter_async_context(looping("admit", admit, every_s=_LOOK_S, wake=wake_admission))
        await stack.enter_async_context(looping("sweep", lambda: sweep(store, services), every_s=settings.sweep_s))
        await stack.enter_async_context(looping("housekeeping", keep_house, every_s=_HOUSEKEEPING_S))
        await _consume(stack, database, streams, store, settings)
        servicer = DeploymentServer(store, logs, changes, settings.terms)
        registration = (orchestrator_pb2_grpc.add_DeploymentServiceServicer_to_server, servicer)
        await stack.enter_async_context(serving(settings.listen or address("orchestrator"), [registration]))
        yield


def _database(settings: OrchestratorSettings) -> AbstractAsyncContextManager[Database]:
    # Whoever looks at a deployment does not wait for the pipeline.
    return Database.open(settings.database_url, pool_size=8, read_pool_size=3)


def _limits(settings: OrchestratorSettings) -> Limits:
    return Limits(
        queued_s=settings.queue_timeout_s,
        building_s=settings.build_timeout_s,
        provisioning_s=settings.provision_timeout_s,
        releasing_s=settings.release_timeout_s,
        bake_s=settings.bake_s,
    )


def _terms(settings: OrchestratorSettings) -> Terms:
    return Terms(build_timeout_s=settings.build_timeout_s, lease_s=settings.lease_s)


async def _services(stack: AsyncExitStack, settings: OrchestratorSettings) -> Services:
    channels = {name: await stack.enter_async_context(channel(address(name))) for name in ("build", "runtime", "cdn")}
    return Services(
        build=build_pb2_grpc.BuildServiceStub(channels["build"]),
        runtime=runtime_pb2_grpc.RuntimeServiceStub(channels["runtime"]),
        cdn=cdn_pb2_grpc.CdnServiceStub(channels["cdn"]),
        release_timeout_s=settings.release_timeout_s,
    )


async def _consume(
    stack: AsyncExitStack, database: Database, streams: Streams, store: PostgresStore, settings: OrchestratorSettings
) -> None:
    options = ConsumerOptions(reclaim_idle_s=settings.lease_s)

    @asynccontextmanager
    async def handling(tx: Transaction, events: Sequence[Event]) -> AsyncIterator[Callable[[Event], Awaitable[None]]]:
        async with store.work(tx) as work:
            await consumer.prepare(work, events)
            yield partial(consumer.handle, work)
            await handlers.admit_accepted(work, settings.terms)

    handle = inboxed_together(database, GROUP, handling, only=consumer.CONCERN)
    for stream in (DEPLOYMENT_QUEUE, DEPLOYMENT_PROGRESS, RUNTIME_EVENTS):
        await stack.enter_async_context(Consumer(streams, stream, GROUP, handle, options=options).running())
