"""Project's composition root."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from shipoff.common.config import address, load
from shipoff.common.lifecycle import looping
from shipoff.common.objects import ObjectStore
from shipoff.common.outbox import Outbox
from shipoff.common.postgres import Database, migrate
from shipoff.common.rpc import serving
from shipoff.common.sealing import Sealer
from shipoff.common.streams import DEPLOYMENT_QUEUE, Streams
from shipoff.contracts.project.v1 import project_pb2_grpc
from shipoff.project.accepting import Deployments, Uploads
from shipoff.project.adapters.postgres import PostgresStore
from shipoff.project.domain import Deadlines
from shipoff.project.handlers import Projects, Rules
from shipoff.project.receiving import Deliveries
from shipoff.project.reconciler import sweep_archives
from shipoff.project.server import ProjectServer
from shipoff.project.settings import ProjectSettings

_SWEEP_S = 3600.0


def _database(settings: ProjectSettings) -> AbstractAsyncContextManager[Database]:
    return Database.open(settings.database_url, pool_size=settings.pool_size, read_pool_size=settings.read_pool_size)


@asynccontextmanager
async def running(settings: ProjectSettings | None = None) -> AsyncIterator[None]:
    """Runs project until the context is left; then drains it."""
    settings = settings or load(ProjectSettings)
    sealer = Sealer(settings.master_key.get_secret_value())
    await migrate("project", settings.database_url)
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(_database(settings))
        streams = await stack.enter_async_context(Streams.open(settings.redis_url))
        objects = await stack.enter_async_context(ObjectStore.open(settings.objects_url))
        outbox = Outbox(database, streams, producing=[DEPLOYMENT_QUEUE])
        store = PostgresStore(database, outbox)
        deadlines = Deadlines(settings.most_queue_timeout_s, settings.most_build_timeout_s, settings.most_ready_timeout_s)
        rules = Rules(settings.base_domain, settings.allowed_hosts, deadlines)
        deployments = Deployments(store, sealer, rules)
        deliveries = Deliveries(store, deployments, webhook_secret=settings.github_webhook_secret.get_secret_value())
        await stack.enter_async_context(deliveries.open())
        uploads = Uploads(store, objects, most_bytes=settings.max_source_bytes)
        servicer = ProjectServer(Projects(store, sealer, rules), uploads, deployments, deliveries)

        async def sweep() -> None:
            await sweep_archives(store, objects, kept_days=settings.source_kept_days)

        await stack.enter_async_context(outbox.relaying())
        await stack.enter_async_context(looping("sweep archives", sweep, every_s=_SWEEP_S))
        registration = (project_pb2_grpc.add_ProjectServiceServicer_to_server, servicer)
        await stack.enter_async_context(serving(settings.listen or address("project"), [registration]))
        yield
