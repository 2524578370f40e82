"""Compares what is stored of attempts with the builders that live, and mends the difference."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import structlog

from shipoff.build.domain import (
    GONE,
    Attempt,
    Cause,
    CleanUp,
    Fail,
    Instruction,
    Launch,
    Order,
    Process,
    Ref,
    Rules,
    Stop,
    Terminate,
)
from shipoff.build.handlers import Bells, failed, incoming_key
from shipoff.build.ports import BuilderLauncher, BuildStore, Objects
from shipoff.build.transitions import decide
from shipoff.common.errors import NotFound, PermanentError, TemporaryError
from shipoff.common.telemetry import take_on

_EVERY_S = 0.5
# With nothing unfinished; a new attempt wakes it at once.
_IDLE_S = 4.0
# A pause between two looks that is longer was an outage: silence during it says nothing about builders.
_BLIND_S = 5.0
_COLLECT_EVERY_S = 30.0

log = structlog.get_logger()


class Reconciler:
    """Level-triggered: what it did not finish it finds again."""

    def __init__(
        self,
        store: BuildStore,
        launcher: BuilderLauncher,
        objects: Objects,
        bells: Bells,
        *,
        rules: Rules,
    ) -> None:
        self._store = store
        self._launcher = launcher
        self._objects = objects
        self._bells = bells
        self._rules = rules
        self._observing_since = self._looked_at = self._collect_at = time.monotonic()
        self._busy: dict[Ref, asyncio.Task[None]] = {}
        self._idle = False

    def pause_s(self) -> float:
        """How long until the next look."""
        return _IDLE_S if self._idle else _EVERY_S

    async def look(self) -> None:
        """One comparison. What it leads to goes on beside it, one thing at a time for each attempt."""
        attempts = await self._store.unfinished()
        self._idle = not attempts
        now = time.monotonic()
        if now - self._looked_at > _BLIND_S:
            self._observing_since = now
        self._looked_at = now
        for attempt in attempts:
            if attempt.ref not in self._busy:
                self._consider(attempt, now - self._observing_since)
        if now >= self._collect_at:
            self._collect_at = now + _COLLECT_EVERY_S
            await self._collect(attempts)

    def _consider(self, attempt: Attempt, observed_s: float) -> None:
        builder = GONE if attempt.process is None else self._launcher.look(attempt.process)
        instructions = decide(attempt, builder=builder, observed_s=observed_s, rules=self._rules)
        if instructions:
            task = asyncio.create_task(self._perform_all(attempt, instructions))
            self._busy[attempt.ref] = task
            task.add_done_callback(lambda _: self._busy.pop(attempt.ref, None))

    async def _perform_all(self, attempt: Attempt, instructions: Sequence[Instruction]) -> None:
        take_on(attempt.context)
        try:
            for instruction in instructions:
                await self._perform(attempt, instruction)
        except TemporaryError as error:
            log.info("build attempt waits", attempt=str(attempt.ref), error=error.message)
        except Exception as error:
            # The next look finds the attempt as it is; the others go on.
            log.exception("build attempt failed to be mended", attempt=str(attempt.ref), error=str(error))

    async def _perform(self, attempt: Attempt, instruction: Instruction) -> None:
        match instruction:
            case Launch(ref):
                await self._launch(ref, attempt.project_id)
            case Terminate(_, process):
                await self._launcher.terminate(process)
            case Stop(ref, process):
                await self._launcher.stop(ref, process)
            case Fail(ref, cause, reason):
                await self._fail(ref, cause, reason)
            case CleanUp(ref):
                await self._launcher.clean_up(ref)
                await self._objects.delete(incoming_key(ref))
                await self._store.cleaned(ref)

    async def _launch(self, ref: Ref, project_id: str) -> None:
        request = await self._store.request_of(ref)
        order = Order(project_id, request.limits.cpu_millis, request.limits.memory_bytes, request.timeout_s)

        async def recorded(process: Process, token_hash: bytes) -> bool:
            return await self._store.launched(ref, process, token_hash, request.timeout_s)

        try:
            await self._launcher.launch(ref, order, recorded)
        except PermanentError as error:
            await self._fail(ref, Cause.PLATFORM, f"{error.message}: {error.remedy}" if error.remedy else error.message)
            return
        log.info("builder launched", deployment_id=ref.deployment_id, attempt=ref.attempt)

    async def _fail(self, ref: Ref, cause: Cause, reason: str) -> None:
        if await self._store.finish(ref, failed(ref, cause, reason)):
            log.warning(
                "build ended by the platform",
                deployment_id=ref.deployment_id,
                attempt=ref.attempt,
                cause=cause.value,
                reason=reason,
                builder_said=self._launcher.last_words(ref),
            )
        self._bells.ring(ref.deployment_id)

    async def _collect(self, attempts: Sequence[Attempt]) -> None:
        """Removes what is left of attempts that are over, or that nobody knows."""
        wanted = {attempt.ref for attempt in attempts}
        for ref in await self._launcher.leftovers():
            if ref in wanted or ref in self._busy or not await self._is_over(ref):
                continue
            await self._launcher.stop(ref, None)
            await self._launcher.clean_up(ref)
            log.info("leftovers removed", attempt=str(ref))

    async def _is_over(self, ref: Ref) -> bool:
        """Asked anew: it may have been started since the look."""
        try:
            return (await self._store.find(ref)).outcome is not None
        except NotFound:
            return True

    async def stop_builders(self) -> None:
        """Ends every builder; the next service finds their attempts lost."""
        for attempt in await self._store.unfinished():
            await self._launcher.stop(attempt.ref, attempt.process)

    async def close(self) -> None:
        """Lets what is under way come to its end."""
        await asyncio.gather(*self._busy.values(), return_exceptions=True)
