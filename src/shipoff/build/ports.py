"""What the build service needs from outside."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from shipoff.build.domain import Attempt, Order, Process, Ref, Sight, State
from shipoff.common.telemetry import Context
from shipoff.contracts.build.v1 import build_pb2
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.types.v1 import types_pb2

Outcome = events_pb2.BuildSucceeded | events_pb2.BuildFailed


@dataclass(frozen=True)
class Stored:
    """An attempt with everything that its builder's calls need."""

    ref: Ref
    project_id: str
    team_id: str
    state: State
    request: build_pb2.StartBuildRequest
    # Counts sessions: only the newest may write.
    session: int
    log_sequence: int
    plan: build_pb2.PlanDecided | None
    artifact: types_pb2.Artifact | None
    cancel_reason: str | None
    # As Attempt's.
    context: Context


@dataclass(frozen=True)
class Known:
    """An attempt as a caller asks for it."""

    state: State
    outcome: Outcome | None
    last_seen_unix_s: float


class BuildStore(Protocol):
    """Attempts, in the service's database. Everything raises Unavailable while that is away."""

    async def start(self, request: build_pb2.StartBuildRequest) -> bool:
        """Adds the attempt and ends lower ones, with their events; whether it is new. Raises Aborted for a lower one."""
        ...

    async def ask_to_cancel(self, ref: Ref, reason: str) -> bool:
        """Records that a running attempt shall stop; whether there is one."""
        ...

    async def find(self, ref: Ref) -> Known:
        """Raises NotFound."""
        ...

    async def request_of(self, ref: Ref) -> build_pb2.StartBuildRequest:
        """What was asked for. Raises NotFound."""
        ...

    async def unfinished(self) -> Sequence[Attempt]:
        """Every attempt that runs, or has ended and is not cleaned up."""
        ...

    async def launched(self, ref: Ref, process: Process, token_hash: bytes, timeout_s: int) -> bool:
        """Records a builder's process and begins its deadline; False when there is one, or the attempt has ended."""
        ...

    async def by_token(self, token_hash: bytes) -> Stored:
        """The attempt of a token. Raises Unauthenticated."""
        ...

    async def open_session(self, token_hash: bytes) -> Stored:
        """Begins a session, which ends every earlier one of the attempt. Raises Unauthenticated."""
        ...

    async def touch(self, ref: Ref, session: int) -> Stored:
        """Records that the builder was heard of. Raises Aborted when a newer session is there."""
        ...

    async def logs_stored(self, ref: Ref, session: int, sequence: int) -> None:
        """Lines up to this sequence are on the stream. Raises Aborted when a newer session is there."""
        ...

    async def plan_decided(self, ref: Ref, plan: build_pb2.PlanDecided, build_key: str) -> build_pb2.PlanDecided:
        """Keeps the first plan of the attempt with what its build is known by, and gives it.

        An artifact that is used again is the attempt's own from then on.
        """
        ...

    async def artifact_stored(self, ref: Ref, artifact: types_pb2.Artifact) -> None:
        """The artifact is in the object store. Raises Aborted when the attempt has ended."""
        ...

    async def finish(self, ref: Ref, outcome: Outcome) -> bool:
        """Ends a running attempt, its event in the same transaction; whether it was running."""
        ...

    async def cleaned(self, ref: Ref) -> None:
        """Nothing of the attempt is left."""
        ...


class BuilderLauncher(Protocol):
    """Starts and stops builders."""

    async def launch(self, ref: Ref, order: Order, recorded: Callable[[Process, bytes], Awaitable[bool]]) -> None:
        """Starts a builder that waits, has its process and its token's hash recorded, and lets it go on.

        Where that raises or answers False the builder leaves without having done anything. Raises PreconditionFailed
        when builders cannot be run, TemporaryError when they cannot now.
        """
        ...

    def look(self, process: Process) -> Sight:
        """What is to be seen of the builder now."""
        ...

    async def terminate(self, process: Process) -> None:
        """Asks it to stop."""
        ...

    async def stop(self, ref: Ref, process: Process | None) -> None:
        """Ends the builder and everything that came of it, also what outlived it."""
        ...

    async def clean_up(self, ref: Ref) -> None:
        """Removes what it has left where it worked."""
        ...

    def last_words(self, ref: Ref) -> str:
        """The end of what the builder said on standard error."""
        ...

    async def leftovers(self) -> Sequence[Ref]:
        """Attempts of which something is there: a work folder, a Job."""
        ...


class Detector(Protocol):
    """Makes a plan of a snapshot."""

    async def detect(self, snapshot: build_pb2.Snapshot, settings: types_pb2.BuildSettings) -> build_pb2.PlanDecided:
        """The plan, or the problem. Raises TemporaryError while the detector is away."""
        ...


class LogSink(Protocol):
    """Takes a build's lines."""

    async def publish(self, stored: Stored, lines: Sequence[types_pb2.LogLine]) -> None:
        """Returns once they are safe. Raises TemporaryError."""
        ...


class Objects(Protocol):
    """The object store."""

    async def put_stream(self, key: str, chunks: AsyncIterator[bytes]) -> tuple[str, int]: ...

    def get_stream(self, key: str) -> AsyncIterator[bytes]: ...

    async def move(self, source: str, target: str) -> None: ...

    async def delete(self, key: str) -> None: ...
