"""The services behind a gateway, as small servicers with a world in common; and the gateway itself on a Unix socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import websockets.asyncio.client as ws_client
from google.protobuf.timestamp_pb2 import Timestamp
from neighbours.gateway_commands import commands_of

from shipoff.common import telemetry
from shipoff.common.errors import NotFound, PreconditionFailed, Unauthenticated, Unavailable
from shipoff.common.ids import new_id
from shipoff.common.rpc import serving
from shipoff.contracts.detector.v1 import detector_pb2_grpc
from shipoff.contracts.identity.v1 import identity_pb2, identity_pb2_grpc
from shipoff.contracts.log.v1 import log_pb2, log_pb2_grpc
from shipoff.contracts.orchestrator.v1 import orchestrator_pb2, orchestrator_pb2_grpc
from shipoff.contracts.project.v1 import project_pb2, project_pb2_grpc
from shipoff.contracts.runtime.v1 import runtime_pb2, runtime_pb2_grpc
from shipoff.contracts.types.v1 import types_pb2
from shipoff.contracts.worker.v1 import worker_pb2, worker_pb2_grpc
from shipoff.detector.server import DetectorServicer
from shipoff.gateway.main import running
from shipoff.gateway.settings import GatewaySettings

DIGEST = "sha256:" + "ab" * 32
NOW = Timestamp(seconds=1_800_000_000)
SIGNATURE = "sha256=" + "0" * 64


@dataclass
class World:
    """What the servicers know, and what they were asked."""

    team_id: str = field(default_factory=new_id)
    other_team_id: str = field(default_factory=new_id)
    calls: list[tuple[str, Any]] = field(default_factory=list)
    contexts: list[telemetry.Context] = field(default_factory=list)
    tokens: dict[str, identity_pb2.AuthenticateResponse] = field(default_factory=dict)
    projects: list[project_pb2.Project] = field(default_factory=list)
    deployments: dict[str, orchestrator_pb2.Deployment] = field(default_factory=dict)
    accepted: dict[str, project_pb2.GetDeploymentRequestResponse] = field(default_factory=dict)
    uploaded: bytearray = field(default_factory=bytearray)
    chunk_sizes: list[int] = field(default_factory=list)
    uploads_begun: int = 0
    uploads_ended: int = 0
    entries: list[log_pb2.Entry] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    streams_open: set[str] = field(default_factory=set)
    commands: list[Any] = field(default_factory=list)
    workloads: set[str] = field(default_factory=set)
    audit_is_away: bool = False
    identity_lists_nobody: bool = False
    # Deliveries that are being received; they wait while it is closed.
    receiving: int = 0
    most_received_at_once: int = 0
    receipt: asyncio.Event = field(default_factory=asyncio.Event)
    dead: list[worker_pb2.DeadEvent] = field(default_factory=list)

    def user(self, name: str, *memberships: tuple[str, int]) -> str:
        """A user with these roles; its token."""
        secret = f"shp_{name}"
        self.tokens[secret] = identity_pb2.AuthenticateResponse(
            user=identity_pb2.User(id=new_id(), email=f"{name}@example.com", name=name),
            memberships=[
                identity_pb2.Membership(team=identity_pb2.Team(id=team_id, name=f"t{number}"), role=role)
                for number, (team_id, role) in enumerate(memberships)
            ],
            token_id=new_id(),
            platform_team_id=self.team_id,
        )
        return secret

    def project(self, name: str = "shop") -> project_pb2.Project:
        made = project_pb2.Project(
            id=new_id(),
            team_id=self.team_id,
            name=name,
            environments=[
                project_pb2.Environment(name="production", hosts=[f"{name}.localhost"]),
                project_pb2.Environment(name="staging", hosts=[f"{name}-staging.localhost"]),
            ],
            created_at=NOW,
        )
        self.projects.append(made)
        return made

    def deployment(
        self, state: str, *, served: bool = False, artifact: bool = True, **fields: Any
    ) -> orchestrator_pb2.Deployment:
        project = self.projects[0]
        states = ["PRODUCTION"] if served else []
        made = orchestrator_pb2.Deployment(
            id=fields.pop("id", new_id()),
            number=fields.pop("number", len(self.deployments) + 1),
            project_id=project.id,
            project_name=project.name,
            team_id=project.team_id,
            environment=fields.pop("environment", "production"),
            state=types_pb2.DeploymentState.Value(f"DEPLOYMENT_STATE_{state}"),
            source=types_pb2.Source(archive=types_pb2.ArchiveSource(digest=DIGEST, size_bytes=7)),
            hosts=["shop.localhost"],
            transitions=[
                orchestrator_pb2.Transition(to_state=types_pb2.DeploymentState.Value(f"DEPLOYMENT_STATE_{s}"), time=NOW)
                for s in states
            ],
            trigger=types_pb2.TRIGGER_UPLOAD,
            created_at=NOW,
            changed_at=NOW,
            version=1,
            **fields,
        )
        if artifact:
            made.artifact.digest = DIGEST
        self.deployments[made.id] = made
        return made

    def asked(self, method: str) -> list[Any]:
        return [request for name, request in self.calls if name == method]

    def audited(self) -> list[str]:
        return [request.entry.action for request in self.asked("RecordAudit")]

    async def change(self, deployment: orchestrator_pb2.Deployment, state: str) -> None:
        async with self.changed:
            deployment.state = types_pb2.DeploymentState.Value(f"DEPLOYMENT_STATE_{state}")
            deployment.version += 1
            self.changed.notify_all()

    async def write(self, *texts: str) -> None:
        async with self.changed:
            for text in texts:
                line = types_pb2.LogLine(sequence=len(self.entries) + 1, time=NOW, text=text, channel="stdout")
                self.entries.append(log_pb2.Entry(position=len(self.entries) + 1, source=types_pb2.LOG_SOURCE_BUILD, line=line))
            self.changed.notify_all()


class _Recording:
    def __init__(self, world: World) -> None:
        self.world = world

    def note(self, request: Any) -> None:
        self.world.calls.append((type(request).__name__.removesuffix("Request"), request))
        self.world.contexts.append(telemetry.current())


class Identity(_Recording, identity_pb2_grpc.IdentityServiceServicer):
    async def CreateFirstOwner(self, request: Any, context: Any) -> Any:
        self.note(request)
        if request.setup_token != "right":
            raise Unauthenticated("the setup token is wrong")
        return identity_pb2.CreateFirstOwnerResponse(
            user=identity_pb2.User(id=new_id(), email=request.email, name=request.name),
            team=identity_pb2.Team(id=new_id(), name=request.team_name),
            secret="shp_first",
        )

    async def Authenticate(self, request: Any, context: Any) -> Any:
        self.note(request)
        if request.secret not in self.world.tokens:
            raise Unauthenticated("the token is not valid")
        return self.world.tokens[request.secret]

    async def CreateToken(self, request: Any, context: Any) -> Any:
        self.note(request)
        token = identity_pb2.Token(id=new_id(), name=request.name, created_at=NOW)
        return identity_pb2.CreateTokenResponse(token=token, secret="shp_new")

    async def ListTokens(self, request: Any, context: Any) -> Any:
        self.note(request)
        return identity_pb2.ListTokensResponse(tokens=[identity_pb2.Token(id=new_id(), name="ci", created_at=NOW)])

    async def RevokeToken(self, request: Any, context: Any) -> Any:
        self.note(request)
        return identity_pb2.RevokeTokenResponse()

    async def CreateTeam(self, request: Any, context: Any) -> Any:
        self.note(request)
        return identity_pb2.CreateTeamResponse(team=identity_pb2.Team(id=new_id(), name=request.name))

    async def AddMember(self, request: Any, context: Any) -> Any:
        self.note(request)
        user = identity_pb2.User(id=new_id(), email=request.email, name="new")
        return identity_pb2.AddMemberResponse(user=user, secret="shp_member")

    async def RemoveMember(self, request: Any, context: Any) -> Any:
        self.note(request)
        return identity_pb2.RemoveMemberResponse()

    async def ListMembers(self, request: Any, context: Any) -> Any:
        self.note(request)
        if self.world.identity_lists_nobody:
            raise Unavailable("away", retry_after_s=0.01)
        known = self.world.tokens.values()
        members = [
            identity_pb2.Member(user=a.user, role=m.role) for a in known for m in a.memberships if m.team.id == request.team_id
        ]
        return identity_pb2.ListMembersResponse(members=members)

    async def RecordAudit(self, request: Any, context: Any) -> Any:
        self.note(request)
        if self.world.audit_is_away:
            raise Unavailable("away", retry_after_s=0.01)
        return identity_pb2.RecordAuditResponse()

    async def ListAudit(self, request: Any, context: Any) -> Any:
        self.note(request)
        entry = identity_pb2.AuditEntry(id=new_id(), time=NOW, team_id=request.team_id, actor="a", action="project.create")
        return identity_pb2.ListAuditResponse(entries=[entry], next_page_token="more")


class Projects(_Recording, project_pb2_grpc.ProjectServiceServicer):
    async def CreateProject(self, request: Any, context: Any) -> Any:
        self.note(request)
        made = self.world.project(request.name)
        made.team_id = request.team_id
        made.build.CopyFrom(request.build)
        return project_pb2.CreateProjectResponse(project=made)

    async def GetProject(self, request: Any, context: Any) -> Any:
        self.note(request)
        for project in self.world.projects:
            if request.id_or_name in (project.id, project.name):
                return project_pb2.GetProjectResponse(project=project)
        raise NotFound("a text of the service's own")

    async def ListProjects(self, request: Any, context: Any) -> Any:
        self.note(request)
        mine = [project for project in self.world.projects if project.team_id in request.team_ids]
        return project_pb2.ListProjectsResponse(projects=mine, next_page_token="next" if mine else "")

    async def UpdateProject(self, request: Any, context: Any) -> Any:
        self.note(request)
        return project_pb2.UpdateProjectResponse(project=self.world.projects[0])

    async def DeleteProject(self, request: Any, context: Any) -> Any:
        self.note(request)
        return project_pb2.DeleteProjectResponse()

    async def SetVariables(self, request: Any, context: Any) -> Any:
        self.note(request)
        return project_pb2.SetVariablesResponse(configuration_version=3)

    async def UnsetVariables(self, request: Any, context: Any) -> Any:
        self.note(request)
        return project_pb2.UnsetVariablesResponse(configuration_version=4)

    async def ListVariables(self, request: Any, context: Any) -> Any:
        self.note(request)
        variable = project_pb2.Variable(name="KEY", value="s3cret" if request.reveal else "", version=2, changed_at=NOW)
        return project_pb2.ListVariablesResponse(variables=[variable])

    async def UploadSource(self, requests: Any, context: Any) -> Any:
        self.world.uploads_begun += 1
        try:
            async for request in requests:
                if request.WhichOneof("part") == "chunk":
                    self.world.uploaded += request.chunk
                    self.world.chunk_sizes.append(len(request.chunk))
        finally:
            self.world.uploads_ended += 1
        return project_pb2.UploadSourceResponse(
            source=types_pb2.ArchiveSource(digest=DIGEST, size_bytes=len(self.world.uploaded))
        )

    async def RequestDeployment(self, request: Any, context: Any) -> Any:
        self.note(request)
        made = project_pb2.GetDeploymentRequestResponse(
            deployment_id=new_id(),
            project_id=request.project_id,
            team_id=self.world.team_id,
            environment=request.environment,
            source=request.source,
            trigger=types_pb2.TRIGGER_UPLOAD,
            requested_at=NOW,
        )
        self.world.accepted[made.deployment_id] = made
        return project_pb2.RequestDeploymentResponse(deployment_id=made.deployment_id)

    async def GetDeploymentRequest(self, request: Any, context: Any) -> Any:
        self.note(request)
        if request.deployment_id not in self.world.accepted:
            raise NotFound("no request")
        return self.world.accepted[request.deployment_id]

    async def SnapshotConfiguration(self, request: Any, context: Any) -> Any:
        self.note(request)
        return project_pb2.SnapshotConfigurationResponse(
            configuration=types_pb2.Configuration(version=9), hosts=[f"shop-{request.environment}.localhost"]
        )

    async def ReceiveWebhook(self, request: Any, context: Any) -> Any:
        self.note(request)
        if request.signature != SIGNATURE:
            raise Unauthenticated("the signature is wrong")
        repeated = sum(one.delivery_id == request.delivery_id for one in self.world.asked("ReceiveWebhook")) > 1
        self.world.receiving += 1
        self.world.most_received_at_once = max(self.world.most_received_at_once, self.world.receiving)
        await self.world.receipt.wait()
        self.world.receiving -= 1
        return project_pb2.ReceiveWebhookResponse(repeated=repeated, deployment_ids=[new_id()])


class Deployments(_Recording, orchestrator_pb2_grpc.DeploymentServiceServicer):
    def _find(self, deployment_id: str) -> orchestrator_pb2.Deployment:
        if deployment_id not in self.world.deployments:
            raise NotFound("no deployment")
        return self.world.deployments[deployment_id]

    async def CreateDeployment(self, request: Any, context: Any) -> Any:
        self.note(request)
        self._find(request.from_deployment_id)
        made = self.world.deployments.get(request.deployment_id) or self.world.deployment("QUEUED", id=request.deployment_id)
        return orchestrator_pb2.CreateDeploymentResponse(deployment=made)

    async def GetDeployment(self, request: Any, context: Any) -> Any:
        self.note(request)
        return orchestrator_pb2.GetDeploymentResponse(deployment=self._find(request.deployment_id))

    async def ListDeployments(self, request: Any, context: Any) -> Any:
        self.note(request)
        found = [
            d
            for d in sorted(self.world.deployments.values(), key=lambda d: -d.number)
            if (not request.environment or d.environment == request.environment)
            and (not request.states or d.state in request.states)
            and (not request.number or d.number == request.number)
            and d.project_id == request.project_id
        ]
        return orchestrator_pb2.ListDeploymentsResponse(deployments=found[: request.page_size or 50])

    async def WatchDeployment(self, request: Any, context: Any) -> Any:
        self.note(request)
        deployment, sent = self._find(request.deployment_id), 0
        self.world.streams_open.add("watch")
        try:
            while True:
                async with self.world.changed:
                    while deployment.version == sent:
                        await self.world.changed.wait()
                    sent = deployment.version
                    answer = orchestrator_pb2.WatchDeploymentResponse(deployment=deployment)
                yield answer
                if answer.deployment.state >= types_pb2.DEPLOYMENT_STATE_PRODUCTION:
                    return
        finally:
            self.world.streams_open.discard("watch")

    async def CancelDeployment(self, request: Any, context: Any) -> Any:
        self.note(request)
        deployment = self._find(request.deployment_id)
        if deployment.state >= types_pb2.DEPLOYMENT_STATE_PRODUCTION:
            raise PreconditionFailed("it rests already")
        return orchestrator_pb2.CancelDeploymentResponse(deployment=deployment)

    async def ScaleDeployment(self, request: Any, context: Any) -> Any:
        self.note(request)
        if request.replicas > 50:
            raise PreconditionFailed("there is no room for them", field="replicas", remedy="scale something else down")
        return orchestrator_pb2.ScaleDeploymentResponse(scaled=request.deployment_id in self.world.workloads)

    async def PauseDeployment(self, request: Any, context: Any) -> Any:
        self.note(request)
        return orchestrator_pb2.PauseDeploymentResponse()

    async def ListQueue(self, request: Any, context: Any) -> Any:
        self.note(request)
        return orchestrator_pb2.ListQueueResponse(budget=types_pb2.Resources(cpu_millis=2000, memory_bytes=1 << 30))


class Runtime(_Recording, runtime_pb2_grpc.RuntimeServiceServicer):
    async def GetWorkload(self, request: Any, context: Any) -> Any:
        self.note(request)
        if request.deployment_id not in self.world.workloads:
            raise NotFound("no workload")
        return runtime_pb2.GetWorkloadResponse(phase=runtime_pb2.WORKLOAD_PHASE_READY, replicas=1)

    async def RestartWorkload(self, request: Any, context: Any) -> Any:
        self.note(request)
        return runtime_pb2.RestartWorkloadResponse()

    async def ScaleWorkload(self, request: Any, context: Any) -> Any:
        self.note(request)
        if request.deployment_id not in self.world.workloads:
            raise NotFound("no workload")
        return runtime_pb2.ScaleWorkloadResponse()


class Logs(_Recording, log_pb2_grpc.LogServiceServicer):
    async def ReadLogs(self, request: Any, context: Any) -> Any:
        self.note(request)
        after = [entry for entry in self.world.entries if entry.position > request.after]
        limit = request.limit or 100
        return log_pb2.ReadLogsResponse(entries=after[-limit:] if request.tail else after[:limit], more=len(after) > limit)

    async def FollowLogs(self, request: Any, context: Any) -> Any:
        self.note(request)
        position = request.after
        self.world.streams_open.add("logs")
        try:
            while True:
                async with self.world.changed:
                    while len(self.world.entries) <= position:
                        await self.world.changed.wait()
                    fresh = self.world.entries[position : position + 100]
                    position += len(fresh)
                yield log_pb2.FollowLogsResponse(entries=fresh)
        finally:
            self.world.streams_open.discard("logs")


class Worker(_Recording, worker_pb2_grpc.WorkerServiceServicer):
    async def CreateHook(self, request: Any, context: Any) -> Any:
        self.note(request)
        hook = worker_pb2.Hook(id=new_id(), project_id=request.project_id, url=request.url, created_at=NOW)
        return worker_pb2.CreateHookResponse(hook=hook, secret="whsec")

    async def ListHooks(self, request: Any, context: Any) -> Any:
        self.note(request)
        return worker_pb2.ListHooksResponse()

    async def DeleteHook(self, request: Any, context: Any) -> Any:
        self.note(request)
        return worker_pb2.DeleteHookResponse()

    async def ListDeadEvents(self, request: Any, context: Any) -> Any:
        self.note(request)
        return worker_pb2.ListDeadEventsResponse(events=self.world.dead)

    async def GetDeadEvent(self, request: Any, context: Any) -> Any:
        self.note(request)
        return worker_pb2.GetDeadEventResponse(event=self._dead(request.id), payload_json='{"attempt": "1"}')

    async def ReplayDeadEvents(self, request: Any, context: Any) -> Any:
        self.note(request)
        return worker_pb2.ReplayDeadEventsResponse(count=self._take(request.events))

    async def DropDeadEvents(self, request: Any, context: Any) -> Any:
        self.note(request)
        return worker_pb2.DropDeadEventsResponse(count=self._take(request.events))

    def _dead(self, event_id: str) -> worker_pb2.DeadEvent:
        for event in self.world.dead:
            if event.id == event_id:
                return event
        raise NotFound("no such dead letter")

    def _take(self, choice: worker_pb2.DeadEventChoice) -> int:
        taken = [self._dead(choice.id)] if choice.id else list(self.world.dead)
        self.world.dead = [event for event in self.world.dead if event not in taken]
        return len(taken)


_SERVICES: list[tuple[str, Any, Callable[[World], object]]] = [
    ("identity", identity_pb2_grpc.add_IdentityServiceServicer_to_server, Identity),
    ("project", project_pb2_grpc.add_ProjectServiceServicer_to_server, Projects),
    ("orchestrator", orchestrator_pb2_grpc.add_DeploymentServiceServicer_to_server, Deployments),
    ("runtime", runtime_pb2_grpc.add_RuntimeServiceServicer_to_server, Runtime),
    ("log", log_pb2_grpc.add_LogServiceServicer_to_server, Logs),
    ("worker", worker_pb2_grpc.add_WorkerServiceServicer_to_server, Worker),
    # The real one: it holds nothing.
    ("detector", detector_pb2_grpc.add_DetectorServiceServicer_to_server, lambda _world: DetectorServicer()),
]


@dataclass
class Rig:
    """A gateway, and tokens of everybody."""

    world: World
    http: httpx2.AsyncClient
    socket: Path
    owner: str
    developer: str
    viewer: str
    stranger: str
    loner: str

    async def read_on(self, stream: ws_client.ClientConnection) -> None:
        """Reads until the other side closes; then raises ConnectionClosed."""
        while True:
            await asyncio.wait_for(stream.recv(), 10)

    @property
    def project(self) -> project_pb2.Project:
        return self.world.projects[0]

    async def call(self, method: str, path: str, *, token: str | None = None, **kwargs: Any) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return await self.http.request(method, path, headers={**headers, **kwargs.pop("headers", {})}, **kwargs)

    def follow(self, path: str, *, token: str | None = None, headers: dict[str, str] | None = None) -> ws_client.connect:
        given = {"Authorization": f"Bearer {token}"} if token else {}
        return ws_client.unix_connect(
            str(self.socket), f"ws://api.localhost{path}", additional_headers={**given, **(headers or {})}, proxy=None
        )


@asynccontextmanager
async def a_gateway(folder: Path, *, without: tuple[str, ...] = (), **settings: Any) -> AsyncIterator[Rig]:
    """The gateway with these settings, over every service but those in `without`."""
    world = World()
    world.receipt.set()
    world.project()
    socket = folder / "edge" / "gateway.sock"

    def address_of(service: str) -> str:
        return f"unix:{folder}/{service}.sock"

    async with AsyncExitStack() as stack:
        for name, add, servicer in _SERVICES:
            if name not in without:
                more = [commands_of(world)] if name == "runtime" else []
                await stack.enter_async_context(serving(address_of(name), [(add, servicer(world)), *more]))
        await stack.enter_async_context(running(GatewaySettings(http_socket=str(socket), **settings), address_of=address_of))
        transport = httpx2.AsyncHTTPTransport(uds=str(socket))
        http = await stack.enter_async_context(
            httpx2.AsyncClient(transport=transport, base_url="http://api.localhost", timeout=20)
        )
        yield Rig(
            world=world,
            http=http,
            socket=socket,
            owner=world.user("owner", (world.team_id, identity_pb2.ROLE_OWNER)),
            developer=world.user("developer", (world.team_id, identity_pb2.ROLE_DEVELOPER)),
            viewer=world.user("viewer", (world.team_id, identity_pb2.ROLE_VIEWER)),
            stranger=world.user("stranger", (world.other_team_id, identity_pb2.ROLE_OWNER)),
            loner=world.user("loner"),
        )
