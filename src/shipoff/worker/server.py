"""gRPC ↔ the worker's terms."""

from __future__ import annotations

from typing import Any

import grpc

from shipoff.contracts.worker.v1 import worker_pb2, worker_pb2_grpc
from shipoff.worker import handlers
from shipoff.worker.domain import Hook
from shipoff.worker.ports import Hooks, Seal, Sender

Context = grpc.aio.ServicerContext[Any, Any]


class WorkerServer(worker_pb2_grpc.WorkerServiceServicer):
    """WorkerService."""

    def __init__(self, hooks: Hooks, sender: Sender, seal: Seal) -> None:
        self._hooks = hooks
        self._sender = sender
        self._seal = seal

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


def _hook(hook: Hook) -> worker_pb2.Hook:
    message = worker_pb2.Hook(id=hook.id, project_id=hook.project_id, url=hook.url, last_result=hook.last_result)
    message.created_at.FromDatetime(hook.created_at)
    return message
