"""The session with the build service: it breaks and resumes; what matters is said again until it is heard."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shipoff.builder.journal import Journal
from shipoff.common import errors
from shipoff.common.calls import believing, channel
from shipoff.common.errors import ShipoffError
from shipoff.contracts.build.v1 import build_pb2, build_pb2_grpc
from shipoff.contracts.types.v1 import types_pb2

PROTOCOL = 1
TOKEN_KEY = "shipoff-build-token"  # noqa: S105 - a name
_HEARTBEAT_S = 2.0
_FIRST_BACKOFF_S = 0.1
_LONGEST_BACKOFF_S = 2.0
_UPLOAD_S = 600.0
# Batches on their way that are not stored yet: the service holds no more than these.
_IN_FLIGHT = 16
# After these there is nothing more to say: the attempt is unknown, or it is over.
_FINAL = (errors.Unauthenticated, errors.PermissionDenied, errors.NotFound, errors.Aborted, errors.PreconditionFailed)

Message = build_pb2.SessionRequest


class Lost(Exception):
    """The service is gone for longer than the builder's patience, or wants nothing more of this attempt."""


class Link:
    """One attempt's session. Make it, `run()` it beside the build, and ask."""

    def __init__(self, address: str, token: str, journal: Journal, *, patience_s: float, authority: str = "") -> None:
        loop = asyncio.get_running_loop()
        self._address = address
        self._credentials = believing(authority)
        self._metadata = ((TOKEN_KEY, token),)
        self._journal = journal
        self._patience_s = patience_s
        self.job: asyncio.Future[build_pb2.Job] = loop.create_future()
        self.cancelled: asyncio.Future[str] = loop.create_future()
        self._plan: asyncio.Future[build_pb2.PlanDecided] = loop.create_future()
        self._outcome_stored: asyncio.Future[None] = loop.create_future()
        self._snapshot: build_pb2.Snapshot | None = None
        self._outcome: build_pb2.Outcome | None = None
        self._outgoing: asyncio.Queue[Message] = asyncio.Queue()
        self._room = asyncio.Semaphore(_IN_FLIGHT)
        self._flying: list[int] = []
        self.memory_bytes = 0
        self._joined = False

    @asynccontextmanager
    async def _stub(self) -> AsyncIterator[build_pb2_grpc.BuilderServiceStub]:
        async with channel(self._address, credentials=self._credentials) as opened:
            yield build_pb2_grpc.BuilderServiceStub(opened)

    # What the build asks of it.

    async def plan(self, snapshot: build_pb2.Snapshot) -> build_pb2.PlanDecided:
        """What the detector makes of the snapshot."""
        self._snapshot = snapshot
        self._outgoing.put_nowait(Message(snapshot=build_pb2.SnapshotTaken(snapshot=snapshot)))
        return await asyncio.shield(self._plan)

    def phase(self, name: str) -> None:
        """Says what is being done."""
        self._outgoing.put_nowait(Message(phase=build_pb2.PhaseStarted(name=name)))

    async def finish(self, outcome: build_pb2.Outcome) -> None:
        """Delivers the log's rest, then the outcome; returns once it is stored."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience_s):
                await self._journal.all_stored()
        self._outcome = outcome
        self._outgoing.put_nowait(Message(outcome=outcome))
        await asyncio.shield(self._outcome_stored)

    async def fetch_source(self) -> AsyncIterator[bytes]:
        """The uploaded archive. Raises ShipoffError."""
        async with self._stub() as stub:
            request = build_pb2.FetchSourceRequest()
            async for part in stub.FetchSource(request, timeout=_UPLOAD_S, metadata=self._metadata):
                yield part.chunk

    async def upload(self, artifact: types_pb2.Artifact, chunks: AsyncIterator[bytes]) -> types_pb2.Artifact:
        """Stores the artifact; it with its key. Raises ShipoffError."""

        async def parts() -> AsyncIterator[build_pb2.UploadArtifactRequest]:
            yield build_pb2.UploadArtifactRequest(artifact=artifact)
            async for chunk in chunks:
                yield build_pb2.UploadArtifactRequest(chunk=chunk)

        async with self._stub() as stub:
            answer: build_pb2.UploadArtifactResponse = await stub.UploadArtifact(
                parts(), timeout=_UPLOAD_S, metadata=self._metadata
            )
            return answer.artifact

    async def record_image(self, artifact: types_pb2.Artifact) -> types_pb2.Artifact:
        """Makes a pushed image the attempt's artifact. Raises ShipoffError."""
        async with self._stub() as stub:
            answer: build_pb2.RecordImageResponse = await stub.RecordImage(
                build_pb2.RecordImageRequest(artifact=artifact), metadata=self._metadata
            )
            return answer.artifact

    # The conversation.

    async def run(self) -> None:
        """Holds the session until the outcome is stored. Raises Lost."""
        loop = asyncio.get_running_loop()
        away_since = loop.time()
        backoff_s = _FIRST_BACKOFF_S
        while not self._outcome_stored.done():
            self._joined = False
            try:
                await self._session()
            except _FINAL as error:
                raise Lost(error.message) from error
            except ShipoffError as error:
                if not self._joined and loop.time() - away_since > self._patience_s:
                    raise Lost(f"the service was away for {self._patience_s:.0f} s: {error.message}") from error
            if self._joined:
                away_since, backoff_s = loop.time(), _FIRST_BACKOFF_S
            if not self._outcome_stored.done():
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, _LONGEST_BACKOFF_S)

    async def _session(self) -> None:
        """One connection's life. Raises ShipoffError when it breaks."""
        self._outgoing = asyncio.Queue()
        self._room, self._flying = asyncio.Semaphore(_IN_FLIGHT), []
        self._outgoing.put_nowait(Message(hello=build_pb2.Hello(protocol=PROTOCOL)))
        speakers: list[asyncio.Task[None]] = []
        try:
            async with self._stub() as stub:
                async for answer in stub.Session(self._requests(), timeout=None, metadata=self._metadata):
                    if answer.WhichOneof("message") == "job":
                        await self._resume(answer.job)
                        speakers = [asyncio.create_task(self._send_lines()), asyncio.create_task(self._beat())]
                    else:
                        await self._take(answer)
        finally:
            for speaker in speakers:
                speaker.cancel()

    async def _requests(self) -> AsyncIterator[Message]:
        outgoing = self._outgoing
        while True:
            yield await outgoing.get()

    async def _resume(self, job: build_pb2.Job) -> None:
        self._joined = True
        await self._journal.resume(job.next_sequence)
        if not self.job.done():
            self.job.set_result(job)
        # What was said into a former session may not have been heard.
        if self._snapshot is not None and not self._plan.done():
            self._outgoing.put_nowait(Message(snapshot=build_pb2.SnapshotTaken(snapshot=self._snapshot)))
        if self._outcome is not None:
            self._outgoing.put_nowait(Message(outcome=self._outcome))

    async def _take(self, answer: build_pb2.SessionResponse) -> None:
        match answer.WhichOneof("message"):
            case "logs_stored":
                await self._journal.stored(answer.logs_stored.sequence)
                while self._flying and self._flying[0] <= answer.logs_stored.sequence:
                    self._flying.pop(0)
                    self._room.release()
            case "plan":
                _settle(self._plan, answer.plan)
            case "cancel":
                _settle(self.cancelled, answer.cancel.reason)
            case "outcome_stored":
                _settle(self._outcome_stored, None)

    async def _send_lines(self) -> None:
        while True:
            await self._room.acquire()
            lines = await self._journal.batch()
            self._flying.append(lines[-1].sequence)
            self._outgoing.put_nowait(Message(logs=build_pb2.LogLines(lines=lines)))

    async def _beat(self) -> None:
        while True:
            self._outgoing.put_nowait(Message(heartbeat=build_pb2.Heartbeat(memory_bytes=self.memory_bytes)))
            await asyncio.sleep(_HEARTBEAT_S)


def _settle(future: asyncio.Future[build_pb2.PlanDecided] | asyncio.Future[str] | asyncio.Future[None], value: object) -> None:
    if not future.done():
        future.set_result(value)  # type: ignore[arg-type]  # the callers pair them
