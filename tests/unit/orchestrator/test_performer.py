"""What the performer still does when it is told to end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from shipoff.common.errors import TemporaryError
from shipoff.orchestrator import handlers
from shipoff.orchestrator.domain import Deployment, Instruction, State
from shipoff.orchestrator.performer import Performer, Terms
from shipoff.orchestrator.records import Held, Record, Task

NOW = datetime(2026, 11, 25, tzinfo=UTC)


def held(number: int) -> Held:
    deployment = Deployment(f"d{number}", number, "p", "t", "production", State.INACTIVE, NOW)
    record = Record(deployment, "shop", b"", "", "", 1, "ada", "", artifact_expired=False, created_at=NOW, changed_at=NOW)
    return Held(Task(number, 1, deployment.id, Instruction.STOP_WORKLOAD, 0, 1), record)


async def test_what_a_commit_takes_while_the_performer_drains_is_waited_for_too(monkeypatch):
    done: list[str] = []
    stopping, go_on = asyncio.Event(), asyncio.Event()

    async def stop_workload(deployment_id: str) -> None:
        stopping.set()
        await go_on.wait()
        # Not within the turn of the loop in which the first one ends.
        for _ in range(10):
            await asyncio.sleep(0)
        done.append(deployment_id)

    async def conclude(_store: Any, performed: Sequence[Any]) -> Sequence[bool]:
        # The first one's commit leads to a second, decided on before the end was known.
        if performed[0][0].task.id == 1:
            performer.take([held(2)])
        return [True] * len(performed)

    monkeypatch.setattr(handlers, "conclude", conclude)
    outside: Any = SimpleNamespace(stop_workload=stop_workload)
    store: Any = SimpleNamespace()
    performer = Performer(store, outside, Terms(build_timeout_s=60, lease_s=60), wake=lambda: None)
    async with performer.holding():
        performer.take([held(1)])
        await stopping.wait()
        asyncio.get_running_loop().call_soon(go_on.set)
        await performer.drain()
        assert done == ["d1", "d2"]
        assert performer.room == 0


async def test_what_leads_to_nothing_is_recorded_together_a_moment_later_and_again_when_that_fails(monkeypatch):
    recorded: list[set[int]] = []
    failures = [TemporaryError("away", retry_after_s=0.0)] * 2
    both = asyncio.Event()

    async def conclude(_store: Any, performed: Sequence[Any]) -> Sequence[bool]:
        if failures:
            raise failures.pop()
        recorded.append({one.task.id for one, _ in performed})
        both.set()
        return [True] * len(performed)

    async def stop_workload(deployment_id: str) -> None:
        assert not recorded

    monkeypatch.setattr(handlers, "conclude", conclude)
    outside: Any = SimpleNamespace(stop_workload=stop_workload)
    performer = Performer(SimpleNamespace(), outside, Terms(build_timeout_s=60, lease_s=60), wake=lambda: None)  # type: ignore[arg-type]
    async with performer.holding():
        performer.take([held(1), held(2)])
        await asyncio.wait_for(both.wait(), 20)
        assert set.union(*recorded) == {1, 2}
        assert performer.room > 0
        await performer.drain()
    assert set.union(*recorded) == {1, 2}
