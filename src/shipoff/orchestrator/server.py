"""DeploymentService: gRPC ↔ domain."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, TypeVar

import grpc.aio

from shipoff.common.errors import InvalidInput, NotFound, PreconditionFailed
from shipoff.contracts.log.v1 import log_pb2, log_pb2_grpc
from shipoff.contracts.orchestrator.v1 import orchestrator_pb2 as pb
from shipoff.contracts.orchestrator.v1 import orchestrator_pb2_grpc as pb_grpc
from shipoff.contracts.types.v1 import types_pb2
from shipoff.orchestrator import handlers, messages
from shipoff.orchestrator.admission import Terms
from shipoff.orchestrator.domain import RESTING
from shipoff.orchestrator.ports import Store
from shipoff.orchestrator.queue_view import shown
from shipoff.orchestrator.records import History, NewDeployment, Record

_PAGE = 50
_LOG_PAGE = 1000
Found = TypeVar("Found", Record, History)
Context = grpc.aio.ServicerContext[Any, Any]


class Changes:
    """Wakes watchers when a deployment changed in this process; they look at least once a second for the others'."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Something was committed."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, at_most_s: float = 1.0) -> None:
        """Returns at the next change, or after a second."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), at_most_s)


class DeploymentServer(pb_grpc.DeploymentServiceServicer):
    """The public methods; authorisation is the gateway's."""

    def __init__(self, store: Store, logs: log_pb2_grpc.LogServiceStub, changes: Changes, terms: Terms) -> None:
        self._store = store
        self._logs = logs
        self._changes = changes
        self._terms = terms

    async def CreateDeployment(self, request: pb.CreateDeploymentRequest, context: Context) -> pb.CreateDeploymentResponse:
        origin = await self._record(request.from_deployment_id)
        if not origin.deployment.artifact or origin.artifact_expired:
            raise PreconditionFailed(
                f"deployment #{origin.deployment.number} has no artifact that is still kept",
                remedy="deploy its commit again instead",
            )
        async with self._store.begin() as work:
            await handlers.accept(work, _from_origin(origin, request))
        return pb.CreateDeploymentResponse(deployment=await self._message(request.deployment_id))

    async def GetDeployment(self, request: pb.GetDeploymentRequest, context: Context) -> pb.GetDeploymentResponse:
        return pb.GetDeploymentResponse(deployment=await self._message(request.deployment_id))

    async def ListDeployments(self, request: pb.ListDeploymentsRequest, context: Context) -> pb.ListDeploymentsResponse:
        limit = request.page_size or _PAGE
        found = await self._store.page(
            request.project_id,
            environment=request.environment,
            states=[messages.state_of(state) for state in request.states],
            number=request.number,
            before=_page_after(request.page_token),
            limit=limit + 1,
        )
        page = found[:limit]
        return pb.ListDeploymentsResponse(
            deployments=[messages.deployment(record) for record in page],
            next_page_token=str(page[-1].deployment.number) if len(found) > limit else "",
        )

    async def WatchDeployment(
        self, request: pb.WatchDeploymentRequest, context: Context
    ) -> AsyncIterator[pb.WatchDeploymentResponse]:
        seen = 0
        while True:
            message = await self._message(request.deployment_id)
            if message.version > seen:
                seen = message.version
                yield pb.WatchDeploymentResponse(deployment=message)
            if messages.state_of(message.state) in RESTING:
                return
            await self._changes.wait()

    async def CancelDeployment(self, request: pb.CancelDeploymentRequest, context: Context) -> pb.CancelDeploymentResponse:
        await handlers.cancel(self._store, request.deployment_id, request.cancelled_by)
        return pb.CancelDeploymentResponse(deployment=await self._message(request.deployment_id))

    async def StreamDeploymentLogs(
        self, request: pb.StreamDeploymentLogsRequest, context: Context
    ) -> AsyncIterator[pb.StreamDeploymentLogsResponse]:
        position = 0
        while True:
            # Asked before the read: what was logged until it rested is in the store by the time of the last read.
            resting = (await self._record(request.deployment_id)).deployment.state in RESTING
            read = log_pb2.ReadLogsRequest(deployment_id=request.deployment_id, after=position, limit=_LOG_PAGE)
            page = await self._logs.ReadLogs(read)
            for entry in page.entries:
                position = entry.position
                yield pb.StreamDeploymentLogsResponse(source=entry.source, line=entry.line)
            if not page.more and (resting or not request.follow):
                return
            if not page.entries:
                await self._changes.wait(0.2)

    async def ScaleDeployment(self, request: pb.ScaleDeploymentRequest, context: Context) -> pb.ScaleDeploymentResponse:
        return pb.ScaleDeploymentResponse(scaled=await handlers.scale(self._store, request.deployment_id, request.replicas))

    async def PauseDeployment(self, request: pb.PauseDeploymentRequest, context: Context) -> pb.PauseDeploymentResponse:
        await handlers.pause(self._store, request.deployment_id, paused=request.paused)
        return pb.PauseDeploymentResponse()

    async def ListQueue(self, request: pb.ListQueueRequest, context: Context) -> pb.ListQueueResponse:
        return shown(await self._store.queue(), self._terms, frozenset(request.team_ids) or None)

    async def _record(self, deployment_id: str) -> Record:
        return _found(await self._store.record(deployment_id))

    async def _message(self, deployment_id: str) -> pb.Deployment:
        found = _found(await self._store.history(deployment_id))
        return messages.deployment(found.record, found.steps, found.retries)


def _found(one: Found | None) -> Found:
    if one is None:
        raise NotFound("there is no such deployment")
    return one


def _page_after(token: str) -> int:
    if token and not token.isdigit():
        raise InvalidInput("this page token is none of ours", field="page_token", remedy="use next_page_token as it came")
    return int(token or 0)


def _from_origin(origin: Record, request: pb.CreateDeploymentRequest) -> NewDeployment:
    """A deployment of the origin's artifact, with its configuration or the one that is given instead."""
    if request.trigger == types_pb2.TRIGGER_PROMOTE:
        _check_promotion(origin, request)
    copy = messages.Copy(
        deployment_id=request.deployment_id,
        trigger=request.trigger,
        requested_by=request.requested_by,
        accepted_at=datetime.now(UTC),
        environment=request.environment,
        configuration=request.configuration if request.HasField("configuration") else None,
        hosts=tuple(request.hosts),
    )
    return messages.copied(origin, copy)


def _check_promotion(origin: Record, request: pb.CreateDeploymentRequest) -> None:
    """It goes to another environment, with what is that environment's own."""
    if not request.hosts:
        raise InvalidInput("a promotion needs the target environment's hosts", field="hosts")
    if not request.HasField("configuration"):
        raise InvalidInput("a promotion needs the target environment's configuration", field="configuration")
    if request.environment in ("", origin.deployment.environment):
        raise InvalidInput(
            f"deployment #{origin.deployment.number} is of {origin.deployment.environment} already",
            field="environment",
            remedy="name another environment, or redeploy it here",
        )
