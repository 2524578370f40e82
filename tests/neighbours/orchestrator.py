"""The orchestrator's neighbours: small gRPC servers that do as a test tells them, and what a test of it touches."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from neighbours import histories
from neighbours.histories import Route
from neighbours.zygote import Zygote

from shipoff.common.config import address
from shipoff.common.errors import Aborted, NotFound, Unavailable
from shipoff.common.ids import new_id
from shipoff.common.postgres import Database
from shipoff.common.rpc import channel, serving
from shipoff.common.streams import DEPLOYMENT_PROGRESS, DEPLOYMENT_QUEUE, RUNTIME_EVENTS, Streams
from shipoff.contracts.build.v1 import build_pb2, build_pb2_grpc
from shipoff.contracts.cdn.v1 import cdn_pb2, cdn_pb2_grpc
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.orchestrator.v1 import orchestrator_pb2, orchestrator_pb2_grpc
from shipoff.contracts.runtime.v1 import runtime_pb2, runtime_pb2_grpc
from shipoff.contracts.types.v1 import types_pb2

TEAM = new_id()
CLEAN_RUN = ["BUILDING", "PROVISIONING", "PRODUCTION"]


@dataclass
class Builds(build_pb2_grpc.BuildServiceServicer):
    """Remembers what it is told to build; a test decides how it ends."""

    streams: Streams
    started: dict[tuple[str, int], build_pb2.StartBuildRequest] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    cancelled: list[tuple[str, int]] = field(default_factory=list)
    automatic: bool = True
    static: bool = False
    # How those ended that succeeded, for whoever asks.
    succeeded: dict[tuple[str, int], events_pb2.BuildSucceeded] = field(default_factory=dict)
    # What builds say that they used.
    usage: types_pb2.Usage | None = None
    # What the plans run.
    processes: list[str] = field(default_factory=list)

    async def StartBuild(self, request, context):
        self.calls[request.deployment_id] += 1
        self.started[request.deployment_id, request.attempt] = request
        if self.automatic:
            await self.succeed(request.deployment_id, request.attempt)
        return build_pb2.StartBuildResponse()

    async def CancelBuild(self, request, context):
        self.cancelled.append((request.deployment_id, request.attempt))
        return build_pb2.CancelBuildResponse()

    async def GetBuild(self, request, context):
        if (request.deployment_id, request.attempt) not in self.started:
            raise NotFound("no such build")
        if (request.deployment_id, request.attempt) in self.succeeded:
            outcome = self.succeeded[request.deployment_id, request.attempt]
            return build_pb2.GetBuildResponse(state=build_pb2.BUILD_STATE_SUCCEEDED, succeeded=outcome)
        return build_pb2.GetBuildResponse(state=build_pb2.BUILD_STATE_RUNNING)

    def success(self, deployment_id: str, attempt: int) -> events_pb2.BuildSucceeded:
        kind = types_pb2.ARTIFACT_KIND_STATIC if self.static else types_pb2.ARTIFACT_KIND_APP
        artifact = types_pb2.Artifact(kind=kind, object_key=f"artifacts/{deployment_id}", digest="sha256:" + "0" * 64)
        plan = types_pb2.Plan(processes=[types_pb2.PlanProcess(name=name) for name in self.processes])
        return events_pb2.BuildSucceeded(
            deployment_id=deployment_id, attempt=attempt, artifact=artifact, plan=plan, usage=self.usage
        )

    async def succeed(self, deployment_id: str, attempt: int = 1, *, times: int = 1) -> None:
        self.succeeded[deployment_id, attempt] = self.success(deployment_id, attempt)
        for _ in range(times):
            await self.streams.publish(DEPLOYMENT_PROGRESS, [self.succeeded[deployment_id, attempt]], tenant_id=TEAM)

    async def fail(
        self, deployment_id: str, failure: events_pb2.BuildFailure.ValueType, attempt: int = 1, *, peak_memory_bytes: int = 0
    ) -> None:
        event = events_pb2.BuildFailed(
            deployment_id=deployment_id,
            attempt=attempt,
            failure=failure,
            reason="it broke",
            step="install",
            usage=types_pb2.Usage(peak_memory_bytes=peak_memory_bytes, cpu_s=1, wall_s=2),
        )
        await self.streams.publish(DEPLOYMENT_PROGRESS, [event], tenant_id=TEAM)


@dataclass
class Workloads(runtime_pb2_grpc.RuntimeServiceServicer):
    """Says that a workload is ready as soon as it is applied, unless told otherwise."""

    streams: Streams
    applied: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    scaled: dict[str, int] = field(default_factory=dict)
    # What each was given for its release command.
    release_timeouts: dict[str, int] = field(default_factory=dict)
    # The endpoints that it told of last, by deployment.
    serving: dict[str, events_pb2.WorkloadReady] = field(default_factory=dict)
    automatic: bool = True
    paused: dict[str, bool] = field(default_factory=dict)
    # What its cluster has; nothing: it does not know.
    capacity: types_pb2.Resources | None = None

    async def GetCapacity(self, request, context):
        if self.capacity is None:
            raise Unavailable("the cluster does not answer")
        return runtime_pb2.GetCapacityResponse(capacity=self.capacity)

    async def ApplyWorkload(self, request, context):
        self.applied.append(request.workload.deployment_id)
        self.release_timeouts[request.workload.deployment_id] = request.workload.release_timeout_s
        if self.automatic:
            await self.ready(request.workload.deployment_id)
        return runtime_pb2.ApplyWorkloadResponse()

    async def ready(self, deployment_id: str, revision: int = 1) -> None:
        event = events_pb2.WorkloadReady(
            deployment_id=deployment_id,
            revision=revision,
            endpoints=[types_pb2.Endpoint(host="127.0.0.1", port=4000 + revision)],
        )
        self.serving[deployment_id] = event
        await self.streams.publish(RUNTIME_EVENTS, [event], tenant_id=TEAM)

    async def ScaleWorkload(self, request, context):
        self.scaled[request.deployment_id] = request.replicas
        return runtime_pb2.ScaleWorkloadResponse()

    async def PauseWorkload(self, request, context):
        self.paused[request.deployment_id] = request.paused
        return runtime_pb2.PauseWorkloadResponse()

    async def StopWorkload(self, request, context):
        self.stopped.append(request.deployment_id)
        return runtime_pb2.StopWorkloadResponse()

    async def GetWorkload(self, request, context):
        if request.deployment_id not in self.applied:
            raise NotFound("no such workload")
        if request.deployment_id in self.serving:
            told = self.serving[request.deployment_id]
            instances = [runtime_pb2.Instance(ready=True, endpoint=endpoint) for endpoint in told.endpoints]
            phase = runtime_pb2.WORKLOAD_PHASE_READY
            return runtime_pb2.GetWorkloadResponse(phase=phase, revision=told.revision, instances=instances)
        return runtime_pb2.GetWorkloadResponse(phase=runtime_pb2.WORKLOAD_PHASE_STARTING)


@dataclass
class Edge(cdn_pb2_grpc.CdnServiceServicer):
    """A routing table with fences, as the real one holds it."""

    routes: dict[tuple[str, str], cdn_pb2.Route] = field(default_factory=dict)
    published: list[str] = field(default_factory=list)
    history: list[str] = field(default_factory=list)
    # Every word about a route that it took, for the check of histories.
    told: list[Route] = field(default_factory=list)
    # Called after a switch, before its answer leaves.
    after_switch: Callable[[str], None] | None = None

    def route(self, deployment_id: str) -> cdn_pb2.Route:
        """What leads to a deployment."""
        return next(one for one in self.routes.values() if one.deployment_id == deployment_id)

    async def PublishRelease(self, request, context):
        self.published.append(request.deployment_id)
        return cdn_pb2.PublishReleaseResponse()

    async def SetRoute(self, request, context):
        place = (request.route.project_id, request.route.environment)
        if place in self.routes and self.routes[place].fence > request.route.fence:
            raise Aborted("a newer route stands")
        self.routes[place] = request.route
        self.history.append(request.route.deployment_id)
        self.told.append(Route(place, request.route.deployment_id, request.route.fence))
        if self.after_switch:
            self.after_switch(request.route.deployment_id)
        return cdn_pb2.SetRouteResponse()

    async def RemoveRoute(self, request, context):
        place = (request.project_id, request.environment)
        if place in self.routes and self.routes[place].deployment_id == request.deployment_id:
            self.told.append(Route(place, "", self.routes[place].fence))
            del self.routes[place]
        return cdn_pb2.RemoveRouteResponse()


def state_name(deployment: orchestrator_pb2.Deployment) -> str:
    """QUEUED, BUILDING, …"""
    return types_pb2.DeploymentState.Name(deployment.state).removeprefix("DEPLOYMENT_STATE_")


@dataclass
class Rig:
    """Everything a test of the orchestrator touches."""

    stub: orchestrator_pb2_grpc.DeploymentServiceStub
    streams: Streams
    database: Database
    builds: Builds
    workloads: Workloads
    edge: Edge
    eventually: Callable

    async def request(
        self,
        project: str,
        *,
        environment: str = "production",
        accepted_at: datetime | None = None,
        times: int = 1,
        team: str = TEAM,
        configuration: types_pb2.Configuration | None = None,
    ) -> str:
        """What project publishes when a deployment is accepted; its id."""
        event = events_pb2.DeploymentRequested(
            deployment_id=new_id(),
            project_id=project,
            project_name="shop",
            team_id=team,
            configuration=configuration,
            environment=environment,
            hosts=["shop.localhost"],
            trigger=types_pb2.TRIGGER_UPLOAD,
            requested_by="ada",
        )
        event.requested_at.FromDatetime(accepted_at or datetime.now(UTC))
        event.source.archive.digest = "sha256:" + "0" * 64
        for _ in range(times):
            await self.streams.publish(DEPLOYMENT_QUEUE, [event], tenant_id=TEAM)
        return event.deployment_id

    async def find(self, deployment_id: str) -> orchestrator_pb2.Deployment | None:
        """The deployment; None while it is unknown or the orchestrator is away."""
        try:
            answer = await self.stub.GetDeployment(orchestrator_pb2.GetDeploymentRequest(deployment_id=deployment_id))
        except (NotFound, Unavailable):
            return None
        return answer.deployment

    async def state(self, deployment_id: str) -> str:
        """Its state's name; "" while it is unknown."""
        found = await self.find(deployment_id)
        return state_name(found) if found else ""

    async def until(self, deployment_id: str, state: str) -> orchestrator_pb2.Deployment:
        """Waits for a state; the deployment then."""

        async def reached() -> orchestrator_pb2.Deployment:
            found = await self.find(deployment_id)
            assert found is not None, "it is unknown"
            assert state_name(found) == state, f"it is {state_name(found)}, not {state}"
            return found

        return await self.eventually(reached)

    def routed(self, project: str, environment: str = "production") -> str:
        """The deployment that the edge points at."""
        route = self.edge.routes.get((project, environment))
        return route.deployment_id if route else ""


