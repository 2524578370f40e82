"""gRPC ↔ the worker's terms."""

from __future__ import annotations

from typing import Any

import grpc

from shipoff.common.deadletters import DeadLetter, DeadLetters
from shipoff.contracts.worker.v1 import worker_pb2, worker_pb2_grpc
from shipoff.worker import handlers
from shipoff.worker.domain import Hook
from shipoff.worker.ports import Hooks, Seal, Sender

Context = grpc.aio.ServicerContext[Any, Any]
_PAGE = 50


class WorkerServer(worker_pb2_grpc.WorkerServiceServicer):
    """WorkerService."""

    def __init__(self, hooks: Hooks, sender: Sender, seal: Seal, letters: DeadLetters) -> None:
        self._hooks = hooks
        self._sender = sender
        self._seal = seal
        self._letters = letters

    async def CreateHook(self, request: worker_pb2.CreateHookRequest, context: Context) -> worker_pb2.CreateHookResponse:
        hook, secret = await handlers.create_hook(
            self._hooks, self._sender, self._seal, project_id=request.project_id, team_id=request.team_id, url=request.url
        )
        return worker_pb2.CreateHookResponse(hook=_hook(hook), secret=secret)

    async def ListHooks(self, request: worker_pb2.ListHooksRequest, context: Context) -> worker_pb2.ListHooksResponse:
        return worker_pb2.ListHooksResponse(hooks=[_hook(hook) for hook in await self._hooks.of_project(request.project_id)])

    async def DeleteHook(self, request: worker_pb2.DeleteHookRequest, context: Context) -> worker_pb2.DeleteHookResponse:
        await self._hooks.remove(request.project_id, request.hook_id)
        return worker_pb2.DeleteHookResponse()

    async def ListDeadEvents(
        self, request: worker_pb2.ListDeadEventsRequest, context: Context
    ) -> worker_pb2.ListDeadEventsResponse:
        size = request.page_size or _PAGE
        found = await self._letters.page(stream=request.stream, group=request.group, after=request.page_token, limit=size + 1)
        next_token = found[size - 1].id if len(found) > size else ""
        return worker_pb2.ListDeadEventsResponse(events=[_dead(one) for one in found[:size]], next_page_token=next_token)

    async def GetDeadEvent(self, request: worker_pb2.GetDeadEventRequest, context: Context) -> worker_pb2.GetDeadEventResponse:
        letter = await self._letters.get(request.id)
        return worker_pb2.GetDeadEventResponse(event=_dead(letter), payload_json=letter.payload_json())

    async def ReplayDeadEvents(
        self, request: worker_pb2.ReplayDeadEventsRequest, context: Context
    ) -> worker_pb2.ReplayDeadEventsResponse:
        chosen = request.events
        if chosen.WhichOneof("choice") == "id":
            await self._letters.replay(chosen.id)
            return worker_pb2.ReplayDeadEventsResponse(count=1)
        count = await self._letters.replay_all(stream=chosen.all.stream, group=chosen.all.group)
        return worker_pb2.ReplayDeadEventsResponse(count=count)

    async def DropDeadEvents(
        self, request: worker_pb2.DropDeadEventsRequest, context: Context
    ) -> worker_pb2.DropDeadEventsResponse:
        chosen = request.events
        if chosen.WhichOneof("choice") == "id":
            await self._letters.drop(chosen.id)
            return worker_pb2.DropDeadEventsResponse(count=1)
        count = await self._letters.drop_all(stream=chosen.all.stream, group=chosen.all.group)
        return worker_pb2.DropDeadEventsResponse(count=count)


def _hook(hook: Hook) -> worker_pb2.Hook:
    message = worker_pb2.Hook(id=hook.id, project_id=hook.project_id, url=hook.url, last_result=hook.last_result)
    message.created_at.FromDatetime(hook.created_at)
    return message


def _dead(letter: DeadLetter) -> worker_pb2.DeadEvent:
    message = worker_pb2.DeadEvent(
        id=letter.id, stream=letter.stream, group=letter.group, reason=letter.reason, tries=letter.tries
    )
    message.buried_at.FromDatetime(letter.buried_at)
    if letter.event is not None:
        message.event_id, message.event_type = letter.event.id, letter.event.type
        message.team_id = letter.event.tenant_id
        message.event_time.FromDatetime(letter.event.time)
    return message
