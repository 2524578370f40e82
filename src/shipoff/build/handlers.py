"""What callers ask of the build service: one method a use case."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass

from shipoff.build.domain import Cause, Ref, State
from shipoff.build.ports import BuildStore, Known, Objects, Outcome, Stored
from shipoff.common.errors import Aborted, DataLoss, InvalidInput, PreconditionFailed
from shipoff.contracts.build.v1 import build_pb2
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.types.v1 import types_pb2

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PIECE_BYTES = 1 << 20
_ARCHIVES = (types_pb2.ARTIFACT_KIND_STATIC, types_pb2.ARTIFACT_KIND_APP)
_FAILURES = {
    Cause.CANCELLED: events_pb2.BUILD_FAILURE_CANCELLED,
    Cause.BUILDER_LOST: events_pb2.BUILD_FAILURE_BUILDER_LOST,
    Cause.OUT_OF_MEMORY: events_pb2.BUILD_FAILURE_OUT_OF_MEMORY,
    Cause.DISK: events_pb2.BUILD_FAILURE_DISK,
    Cause.TIMEOUT: events_pb2.BUILD_FAILURE_TIMEOUT,
    Cause.PLATFORM: events_pb2.BUILD_FAILURE_PLATFORM,
}


class Bells:
    """Wakes whoever serves a deployment's attempts in this process; what there is to do stands in the database."""

    def __init__(self) -> None:
        self.reconciler = asyncio.Event()
        self._sessions: dict[str, set[asyncio.Event]] = defaultdict(set)

    def hang(self, deployment_id: str) -> asyncio.Event:
        """A bell for a session."""
        bell = asyncio.Event()
        self._sessions[deployment_id].add(bell)
        return bell

    def take_down(self, deployment_id: str, bell: asyncio.Event) -> None:
        """The session is over."""
        self._sessions[deployment_id].discard(bell)
        if not self._sessions[deployment_id]:
            del self._sessions[deployment_id]

    def ring(self, deployment_id: str) -> None:
        """Something about an attempt of this deployment has changed."""
        self.reconciler.set()
        for bell in self._sessions.get(deployment_id, ()):
            bell.set()


class Builds:
    """The orchestrator's use cases."""

    def __init__(self, store: BuildStore, bells: Bells) -> None:
        self._store = store
        self._bells = bells

    async def start(self, request: build_pb2.StartBuildRequest) -> None:
        """Stores the attempt; the reconciler launches its builder. Raises Aborted when a higher attempt is known."""
        source = request.source
        if source.WhichOneof("kind") == "archive" and not source.archive.object_key:
            raise InvalidInput("the archive has no key", field="source.archive.object_key")
        if await self._store.start(request):
            self._bells.ring(request.deployment_id)

    async def cancel(self, ref: Ref) -> None:
        """Stores that the attempt shall stop, and tells its session."""
        if await self._store.ask_to_cancel(ref, "the deployment was cancelled"):
            self._bells.ring(ref.deployment_id)

    async def get(self, ref: Ref) -> Known:
        """Raises NotFound."""
        return await self._store.find(ref)


def failed(ref: Ref, cause: Cause, reason: str) -> events_pb2.BuildFailed:
    """What the service says of an attempt that it ends itself."""
    return events_pb2.BuildFailed(deployment_id=ref.deployment_id, attempt=ref.attempt, failure=_FAILURES[cause], reason=reason)


def reported(stored: Stored, outcome: build_pb2.Outcome) -> Outcome:
    """What an outcome amounts to. A success counts only with the plan and the artifact that this service has stored."""
    if outcome.WhichOneof("result") == "failure":
        return _failure(stored.ref, outcome.failure, outcome.usage)
    artifact = stored.artifact
    if artifact is None or artifact.digest != outcome.success.artifact.digest or stored.plan is None:
        missing = build_pb2.Failure(
            failure=events_pb2.BUILD_FAILURE_ARTIFACT, reason="the artifact was never stored: deploy again", step="upload"
        )
        return _failure(stored.ref, missing, outcome.usage)
    return events_pb2.BuildSucceeded(
        deployment_id=stored.ref.deployment_id,
        attempt=stored.ref.attempt,
        artifact=artifact,
        plan=stored.plan.plan,
        # What was not built says nothing of what builds need.
        usage=None if stored.plan.HasField("unchanged") else outcome.usage,
        commit=outcome.commit,
    )


