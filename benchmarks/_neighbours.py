"""Build, runtime and cdn for the pipeline figure: each answers at once, and durably.

What they are told is a row in their own database; what they tell leaves through a real outbox in the same transaction; calls
that come together share one. The groups that the real cdn and worker read with are there too, so that streams and outboxes are
trimmed as in the platform.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import sqlalchemy as sa
import uvloop

from shipoff.common.batching import Batcher
from shipoff.common.config import ServiceSettings, address, load, service_config
from shipoff.common.consumers import Consumer
from shipoff.common.errors import Aborted, NotFound
from shipoff.common.lifecycle import until_signal
from shipoff.common.outbox import OUTBOX_DDL, Leaving, Outbox
from shipoff.common.postgres import Database, arrays, unnested
from shipoff.common.rpc import serving
from shipoff.common.streams import DEPLOYMENT_PROGRESS, RUNTIME_EVENTS, Event, Streams, envelope
from shipoff.contracts.build.v1 import build_pb2, build_pb2_grpc
from shipoff.contracts.cdn.v1 import cdn_pb2, cdn_pb2_grpc
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.runtime.v1 import runtime_pb2, runtime_pb2_grpc
from shipoff.contracts.types.v1 import types_pb2

_TOLD = "CREATE TABLE told (id uuid NOT NULL, attempt bigint NOT NULL, PRIMARY KEY (id, attempt))"
_TOLD_OF = {"id": "uuid", "attempt": "bigint", "envelope": "bytea"}
# What is told twice is reported once.
_TELL = sa.text(
    f"WITH given AS (SELECT * FROM {unnested(_TOLD_OF, ordinal='n')}),"  # noqa: S608 - a constant
    " told AS (INSERT INTO told SELECT id, attempt FROM given ON CONFLICT DO NOTHING RETURNING id, attempt)"
    " INSERT INTO outbox (stream, envelope) SELECT :stream, envelope FROM given JOIN told USING (id, attempt) ORDER BY n"
    " RETURNING position, envelope"
)
_ROUTES = "CREATE TABLE routes (project uuid, environment text, fence bigint NOT NULL, PRIMARY KEY (project, environment))"
_ROUTE_OF = {"project": "uuid", "environment": "text", "fence": "bigint"}
_ROUTE = sa.text(
    f"INSERT INTO routes SELECT project, environment, fence FROM {unnested(_ROUTE_OF)}"  # noqa: S608 - a constant
    " ON CONFLICT (project, environment) DO UPDATE SET fence = EXCLUDED.fence WHERE routes.fence <= EXCLUDED.fence"
    " RETURNING project, environment"
)
_AT_ONCE = 64


@dataclass(frozen=True)
class Told:
    """What one call said, and what is reported of it."""

    deployment_id: str
    attempt: int
    event: events_pb2.Envelope


class Telling:
    """Records what calls say and reports each once; calls that come together share a commit."""

    def __init__(self, database: Database, outbox: Outbox, stream: str) -> None:
        self._database = database
        self._outbox = outbox
        self._stream = stream
        self.tell = Batcher(self._tell_all, most=_AT_ONCE)

    async def _tell_all(self, told: Sequence[Told]) -> Sequence[None]:
        events = {(one.deployment_id, one.attempt): one.event for one in told}
        leaving = self._outbox.leaving(self._stream, list(events.values()))
        values = {
            "id": [deployment_id for deployment_id, _ in events],
            "attempt": [attempt for _, attempt in events],
            "envelope": list(leaving.envelopes),
            "stream": self._stream,
        }
        async with self._database.transaction() as tx:
            written = await tx.all(_TELL, values)
            if written:
                reported = Leaving(self._stream, tuple(row["envelope"] for row in written))
                self._outbox.written(tx, reported, [row["position"] for row in written])
        return [None] * len(told)


@dataclass
class Builds(build_pb2_grpc.BuildServiceServicer):
    """Every build has succeeded as soon as it is begun."""

    telling: Telling

    async def StartBuild(self, request, context):
        artifact = types_pb2.Artifact(
            kind=types_pb2.ARTIFACT_KIND_APP, object_key=f"artifacts/{request.deployment_id}", digest="sha256:" + "0" * 64
        )
        event = events_pb2.BuildSucceeded(deployment_id=request.deployment_id, attempt=request.attempt, artifact=artifact)
        await self.telling.tell(Told(request.deployment_id, request.attempt, envelope(event, tenant_id=request.team_id)))
        return build_pb2.StartBuildResponse()

    async def GetBuild(self, request, context):
        # Asked when an outcome is long in coming: it is on its way.
        return build_pb2.GetBuildResponse(state=build_pb2.BUILD_STATE_RUNNING)


@dataclass
class Workloads(runtime_pb2_grpc.RuntimeServiceServicer):
    """Every workload is ready as soon as it is applied."""

    telling: Telling

    async def ApplyWorkload(self, request, context):
        workload = request.workload
        endpoint = types_pb2.Endpoint(host="127.0.0.1", port=4000)
        event = events_pb2.WorkloadReady(deployment_id=workload.deployment_id, revision=1, endpoints=[endpoint])
        await self.telling.tell(Told(workload.deployment_id, 1, envelope(event, tenant_id=workload.team_id)))
        return runtime_pb2.ApplyWorkloadResponse()

    async def StopWorkload(self, request, context):
        return runtime_pb2.StopWorkloadResponse()

    async def GetWorkload(self, request, context):
        raise NotFound("ask again")


class Edge(cdn_pb2_grpc.CdnServiceServicer):
    """A stored routing table with fences."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._set = Batcher(self._set_all, most=_AT_ONCE)

    async def _set_all(self, routes: Sequence[cdn_pb2.Route]) -> Sequence[bool]:
        # Of two for one place the higher fence, as if they had come one after the other.
        newest = {(one.project_id, one.environment): one for one in sorted(routes, key=lambda one: one.fence)}
        rows = [{"project": one.project_id, "environment": one.environment, "fence": one.fence} for one in newest.values()]
        written = await self._database.all(_ROUTE, arrays(_ROUTE_OF, rows))
        taken = {(str(row["project"]), row["environment"]) for row in written}
        return [(one.project_id, one.environment) in taken for one in routes]

    async def SetRoute(self, request, context):
        if not await self._set(request.route):
            raise Aborted("a newer route stands")
        return cdn_pb2.SetRouteResponse()