async def surrounded(
    stack: AsyncExitStack, *, redis_url: str, database_url: str, eventually: Callable, without: Collection[str] = ()
) -> Rig:
    """Serves the neighbours at their addresses, but for those that are the test's to start, as the orchestrator itself is."""
    streams = await stack.enter_async_context(Streams.open(redis_url))
    database = await stack.enter_async_context(Database.open(database_url))
    builds, workloads, edge = Builds(streams), Workloads(streams), Edge()
    for name, registration in {
        "build": (build_pb2_grpc.add_BuildServiceServicer_to_server, builds),
        "runtime": (runtime_pb2_grpc.add_RuntimeServiceServicer_to_server, workloads),
        "cdn": (cdn_pb2_grpc.add_CdnServiceServicer_to_server, edge),
    }.items():
        if name not in without:
            await stack.enter_async_context(serving(address(name), [registration]))
    stub = orchestrator_pb2_grpc.DeploymentServiceStub(await stack.enter_async_context(channel(address("orchestrator"))))
    return Rig(stub, streams, database, builds, workloads, edge, eventually)


@asynccontextmanager
async def orchestrators(*, redis_url: str, database_url: str, eventually: Callable) -> AsyncIterator[tuple[Rig, Zygote]]:
    """The neighbours, and the way to start real orchestrators between them, with short leases."""
    environment = {
        "SHIPOFF_ORCHESTRATOR_DATABASE_URL": database_url,
        "SHIPOFF_REDIS_URL": redis_url,
        "SHIPOFF_ORCHESTRATOR_LEASE_S": "1",
        "SHIPOFF_ORCHESTRATOR_SWEEP_S": "0.3",
        # Room for every app of a test; where room is what is tested, it says how much there is.
        "SHIPOFF_ORCHESTRATOR_BUDGET_CPU_MILLIS": "64000",
        "SHIPOFF_ORCHESTRATOR_BUDGET_MEMORY_BYTES": str(256 << 30),
    }
    async with AsyncExitStack() as stack:
        patient: Callable = lambda condition: eventually(condition, timeout_s=40)  # noqa: E731 - a name for the default
        rig = await surrounded(stack, redis_url=redis_url, database_url=database_url, eventually=patient)
        yield rig, await stack.enter_async_context(Zygote("orchestrator", environment))


def names(deployment: orchestrator_pb2.Deployment) -> list[str]:
    """The states it passed."""
    return [types_pb2.DeploymentState.Name(t.to_state).removeprefix("DEPLOYMENT_STATE_") for t in deployment.transitions]


async def check_histories(rig: Rig) -> None:
    """Every invariant over everything that was recorded, once nothing is under way any more."""

    async def violations() -> list[str]:
        recorded = await histories.recorded_deployments(rig.database)
        # The neighbours' servers keep no outbox, and nobody reads for cdn and worker: what counts is that it was published.
        recorded = replace(recorded, outbox=[row for row in recorded.outbox if row["epoch"] is None])
        found = histories.deployments_violations(recorded, at_rest=True, routes=rig.edge.told)
        return found + await histories.dead_letters(rig.streams)

    await histories.come_to_rest(violations, rig.eventually)
