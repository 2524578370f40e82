"""Project is killed between any two effects of a delivery and of a request; deliveries come twice and out of order."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from neighbours.project import MASTER_KEY, SECRET, Rig, connected, push_body, settings_for

from shipoff.common.errors import ShipoffError
from shipoff.project.settings import ProjectSettings

# The transaction's commit, and the relay's: before and after each, and around the publish. Beyond them nothing happens.
CROSSINGS = range(1, 6)


@dataclass
class Processes:
    """The service as real processes, started and killed at will."""

    settings: ProjectSettings
    started: list[asyncio.subprocess.Process] = field(default_factory=list)

    async def start(self, *, crash_at: int = 0) -> asyncio.subprocess.Process:
        """Starts one and waits until it serves."""
        environment = os.environ | {
            "SHIPOFF_PROJECT_DATABASE_URL": self.settings.database_url,
            "SHIPOFF_PROJECT_LISTEN": self.settings.listen,
            "SHIPOFF_REDIS_URL": self.settings.redis_url,
            "SHIPOFF_OBJECTS_URL": self.settings.objects_url,
            "SHIPOFF_MASTER_KEY": MASTER_KEY,
            "SHIPOFF_GITHUB_WEBHOOK_SECRET": SECRET,
            "SHIPOFF_CRASH_AT": str(crash_at),
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "shipoff", "serve", "project", env=environment, stderr=asyncio.subprocess.PIPE
        )
        self.started.append(process)
        assert process.stderr is not None
        while b"service started" not in (line := await asyncio.wait_for(process.stderr.readline(), 60)):
            assert line, f"project ended with {process.returncode}"
        return process

    async def kill(self) -> None:
        """`kill -9` for whatever still runs."""
        for process in self.started:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        self.started.clear()


@pytest.fixture
async def world(
    database_url_for: Callable[[str], Awaitable[str]], redis_url: str, shipoff_home: Path, tmp_path: Path
) -> AsyncIterator[tuple[Rig, Processes]]:
    settings = settings_for(await database_url_for("project"), redis_url, shipoff_home, tmp_path / "objects")
    processes = Processes(settings)
    async with connected(settings) as rig:
        yield rig, processes
        await processes.kill()


async def published(rig: Rig) -> set[str]:
    """The deployments that the queue was told of."""
    return {event.message.deployment_id for event in await rig.events()}


async def answered(call: Callable[[], Awaitable[Any]]) -> Any:
    """The answer of a call that a client repeats, as GitHub and the command line do; None while nobody answers."""
    with suppress(ShipoffError):
        return await call()
    return None


async def test_a_delivery_is_recognised_wherever_the_first_one_was_cut(world: tuple[Rig, Processes], eventually: Any) -> None:
    rig, processes = world
    process = await processes.start(crash_at=CROSSINGS[0])
    await rig.following()
    expected: set[str] = set()
    cut = 0
    for crash_at in CROSSINGS:
        deliver = partial(rig.deliver, push_body(f"{crash_at:040x}", seconds=crash_at), delivery_id=f"delivery-{crash_at}")
        process.send_signal(signal.SIGUSR1)
        first = await answered(deliver)
        cut += first is None
        await processes.kill()
        process = await processes.start(crash_at=crash_at + 1)
        again = await eventually(partial(answered, deliver), timeout_s=20)
        assert len(again.deployment_ids) == 1
        if first is not None:
            assert (list(first.deployment_ids), again.repeated) == (list(again.deployment_ids), True)
        expected.update(again.deployment_ids)
        await eventually(partial(_equal, rig, expected), timeout_s=20)
    assert cut >= 2, "the process did not die before it answered: the test tests nothing"
    assert await rig.count("deployment_requests") == await rig.count("deliveries") == len(CROSSINGS) == len(expected)


async def _equal(rig: Rig, expected: set[str]) -> bool:
    return await published(rig) == expected


async def test_a_request_cut_after_its_commit_is_recognised_by_its_key(world: tuple[Rig, Processes], eventually: Any) -> None:
    rig, processes = world
    await processes.start()
    shop = await rig.project("shop")
    await processes.kill()
    # The second crossing is "after commit": the request is durable, the client hears nothing.
    process = await processes.start(crash_at=2)
    process.send_signal(signal.SIGUSR1)
    assert await answered(lambda: rig.request(shop.id, idempotency_key="k")) is None
    await processes.kill()
    await processes.start()
    deployment_id = await eventually(lambda: answered(lambda: rig.request(shop.id, idempotency_key="k")), timeout_s=20)
    await eventually(lambda: _equal(rig, {deployment_id}))
    assert await rig.count("deployment_requests") == 1


async def test_the_same_delivery_many_times_at_once_is_one_deployment(world: tuple[Rig, Processes], eventually: Any) -> None:
    rig, processes = world
    await processes.start()
    await rig.following()
    answers = await asyncio.gather(*(rig.deliver(push_body("1" * 40), delivery_id="one") for _ in range(8)))
    assert sorted(answer.repeated for answer in answers) == [False] + [True] * 7
    (deployment_id,) = {tuple(answer.deployment_ids) for answer in answers}
    await eventually(lambda: _equal(rig, set(deployment_id)))


async def test_of_pushes_in_any_order_the_newest_is_the_last_deployed(world: tuple[Rig, Processes]) -> None:
    rig, processes = world
    await processes.start()
    await rig.following()
    pushes = [push_body(f"{n}" * 40, before=f"{n - 1}" * 40, seconds=n // 2) for n in range(1, 8)]
    # 3 after 2, 1 before both; 4 and 5 within one second, the older one last.
    answers = [await rig.deliver(pushes[n - 1]) for n in (2, 3, 1, 5, 4, 7, 6)]
    assert [bool(answer.deployment_ids) for answer in answers] == [True, True, False, True, False, True, False]
    assert all("newer" in answer.ignored_because for answer in answers if not answer.deployment_ids)
    shuffled = await asyncio.gather(*(rig.deliver(body) for body in pushes))
    assert not any(answer.deployment_ids for answer in shuffled)


async def test_the_service_answers_again_after_valkey_was_emptied(world: tuple[Rig, Processes], eventually: Any) -> None:
    rig, processes = world
    await processes.start()
    await rig.following()
    answer = await rig.deliver(push_body("1" * 40))
    expected = set(answer.deployment_ids)
    await eventually(lambda: _equal(rig, expected))
    await rig.streams.client.flushall()
    await eventually(lambda: _equal(rig, expected), timeout_s=20)
