"""The logs of pods: each line is shipped once, in order, whoever stops in between; on the small API and on a real cluster."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from lightkube import AsyncClient
from neighbours.kube_api import KubeApi
from neighbours.kube_runtime import SERVES, Ground, Runtime, until

from shipoff.common.streams import LOGS_INGEST, Streams
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.runtime.adapters.kubernetes import logs
from shipoff.runtime.adapters.kubernetes.api import Api
from shipoff.runtime.adapters.kubernetes.logs import PodLogs
from shipoff.runtime.adapters.kubernetes.position import Position
from shipoff.runtime.domain import Workload

COUNTS = ("sh", "-c", "httpd -p $PORT; n=0; while true; do n=$((n+1)); echo line $n; sleep 0.05; done")


@dataclass
class Kept:
    """Positions in memory."""

    positions: dict[str, Position] = field(default_factory=dict)

    async def load(self) -> Mapping[str, Position]:
        return dict(self.positions)

    async def save(self, positions: Mapping[str, Position], *, gone: Collection[str]) -> None:
        self.positions |= positions
        for uid in gone:
            self.positions.pop(uid, None)


@dataclass
class Shipping:
    """What ships, and what came of it."""

    ground: Ground
    streams: Streams
    kept: Kept = field(default_factory=Kept)

    @asynccontextmanager
    async def running(self, runtime: Runtime, *, followers: int = 5) -> AsyncIterator[PodLogs]:
        """Ships beside the block."""
        api = Api(AsyncClient(config=self.ground.client.config, trust_env=False), platform=self.ground.cluster.platform)
        made = PodLogs(api, self.streams, self.kept, writers=runtime.driver.writers, followers=followers)
        async with made.running():
            yield made
        await api.close()

    async def batches(self) -> list[events_pb2.LogBatch]:
        """Everything on the stream."""
        entries = await self.streams.client.xrange(LOGS_INGEST)
        found = []
        for _, values in entries:
            event = events_pb2.Envelope.FromString(next(iter(values.values())))
            found.append(events_pb2.LogBatch.FromString(event.payload))
        return found

    async def lines(self, workload: Workload) -> list[str]:
        """A deployment's lines as the log service keeps them: each number of a stream once."""
        kept: defaultdict[str, dict[int, str]] = defaultdict(dict)
        for batch in await self.batches():
            if batch.deployment_id == workload.deployment_id:
                assert batch.source == types_pb2.LOG_SOURCE_APP
                for line in batch.lines:
                    assert kept[batch.stream_id].setdefault(line.sequence, line.text) == line.text
        for numbers in kept.values():
            assert sorted(numbers) == list(range(1, len(numbers) + 1))
        return [text for numbers in kept.values() for _, text in sorted(numbers.items())]


@pytest.fixture
async def shipping(ground: Ground, redis_url: str) -> AsyncIterator[Shipping]:
    """A shipper on an empty stream."""
    async with Streams.open(redis_url) as streams:
        yield Shipping(ground, streams)


async def shipped(shipping: Shipping, workload: Workload, *texts: str) -> None:
    """Waits until exactly these lines have come."""

    async def there() -> bool:
        return len(await shipping.lines(workload)) >= len(texts)

    await until(there, "the lines did not come")
    assert await shipping.lines(workload) == list(texts)


async def pod_of(ground: Ground, runtime: Runtime, **changes: object) -> tuple[Workload, str]:
    """A ready workload, and its pod's name."""
    web = ground.workload(**changes)  # type: ignore[arg-type]  # a test's own fields
    await ground.ready(runtime, web)
    [pod] = await ground.pods(web)
    return web, pod.metadata.name


async def test_what_a_pod_writes_comes_once_and_in_order_whoever_stops_in_between(
    ground: Ground, runtime: Runtime, shipping: Shipping
) -> None:
    web = ground.workload(*(COUNTS if ground.fake is None else SERVES))
    await ground.ready(runtime, web)
    [pod] = await ground.pods(web)
    for count in (20, 40, 60):
        async with shipping.running(runtime):
            if ground.fake is not None:
                ground.fake.book.write(pod.metadata.name, *(f"line {n}" for n in range(count - 19, count + 1)))

            async def there(count: int = count) -> bool:
                return len(await shipping.lines(web)) >= count

            await until(there)
    lines = await shipping.lines(web)
    assert lines == [f"line {n}" for n in range(1, len(lines) + 1)]


