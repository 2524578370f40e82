"""One session of a builder: the job down, its log, plan and outcome up. It may break at any word and be resumed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial

import structlog

from shipoff.build.domain import Cause, State
from shipoff.build.handlers import Bells, failed, reported
from shipoff.build.ports import BuildStore, Detector, LogSink, Stored
from shipoff.build.reuse import Reuse
from shipoff.common.errors import Exhausted, InvalidInput, PreconditionFailed, ShipoffError, TemporaryError, Unavailable
from shipoff.common.sealing import Sealer
from shipoff.contracts.build.v1 import build_pb2
from shipoff.contracts.types.v1 import types_pb2

PROTOCOL = 1
# More batches than a builder has in flight: one that sends more is not ours.
_BATCHES = 64
_FIRST_BACKOFF_S = 0.1
_LONGEST_BACKOFF_S = 2.0
_GIVE_WAY_S = 2.0

log = structlog.get_logger()

Answer = build_pb2.SessionResponse


@dataclass(frozen=True)
class Services:
    """What sessions need."""

    store: BuildStore
    detector: Detector
    logs: LogSink
    sealer: Sealer
    reuse: Reuse
    bells: Bells
    # Set when this service stops: builders reconnect to its successor.
    closing: asyncio.Event


class Conversation:
    """A session from hello to its end."""

    def __init__(self, services: Services, stored: Stored) -> None:
        self._services = services
        self._stored = stored
        self._answers: asyncio.Queue[Answer | ShipoffError | None] = asyncio.Queue()
        self._batches: asyncio.Queue[list[types_pb2.LogLine]] = asyncio.Queue(_BATCHES)
        self._bell = services.bells.hang(stored.ref.deployment_id)
        self._tasks: set[asyncio.Task[None]] = set()
        self._told = False
        self._storing: asyncio.Future[None] | None = None
        self._ended = asyncio.Event()

    async def answers(self, requests: AsyncIterator[build_pb2.SessionRequest]) -> AsyncIterator[Answer]:
        """The service's side. Raises ShipoffError; the builder begins a new session after a temporary one."""
        try:
            yield Answer(job=await self._job(await anext(requests, None)))
            for part in (self._hear(requests), self._store_lines(), self._watch_for_cancel(), self._watch_for_close()):
                self._begin(part)
            while (answer := await self._answers.get()) is not None:
                if isinstance(answer, ShipoffError):
                    raise answer
                yield answer
        finally:
            self._services.bells.take_down(self._stored.ref.deployment_id, self._bell)
            for task in self._tasks:
                task.cancel()
            # A batch that is on the stream has to be recorded, or the next session brings its lines again.
            await asyncio.gather(*self._tasks, *([self._storing] if self._storing else []), return_exceptions=True)
            self._ended.set()

    async def give_way(self) -> None:
        """Ends the session, before a new one of the same attempt reads how far this one came."""
        self._answers.put_nowait(Unavailable("a newer session of this attempt is there", retry_after_s=0.1))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), _GIVE_WAY_S)

    def _begin(self, part: Coroutine[None, None, None]) -> None:
        async def guarded() -> None:
            try:
                await part
            except ShipoffError as error:
                self._answers.put_nowait(error)
            except Exception as error:
                # Told to the builder, which begins anew: it would wait for this part for ever.
                log.exception("build session failed", attempt=str(self._stored.ref), error=str(error))
                self._answers.put_nowait(Unavailable("the build service failed", retry_after_s=1.0))

        task = asyncio.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _job(self, first: build_pb2.SessionRequest | None) -> build_pb2.Job:
        if first is None or first.WhichOneof("message") != "hello":
            raise InvalidInput("a session begins with hello", field="hello")
        if first.hello.protocol != PROTOCOL:
            raise PreconditionFailed(f"this service speaks protocol {PROTOCOL}, the builder {first.hello.protocol}")
        request = self._stored.request
        return build_pb2.Job(
            deployment_id=self._stored.ref.deployment_id,
            attempt=self._stored.ref.attempt,
            source=request.source,
            settings=request.configuration.build,
            variables=await self._variables(),
            limits=request.limits,
            timeout_s=request.timeout_s,
            next_sequence=self._stored.log_sequence + 1,
            notice=request.notice,
            project_id=request.project_id,
            team_id=request.team_id,
            cache_key=self._services.sealer.derive(f"build cache of {request.project_id}"),
            no_cache=request.configuration.no_cache,
        )

    async def _variables(self) -> dict[str, str]:
        try:
            return self._services.sealer.open_variables(self._stored.request.configuration.variables)
        except ShipoffError as error:
            reason = f"the project's variables cannot be opened: {error.message}. {error.remedy}".strip()
            await self._services.store.finish(self._stored.ref, failed(self._stored.ref, Cause.PLATFORM, reason))
            self._services.bells.ring(self._stored.ref.deployment_id)
            raise

    async def _hear(self, requests: AsyncIterator[build_pb2.SessionRequest]) -> None:
        async for request in requests:
            match request.WhichOneof("message"):
                case "logs":
                    self._take_lines(list(request.logs.lines))
                case "snapshot":
                    self._begin(self._plan(request.snapshot.snapshot))
                case "heartbeat" | "phase":
                    await self._touch()
                case "outcome":
                    await self._finish(request.outcome)
        self._answers.put_nowait(None)

    def _take_lines(self, lines: list[types_pb2.LogLine]) -> None:
        try:
            self._batches.put_nowait(lines)
        except asyncio.QueueFull as error:
            raise Exhausted("more lines are under way than a builder may send", retry_after_s=1.0) from error

    async def _store_lines(self) -> None:
        """Publishes batches in order; while Redis is away they wait, and the builder with them."""
        stored = self._stored.log_sequence
        while True:
            lines = [line for line in await self._batches.get() if line.sequence > stored]
            if not lines:
                continue
            if lines[0].sequence != stored + 1:
                raise InvalidInput(f"line {stored + 1} is missing", field="logs")
            await self._until_up(partial(self._store, lines))
            stored = lines[-1].sequence
            self._answers.put_nowait(Answer(logs_stored=build_pb2.LogsStored(sequence=stored)))

    async def _store(self, lines: list[types_pb2.LogLine]) -> None:
        """Publishes and records a batch, also when the session ends meanwhile."""

        async def both() -> None:
            await self._services.logs.publish(self._stored, lines)
            await self._services.store.logs_stored(self._stored.ref, self._stored.session, lines[-1].sequence)

        self._storing = asyncio.ensure_future(both())
        await asyncio.shield(self._storing)

    async def _plan(self, snapshot: build_pb2.Snapshot) -> None:
        decided = self._stored.plan
        if decided is None:
            detected = build_pb2.PlanDecided()

            async def detect() -> None:
                settings = self._stored.request.configuration.build
                detected.CopyFrom(await self._services.detector.detect(snapshot, settings))

            await self._until_up(detect)
            decided = await self._decided(detected)
        self._answers.put_nowait(Answer(plan=decided))

    async def _decided(self, detected: build_pb2.PlanDecided) -> build_pb2.PlanDecided:
        """The plan, kept, with what may be used again instead of building it."""
        kept: list[build_pb2.PlanDecided] = []

        async def keep() -> None:
            considered, key = await self._services.reuse.considered(self._stored, detected)
            kept.append(await self._services.store.plan_decided(self._stored.ref, considered, key))

        await self._until_up(keep)
        return kept[-1]

    async def _touch(self) -> None:
        """Tells the lease that the builder lives, and the builder what has become of its attempt."""
        now = await self._services.store.touch(self._stored.ref, self._stored.session)
        if self._told or (now.cancel_reason is None and now.state is State.RUNNING):
            return
        self._told = True
        reason = now.cancel_reason or "the attempt has ended"
        self._answers.put_nowait(Answer(cancel=build_pb2.Cancel(reason=reason)))

    async def _watch_for_cancel(self) -> None:
        self._bell.set()
        while True:
            await self._bell.wait()
            self._bell.clear()
            await self._touch()

    async def _watch_for_close(self) -> None:
        await self._services.closing.wait()
        raise Unavailable("the build service stops; a new one follows", retry_after_s=0.5)

    async def _finish(self, outcome: build_pb2.Outcome) -> None:
        store, ref = self._services.store, self._stored.ref
        now = await store.touch(ref, self._stored.session)
        result = reported(now, outcome)
        if await store.finish(ref, result):
            log.info("build ended", deployment_id=ref.deployment_id, attempt=ref.attempt, result=type(result).__name__)
        self._services.bells.reconciler.set()
        self._answers.put_nowait(Answer(outcome_stored=build_pb2.OutcomeStored()))
        self._answers.put_nowait(None)

    async def _until_up(self, work: Callable[[], Awaitable[None]]) -> None:
        """Does it, again while something is away."""
        backoff_s = _FIRST_BACKOFF_S
        while True:
            try:
                return await work()
            except TemporaryError as error:
                log.info("build session waits", attempt=str(self._stored.ref), error=error.message)
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, _LONGEST_BACKOFF_S)
