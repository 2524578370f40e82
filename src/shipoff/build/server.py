"""gRPC ↔ use cases: BuildService for the orchestrator, BuilderService for builders."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from shipoff.build.conversation import Conversation, Services
from shipoff.build.domain import Ref, State
from shipoff.build.handlers import Builds, Transfers
from shipoff.build.ports import Stored
from shipoff.common.errors import InvalidInput, Unauthenticated
from shipoff.common.telemetry import take_on
from shipoff.contracts.build.v1 import build_pb2, build_pb2_grpc
from shipoff.contracts.events.v1 import events_pb2

TOKEN_KEY = "shipoff-build-token"  # noqa: S105 - a name
_STATES = {
    State.RUNNING: build_pb2.BUILD_STATE_RUNNING,
    State.SUCCEEDED: build_pb2.BUILD_STATE_SUCCEEDED,
    State.FAILED: build_pb2.BUILD_STATE_FAILED,
}

Context = grpc.aio.ServicerContext[Any, Any]


class BuildServer(build_pb2_grpc.BuildServiceServicer):
    """What the orchestrator calls."""

    def __init__(self, builds: Builds) -> None:
        self._builds = builds

    async def StartBuild(self, request: build_pb2.StartBuildRequest, context: Context) -> build_pb2.StartBuildResponse:
        """Starts an attempt; the same again does nothing."""
        await self._builds.start(request)
        return build_pb2.StartBuildResponse()

    async def CancelBuild(self, request: build_pb2.CancelBuildRequest, context: Context) -> build_pb2.CancelBuildResponse:
        """Stops an attempt within seconds; the answer comes as BuildFailed."""
        await self._builds.cancel(Ref(request.deployment_id, request.attempt))
        return build_pb2.CancelBuildResponse()

    async def GetBuild(self, request: build_pb2.GetBuildRequest, context: Context) -> build_pb2.GetBuildResponse:
        """An attempt's state and outcome."""
        known = await self._builds.get(Ref(request.deployment_id, request.attempt))
        response = build_pb2.GetBuildResponse(state=_STATES[known.state])
        if isinstance(known.outcome, events_pb2.BuildSucceeded):
            response.succeeded.CopyFrom(known.outcome)
        elif known.outcome is not None:
            response.failed.CopyFrom(known.outcome)
        if known.last_seen_unix_s:
            response.last_seen_at.FromMilliseconds(int(known.last_seen_unix_s * 1000))
        return response


class BuilderServer(build_pb2_grpc.BuilderServiceServicer):
    """What builders call. The token decides which attempt it is about."""

    def __init__(self, services: Services, transfers: Transfers) -> None:
        self._services = services
        self._transfers = transfers
        self._conversations: dict[Ref, Conversation] = {}

    async def Session(
        self, request_iterator: AsyncIterator[build_pb2.SessionRequest], context: Context
    ) -> AsyncIterator[build_pb2.SessionResponse]:
        """The attempt's conversation."""
        token_hash = _token_hash(context)
        ref = (await self._attempt(token_hash)).ref
        if (former := self._conversations.get(ref)) is not None:
            await former.give_way()
        conversation = Conversation(self._services, await self._services.store.open_session(token_hash))
        self._conversations[ref] = conversation
        try:
            async for answer in conversation.answers(request_iterator):
                yield answer
        finally:
            if self._conversations.get(ref) is conversation:
                del self._conversations[ref]

    async def FetchSource(
        self, request: build_pb2.FetchSourceRequest, context: Context
    ) -> AsyncIterator[build_pb2.FetchSourceResponse]:
        """The uploaded archive."""
        stored = await self._attempt(_token_hash(context))
        async for chunk in self._transfers.source(stored):
            yield build_pb2.FetchSourceResponse(chunk=chunk)

    async def UploadArtifact(
        self, request_iterator: AsyncIterator[build_pb2.UploadArtifactRequest], context: Context
    ) -> build_pb2.UploadArtifactResponse:
        """Takes the packed artifact."""
        stored = await self._attempt(_token_hash(context))
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("part") != "artifact":
            raise InvalidInput("an upload begins with what is uploaded", field="artifact")
        artifact = await self._transfers.artifact(stored, first.artifact, _chunks(request_iterator))
        return build_pb2.UploadArtifactResponse(artifact=artifact)

    async def RecordImage(self, request: build_pb2.RecordImageRequest, context: Context) -> build_pb2.RecordImageResponse:
        """Makes a pushed image the attempt's artifact."""
        stored = await self._attempt(_token_hash(context))
        return build_pb2.RecordImageResponse(artifact=await self._transfers.image(stored, request.artifact))

    async def _attempt(self, token_hash: bytes) -> Stored:
        """The attempt that the call is about. The call goes on under its ids: builders bring none."""
        stored = await self._services.store.by_token(token_hash)
        take_on(stored.context)
        return stored


async def _chunks(requests: AsyncIterator[build_pb2.UploadArtifactRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request.chunk


def _token_hash(context: Context) -> bytes:
    for name, value in context.invocation_metadata() or ():
        if name == TOKEN_KEY:
            token = value if isinstance(value, bytes) else value.encode()
            return hashlib.sha256(token).digest()
    raise Unauthenticated(f"a builder proves itself with {TOKEN_KEY}")