async def _ignore(events: Sequence[Event]) -> None:
    """The real ones do their own work here, which is not the pipeline's."""


def _settings(service: str) -> ServiceSettings:
    class Named(ServiceSettings):
        model_config = service_config(service)

    return load(Named)


async def _database(stack: AsyncExitStack, service: str, ddl: Sequence[str]) -> Database:
    database = await stack.enter_async_context(Database.open(_settings(service).database_url, pool_size=5))
    async with database.transaction() as tx:
        for statement in ddl:
            await tx.execute(sa.text(statement))
    return database


async def _serve(stack: AsyncExitStack) -> None:
    streams = await stack.enter_async_context(Streams.open(_settings("build").redis_url))
    told = [_TOLD, *OUTBOX_DDL]
    built, ran = await _database(stack, "build", told), await _database(stack, "runtime", told)
    outboxes = Outbox(built, streams, producing=[DEPLOYMENT_PROGRESS]), Outbox(ran, streams, producing=[RUNTIME_EVENTS])
    builds = Builds(Telling(built, outboxes[0], DEPLOYMENT_PROGRESS))
    workloads = Workloads(Telling(ran, outboxes[1], RUNTIME_EVENTS))
    edge = Edge(await _database(stack, "cdn", [_ROUTES]))
    for outbox in outboxes:
        await stack.enter_async_context(outbox.relaying())
    for stream, group in ((DEPLOYMENT_PROGRESS, "cdn"), (DEPLOYMENT_PROGRESS, "worker"), (RUNTIME_EVENTS, "worker")):
        await stack.enter_async_context(Consumer(streams, stream, group, _ignore).running())
    for name, registration in {
        "build": (build_pb2_grpc.add_BuildServiceServicer_to_server, builds),
        "runtime": (runtime_pb2_grpc.add_RuntimeServiceServicer_to_server, workloads),
        "cdn": (cdn_pb2_grpc.add_CdnServiceServicer_to_server, edge),
    }.items():
        await stack.enter_async_context(serving(address(name), [registration]))


async def _main() -> None:
    async with AsyncExitStack() as stack:
        await _serve(stack)
        await until_signal()


if __name__ == "__main__":
    uvloop.run(_main())
