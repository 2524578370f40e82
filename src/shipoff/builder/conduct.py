"""One attempt from hello to outcome: the build runs beside everything that may end it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from shipoff.builder.assignment import Assignment, BuildError, Kind
from shipoff.builder.confine import TenantFiles, hold_to_cores, stand_back
from shipoff.builder.cpu import CpuBudget
from shipoff.builder.journal import Journal
from shipoff.builder.link import Link, Lost
from shipoff.builder.masking import Masker
from shipoff.builder.pipeline import Built, Workshop, build
from shipoff.builder.programs import Programs
from shipoff.builder.watch import Watch
from shipoff.contracts.build.v1 import build_pb2

_CANCELLED_S = 3.0
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


async def conduct(assignment: Assignment) -> bool:
    """Builds, and delivers the outcome; whether it was delivered. Nothing of the build runs afterwards."""
    journal = Journal(assignment.limits.output_bytes)
    files = TenantFiles(assignment.uid)
    programs = Programs(journal, assignment)
    watch = Watch(programs, files, assignment.limits, assignment.work_folder)
    link = Link(assignment.address, assignment.token, journal, patience_s=assignment.patience_s, authority=assignment.authority)
    shop = Workshop(assignment, link, journal, programs, files, watch)
    async with _running(link) as session:
        try:
            outcome = await _outcome(shop, session)
            delivery = asyncio.create_task(link.finish(outcome))
            await asyncio.wait({delivery, session}, return_when=asyncio.FIRST_COMPLETED)
            return delivery.done()
        except Lost as error:
            # The service puts a lost builder's last words into its own log.
            sys.stderr.write(f"given up: {error}\n")
            return False
        finally:
            await programs.kill_all()


@asynccontextmanager
async def _running(link: Link) -> AsyncIterator[asyncio.Task[None]]:
    session = asyncio.create_task(link.run())
    try:
        yield session
    finally:
        session.cancel()
        with contextlib.suppress(asyncio.CancelledError, Lost):
            await session


async def _outcome(shop: Workshop, session: asyncio.Task[None]) -> build_pb2.Outcome:
    """How the build ended. Raises Lost."""
    beginnings: set[asyncio.Future[Any]] = {shop.link.job, session}
    await asyncio.wait(beginnings, return_when=asyncio.FIRST_COMPLETED)
    if not shop.link.job.done():
        await session
        raise Lost("the session ended before it began")
    job = shop.link.job.result()
    shop.journal.masker = Masker(job.variables.values())
    if job.limits.memory_bytes:
        shop.watch.memory_limit = job.limits.memory_bytes
    stand_back()
    hold_to_cores(job.limits.cpu_millis)
    shop.watch.cpu = CpuBudget(job.limits.cpu_millis, job.timeout_s)
    try:
        built = await _until_ended(shop, job, session)
    except BuildError as error:
        reason = shop.journal.masker.mask(error.reason)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CANCELLED_S):
                await shop.journal.say(f"✗ {reason}")
        failure = build_pb2.Failure(failure=error.kind, reason=reason, step=error.step)
        return build_pb2.Outcome(failure=failure, usage=shop.watch.usage())
    success = build_pb2.Success(artifact=built.artifact, plan=built.plan)
    return build_pb2.Outcome(success=success, usage=shop.watch.usage(), commit=built.commit)


async def _until_ended(shop: Workshop, job: build_pb2.Job, session: asyncio.Task[None]) -> Built:
    """Runs the build until it ends or is ended. Raises BuildError, Lost."""
    building = asyncio.create_task(build(shop, job))
    breach = asyncio.create_task(shop.watch.until_breach())
    beats = asyncio.create_task(_report_memory(shop))
    terminated = _on_sigterm()
    ends: set[asyncio.Future[Any]] = {building, breach, shop.link.cancelled, session, terminated}
    try:
        await asyncio.wait(ends, timeout=job.timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if breach.done():
            raise breach.result()
        if building.done():
            return _result(building, shop)
        raise _why_ended(shop, job, session, terminated)
    finally:
        for task in (breach, beats, building):
            task.cancel()
        await shop.programs.kill_all()
        await asyncio.gather(breach, beats, building, return_exceptions=True)


def _result(building: asyncio.Task[Built], shop: Workshop) -> Built:
    """What the build gave; a full disk and a defect of ours are failures of the build too. Raises BuildError."""
    error = building.exception()
    if error is None or isinstance(error, BuildError):
        return building.result()
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        raise shop.watch.disk_breach(f"found no room on the disk ({error.strerror})") from error
    traceback.print_exception(error, file=sys.stderr)
    reason = f"the platform failed at {shop.watch.step or 'the build'}: {type(error).__name__}; its operator has the details"
    raise BuildError(Kind.BUILD_FAILURE_PLATFORM, reason, step=shop.watch.step) from error


def _why_ended(
    shop: Workshop, job: build_pb2.Job, session: asyncio.Task[None], terminated: asyncio.Future[None]
) -> BuildError | Lost:
    step = shop.watch.step
    if shop.link.cancelled.done():
        return BuildError(Kind.BUILD_FAILURE_CANCELLED, shop.link.cancelled.result() or "cancelled", step=step)
    if terminated.done():
        # By whom the service knows: it has cancelled the attempt, or a node is drained and the attempt is lost.
        return Lost("the builder was told to stop")
    if session.done():
        error = session.exception()
        return error if isinstance(error, Lost) else Lost("the session ended")
    reason = f"{step or 'the build'} was not done after {job.timeout_s} s, the time a build may take"
    return BuildError(Kind.BUILD_FAILURE_TIMEOUT, reason, step=step)


async def _report_memory(shop: Workshop) -> None:
    while True:
        shop.link.memory_bytes = shop.watch.memory_bytes
        await asyncio.sleep(1.0)


def _on_sigterm() -> asyncio.Future[None]:
    loop = asyncio.get_running_loop()
    terminated: asyncio.Future[None] = loop.create_future()

    def stop() -> None:
        if not terminated.done():
            terminated.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    return terminated