async def test_what_a_crash_forgot_is_sent_again_under_the_same_numbers(
    ground: Ground, runtime: Runtime, shipping: Shipping, fake: KubeApi
) -> None:
    web, pod = await pod_of(ground, runtime)
    fake.book.write(pod, "one", "two")
    async with shipping.running(runtime):
        await shipped(shipping, web, "one", "two")
    before = dict(shipping.kept.positions)
    async with shipping.running(runtime):
        fake.book.write(pod, "three")
        await shipped(shipping, web, "one", "two", "three")
    # The position after the third was never kept.
    shipping.kept.positions = before
    fake.book.write(pod, "four")
    async with shipping.running(runtime):
        await shipped(shipping, web, "one", "two", "three", "four")
    assert sum(len(batch.lines) for batch in await shipping.batches()) == 5


async def test_the_last_words_of_a_run_come_before_the_next_run_s(
    ground: Ground, runtime: Runtime, shipping: Shipping, fake: KubeApi
) -> None:
    web, pod = await pod_of(ground, runtime)
    fake.book.write(pod, "begins")
    async with shipping.running(runtime):
        await shipped(shipping, web, "begins")
    fake.book.write(pod, "last words")
    fake.book.end_run(pod)
    fake.book.write(pod, "begins again")
    _restarted(fake, pod)
    async with shipping.running(runtime):
        await shipped(shipping, web, "begins", "last words", "begins again")


def _restarted(fake: KubeApi, name: str) -> None:
    [pod] = [one for one in fake.store.of("pods") if one["metadata"]["name"] == name]
    pod["status"]["containerStatuses"][0]["restartCount"] = 1
    fake.store.update("pods", pod)


async def test_lines_that_the_cluster_has_rotated_away_are_told_of(
    ground: Ground, runtime: Runtime, shipping: Shipping, fake: KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_NEWS_S", 0.5)
    web, pod = await pod_of(ground, runtime)
    fake.book.write(pod, "one", "two")
    async with shipping.running(runtime):
        await shipped(shipping, web, "one", "two")
    fake.book.write(pod, "three", "four", "five")
    fake.book.rotate(pod, kept=1)
    async with shipping.running(runtime):
        await until(lambda: _ends_with(shipping, web, "five"))
        *before, told, last = await shipping.lines(web)
    assert (before, last) == (["one", "two"], "five")
    assert "rotated" in told


async def _ends_with(shipping: Shipping, workload: Workload, text: str) -> bool:
    return (await shipping.lines(workload))[-1:] == [text]


async def test_more_pods_than_followers_take_turns(ground: Ground, runtime: Runtime, shipping: Shipping, fake: KubeApi) -> None:
    pods = [await pod_of(ground, runtime, environment=name) for name in ("one", "two", "three")]
    async with shipping.running(runtime, followers=1):
        for turn in ("first", "second"):
            for _, pod in pods:
                fake.book.write(pod, turn)
            for web, _ in pods:
                await until(lambda web=web, turn=turn: _ends_with(shipping, web, turn))
    assert [await shipping.lines(web) for web, _ in pods] == [["first", "second"]] * 3


async def test_a_deployment_that_comes_back_to_running_pods_gets_their_lines_from_then_on(
    ground: Ground, runtime: Runtime, shipping: Shipping, fake: KubeApi
) -> None:
    sealed = ground.sealed({"A": "1"})
    old, pod = await pod_of(ground, runtime, sealed=sealed)
    async with shipping.running(runtime) as running:
        fake.book.write(pod, "for the old one")
        await shipped(shipping, old, "for the old one")
        again = ground.workload(sealed=sealed)
        await ground.ready(runtime, again)
        await until(lambda: {one.deployment_id for one in running._writers.values()} == {again.deployment_id})
        fake.book.write(pod, "for the new one")
        await shipped(shipping, again, "for the new one")