def _failure(ref: Ref, failure: build_pb2.Failure, usage: types_pb2.Usage) -> events_pb2.BuildFailed:
    return events_pb2.BuildFailed(
        deployment_id=ref.deployment_id,
        attempt=ref.attempt,
        failure=failure.failure,
        reason=failure.reason,
        step=failure.step,
        usage=usage,
    )


@dataclass(frozen=True)
class Transfers:
    """A builder's transfers: the source to it, the artifact from it."""

    store: BuildStore
    objects: Objects
    artifact_bytes: int
    # Where images of this platform are; empty: none are built.
    registry: str = ""

    async def source(self, stored: Stored) -> AsyncIterator[bytes]:
        """The uploaded archive, in pieces that fit a message. Raises NotFound, PreconditionFailed for another source."""
        source = stored.request.source
        if source.WhichOneof("kind") != "archive":
            raise PreconditionFailed("this attempt's source is no archive")
        async for chunk in self.objects.get_stream(source.archive.object_key):
            for start in range(0, len(chunk), _PIECE_BYTES):
                yield chunk[start : start + _PIECE_BYTES]

    async def artifact(self, stored: Stored, declared: types_pb2.Artifact, chunks: AsyncIterator[bytes]) -> types_pb2.Artifact:
        """Stores an artifact under the key that its digest makes; the artifact with its key.

        Raises InvalidInput for a bad declaration, DataLoss when other bytes arrive (nothing is kept), Aborted when the
        attempt has ended.
        """
        self._check(stored, declared, *_ARCHIVES)
        incoming = incoming_key(stored.ref)
        try:
            digest, size = await self.objects.put_stream(incoming, _at_most(chunks, declared.size_bytes))
            if (digest, size) != (declared.digest, declared.size_bytes):
                raise DataLoss(f"{size} bytes with digest {digest} arrived, {declared.size_bytes} were declared")
            key = f"artifacts/{stored.project_id}/{digest}.tar.gz"
            await self.objects.move(incoming, key)
        except BaseException:
            await asyncio.shield(self.objects.delete(incoming))
            raise
        artifact = types_pb2.Artifact(kind=declared.kind, object_key=key, digest=digest, size_bytes=size)
        await self.store.artifact_stored(stored.ref, artifact)
        return artifact

    async def image(self, stored: Stored, declared: types_pb2.Artifact) -> types_pb2.Artifact:
        """Records an image in the project's own repository; the artifact. Raises InvalidInput, Aborted as `artifact` does."""
        self._check(stored, declared, types_pb2.ARTIFACT_KIND_IMAGE)
        if not self.registry or declared.object_key != f"{self.registry}/{stored.project_id}@{declared.digest}":
            raise InvalidInput("the image is not in the project's repository", field="artifact.object_key")
        await self.store.artifact_stored(stored.ref, declared)
        return declared

    def _check(self, stored: Stored, declared: types_pb2.Artifact, *kinds: types_pb2.ArtifactKind.ValueType) -> None:
        if stored.state is not State.RUNNING:
            raise Aborted("the attempt has ended")
        if not _DIGEST.fullmatch(declared.digest):
            raise InvalidInput("the digest has to be sha256:<hex>", field="artifact.digest")
        if declared.kind not in kinds:
            raise InvalidInput("an archive is a static site or an app, an image is an image", field="artifact.kind")
        if not 0 < declared.size_bytes <= self.artifact_bytes:
            raise InvalidInput(f"an artifact has at most {self.artifact_bytes} bytes", field="artifact.size_bytes")


def incoming_key(ref: Ref) -> str:
    """Where an attempt's artifact waits until its digest is known to be right."""
    return f"incoming/{ref.deployment_id}-{ref.attempt}"


async def _at_most(chunks: AsyncIterator[bytes], size: int) -> AsyncIterator[bytes]:
    """The chunks, cut off one byte after the declared size: the digest tells the rest."""
    left = size + 1
    async for chunk in chunks:
        yield chunk[:left]
        left -= len(chunk)
        if left <= 0:
            return
