"""When schedules are run, with a clock that the test turns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from neighbours.runtime_workloads import workload

from shipoff.common.errors import Exhausted
from shipoff.runtime.domain import Workload
from shipoff.runtime.executions import Exited, Output
from shipoff.runtime.scheduler import Scheduler
from shipoff.runtime.schedules import Schedule, ScheduleRun

DAILY = Schedule("backup", "0 3 * * *", ("backup", "--all"))
DAY = 86_400.0
# 1970-01-02 00:00 UTC.
MIDNIGHT = DAY


@dataclass
class World:
    """The store, the runner and the log of one scheduler."""

    now: float = MIDNIGHT
    workloads: list[Workload] = field(default_factory=lambda: [workload(was_ready=True, schedules=(DAILY,))])
    known: dict[str, ScheduleRun] = field(default_factory=dict)
    ran: list[tuple[str, ...]] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)
    exit: Exited = field(default_factory=lambda: Exited(0))
    refuses: Exception | None = None

    async def scheduled(self) -> list[Workload]:
        return self.workloads

    async def runs(self, _: Workload) -> dict[str, ScheduleRun]:
        return dict(self.known)

    async def begin(self, _: Workload, name: str, *, now: float) -> None:
        self.known.setdefault(name, ScheduleRun(seen_at=now))

    async def claim(self, _: Workload, name: str, *, seen_at: float, now: float, runs: bool) -> bool:
        if self.known[name].seen_at != seen_at:
            return False
        began = {"started_at": now, "outcome": "running"} if runs else {}
        self.known[name] = replace(self.known[name], seen_at=now, **began)
        return True

    async def ended(self, _: Workload, name: str, outcome: str) -> None:
        self.known[name] = replace(self.known[name], outcome=outcome)

    async def runs_were_lost(self) -> None:
        self.known = {
            name: replace(run, outcome="failed: the platform was stopped") if run.outcome == "running" else run
            for name, run in self.known.items()
        }

    @asynccontextmanager
    async def running(self, _: Workload, command: Any, instance: Any) -> AsyncIterator[World]:
        assert instance is None
        self.ran.append(command.argv)
        if self.refuses:
            raise self.refuses
        yield self

    async def events(self) -> Any:
        yield Output("stdout", b"working\n")
        await self.goes_on.wait()
        yield self.exit

    @contextmanager
    def opened(self, _: Workload, name: str, number: int) -> Iterator[Callable[[str, bytes], None]]:
        yield lambda _channel, data: self.lines.append(data)

    def scheduler(self) -> Scheduler:
        return Scheduler(self, self, self, clock=lambda: self.now)  # type: ignore[arg-type]

    async def finished(self, scheduler: Scheduler) -> None:
        self.goes_on.set()
        await asyncio.gather(*scheduler._runs.values())


@pytest.fixture
def world() -> World:
    return World()


async def test_a_schedule_runs_at_its_time_once_and_its_outcome_is_kept(world: World) -> None:
    scheduler = world.scheduler()
    await scheduler.look()
    world.now = MIDNIGHT + 3 * 3600 - 1
    await scheduler.look()
    assert world.ran == []
    world.now += 1
    await scheduler.look()
    await scheduler.look()
    await world.finished(scheduler)
    await scheduler.look()
    assert world.ran == [("backup", "--all")]
    assert world.lines == [b"working\n"]
    assert world.known["backup"] == ScheduleRun(world.now, world.now, "succeeded")


async def test_what_was_missed_is_run_once_and_nothing_from_before_it_was_known(world: World) -> None:
    scheduler = world.scheduler()
    world.now = MIDNIGHT + 10 * DAY
    await scheduler.look()
    assert world.ran == []
    world.now += 9 * DAY
    await scheduler.look()
    await world.finished(scheduler)
    await scheduler.look()
    assert len(world.ran) == 1


async def test_a_run_that_has_not_ended_leaves_the_next_time_out(world: World) -> None:
    scheduler = world.scheduler()
    await scheduler.look()
    world.now += DAY
    await scheduler.look()
    world.now += DAY
    await scheduler.look()
    assert len(world.ran) <= 1
    assert world.known["backup"].outcome == "running"
    await world.finished(scheduler)
    await scheduler.look()
    assert len(world.ran) == 1
    world.now += DAY
    await scheduler.look()
    await world.finished(scheduler)
    assert len(world.ran) == 2


async def test_two_schedulers_on_one_store_run_a_time_once(world: World) -> None:
    first, second = world.scheduler(), world.scheduler()
    await first.look()
    world.now += DAY
    await asyncio.gather(first.look(), second.look())
    await world.finished(first)
    await world.finished(second)
    assert len(world.ran) == 1


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"exit": Exited(3)}, "failed: exit code 3"),
        ({"exit": Exited(124, "it took longer than its 3600 s")}, "failed: it took longer than its 3600 s"),
        ({"refuses": Exhausted("no room")}, "failed: no room"),
        ({"refuses": ValueError("a defect")}, "failed: an internal error"),
    ],
)
async def test_a_failure_is_told_and_the_next_time_is_run_again(world: World, changes: dict[str, Any], outcome: str) -> None:
    for name, value in changes.items():
        setattr(world, name, value)
    scheduler = world.scheduler()
    await scheduler.look()
    for _ in range(2):
        world.now += DAY
        await scheduler.look()
        await world.finished(scheduler)
    assert world.known["backup"].outcome == outcome
    assert len(world.ran) == 2


async def test_a_platform_that_stops_ends_what_runs_and_says_so(world: World) -> None:
    world.known["backup"] = ScheduleRun(seen_at=0.0, started_at=1.0, outcome="running")
    world.workloads = []
    async with world.scheduler().running():
        assert world.known["backup"].outcome == "failed: the platform was stopped"
