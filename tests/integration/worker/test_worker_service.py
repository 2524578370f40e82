"""The worker as it runs: events in, signed requests out, objects removed; on real PostgreSQL, Valkey and HTTP."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from shipoff.common.config import address
from shipoff.common.errors import InvalidInput, NotFound, PreconditionFailed
from shipoff.common.ids import new_id
from shipoff.common.objects import ObjectStore
from shipoff.common.postgres import Database
from shipoff.common.rpc import channel
from shipoff.common.streams import DEPLOYMENT_PROGRESS, RUNTIME_EVENTS, Streams
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.contracts.worker.v1 import worker_pb2, worker_pb2_grpc
from shipoff.worker.adapters import http
from shipoff.worker.adapters.http import HttpSender
from shipoff.worker.main import running
from shipoff.worker.settings import WorkerSettings

MASTER_KEY = base64.b64encode(b"k" * 32).decode()


@dataclass
class Receiver:
    """An HTTP server that remembers what it was sent, and answers as it is told."""

    answers: list[str] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    port: int = 0
    hang: bool = False

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}/hook?x=1"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Receiver]:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            self.requests.append((head[0], headers, body))
            if self.hang:
                await reader.read()
                return
            answer = self.answers.pop(0) if self.answers else "200 OK"
            writer.write(f"HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            await writer.drain()
        finally:
            writer.close()


@dataclass
class Worker:
    """A running worker, and the ways to it."""

    stub: Any
    database: Database
    streams: Streams
    objects: ObjectStore

    async def hook(self, url: str, project_id: str) -> worker_pb2.CreateHookResponse:
        response = await self.stub.CreateHook(worker_pb2.CreateHookRequest(project_id=project_id, team_id=new_id(), url=url))
        assert isinstance(response, worker_pb2.CreateHookResponse)
        return response

    async def results(self, project_id: str) -> list[str]:
        response = await self.stub.ListHooks(worker_pb2.ListHooksRequest(project_id=project_id))
        return [hook.last_result for hook in response.hooks]

    async def publish(self, *messages: Any, stream: str = DEPLOYMENT_PROGRESS) -> None:
        await self.streams.publish(stream, list(messages), tenant_id=new_id())

    async def make_due(self) -> None:
        async with self.database.transaction() as tx:
            await tx.execute(sa.text("UPDATE deliveries SET due_at = now() WHERE finished_at IS NULL"))


def changed(project_id: str, version: int = 1) -> events_pb2.DeploymentStateChanged:
    return events_pb2.DeploymentStateChanged(
        deployment_id=new_id(),
        project_id=project_id,
        project_name="app",
        environment="production",
        number=7,
        from_state=types_pb2.DEPLOYMENT_STATE_PROVISIONING,
        to_state=types_pb2.DEPLOYMENT_STATE_PRODUCTION,
        version=version,
        hosts=["app.localhost"],
    )


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver().running() as server:
        yield server


@pytest.fixture
async def worker(
    database_url_for: Callable[[str], Awaitable[str]], redis_url: str, receiver: Receiver, tmp_path: Path
) -> AsyncIterator[Worker]:
    url = await database_url_for("worker")
    objects_url = f"file://{tmp_path}/objects"
    settings = WorkerSettings.model_validate(
        {
            "database_url": url,
            "redis_url": redis_url,
            "objects_url": objects_url,
            "master_key": MASTER_KEY,
            "allow_hosts": f"localhost:{receiver.port}",
            "sweep_s": 0.05,
        }
    )
    async with (
        Streams.open(redis_url) as streams,
        Database.open(url) as database,
        ObjectStore.open(objects_url) as objects,
        running(settings),
        channel(address("worker")) as connection,
    ):
        yield Worker(worker_pb2_grpc.WorkerServiceStub(connection), database, streams, objects)


async def test_a_transition_arrives_signed(worker: Worker, receiver: Receiver, eventually: Any) -> None:
    project = new_id()
    created = await worker.hook(receiver.url, project)
    await worker.hook(receiver.url, new_id())
    await worker.publish(changed(project))
    await eventually(lambda: receiver.requests)
    line, headers, body = receiver.requests[0]
    assert line == "POST /hook?x=1 HTTP/1.1"
    assert headers["host"] == f"localhost:{receiver.port}"
    expected = hmac.new(created.secret.encode(), body, hashlib.sha256).hexdigest()
    assert headers["shipoff-signature"] == f"sha256={expected}"
    content = json.loads(body)
    assert headers["shipoff-delivery"] == content["id"]
    assert abs(int(headers["shipoff-timestamp"]) - time.time()) < 60
    assert (content["project"]["name"], content["deployment"]["state"], content["deployment"]["from"]) == (
        "app",
        "production",
        "provisioning",
    )

    async def recorded() -> bool:
        return await worker.results(project) == ["200"]

    await eventually(recorded)
    assert len(receiver.requests) == 1, "another project's hook is told nothing"


async def test_a_refusal_is_tried_again_with_the_same_id(worker: Worker, receiver: Receiver, eventually: Any) -> None:
    project = new_id()
    receiver.answers = ["500 Oops"]
    await worker.hook(receiver.url, project)
    await worker.publish(changed(project))

    async def refused() -> bool:
        return await worker.results(project) == ["500; try 1 of 8"]

    await eventually(refused)
    assert len(receiver.requests) == 1, "not before its pause is over"
    await worker.make_due()

    async def delivered() -> bool:
        return await worker.results(project) == ["200"]

    await eventually(delivered)
    (_, first, body), (_, second, again) = receiver.requests
    assert (first["shipoff-delivery"], first["shipoff-signature"], body) == (
        second["shipoff-delivery"],
        second["shipoff-signature"],
        again,
    )


async def test_after_the_last_try_it_gives_up_and_says_so(worker: Worker, receiver: Receiver, eventually: Any) -> None:
    project = new_id()
    receiver.answers = ["503 Away"] * 9
    await worker.hook(receiver.url, project)
    await worker.publish(changed(project))

    async def given_up() -> bool:
        await worker.make_due()
        return await worker.results(project) == ["gave up after 8 tries: 503"]

    await eventually(given_up)
    await worker.make_due()
    assert len(receiver.requests) == 8


async def test_a_redirect_is_not_followed(worker: Worker, receiver: Receiver, eventually: Any) -> None:
    project = new_id()
    receiver.answers = ["302 Found\r\nLocation: /elsewhere"]
    await worker.hook(receiver.url, project)
    await worker.publish(changed(project))

    async def noted() -> bool:
        return "redirects are not followed" in (await worker.results(project))[0]

    await eventually(noted)
    assert len(receiver.requests) == 1


async def test_events_of_one_hook_arrive_one_after_the_other(worker: Worker, receiver: Receiver, eventually: Any) -> None:
    project = new_id()
    await worker.hook(receiver.url, project)
    await worker.publish(*(changed(project, version) for version in range(1, 11)))
    await eventually(lambda: len(receiver.requests) == 10)
    assert [json.loads(body)["deployment"]["version"] for _, _, body in receiver.requests] == list(range(1, 11))


async def test_a_private_address_is_refused(worker: Worker, receiver: Receiver) -> None:
    for url in (
        f"http://127.0.0.1:{receiver.port}/",
        "http://localhost:1/",
        "http://169.254.169.254/latest",
        "http://[::ffff:10.0.0.1]/",
    ):
        with pytest.raises(InvalidInput) as caught:
            await worker.hook(url, new_id())
        assert caught.value.field == "url"
        assert caught.value.remedy


async def test_a_name_that_turns_private_later_is_not_contacted(receiver: Receiver) -> None:
    async def rebound(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    async with HttpSender.open(allowed=frozenset()) as sender:
        sender._resolve = rebound
        outcome = await sender.send(f"http://public.example:{receiver.port}/", b"{}", {})
    assert outcome.error == "public.example is not on the public internet"
    assert receiver.requests == []


async def test_a_receiver_that_never_answers_costs_its_time_only(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_TIMEOUT_S", 0.2)
    receiver.hang = True
    async with HttpSender.open(allowed=frozenset({"localhost"})) as sender:
        outcome = await sender.send(receiver.url, b"{}", {})
    assert outcome.error == "timed out"


async def test_nobody_listening_is_an_outcome(receiver: Receiver) -> None:
    async with HttpSender.open(allowed=frozenset({"localhost"})) as sender:
        outcome = await sender.send("http://localhost:1/", b"{}", {})
    assert outcome.status is None
    assert outcome.error.startswith("cannot connect")


async def test_the_secret_is_stored_sealed(worker: Worker, receiver: Receiver) -> None:
    created = await worker.hook(receiver.url, new_id())
    [row] = await worker.database.all(sa.text("SELECT secret FROM hooks"))
    assert created.secret.encode() not in row["secret"]
    listed = await worker.stub.ListHooks(worker_pb2.ListHooksRequest(project_id=created.hook.project_id))
    assert created.secret not in str(listed)


async def test_a_hook_is_removed_by_its_own_project_only(worker: Worker, receiver: Receiver, eventually: Any) -> None:
    project, other = new_id(), new_id()
    created = await worker.hook(receiver.url, project)
    with pytest.raises(NotFound):
        await worker.stub.DeleteHook(worker_pb2.DeleteHookRequest(project_id=other, hook_id=created.hook.id))
    await worker.stub.DeleteHook(worker_pb2.DeleteHookRequest(project_id=project, hook_id=created.hook.id))
    assert await worker.results(project) == []
    kept = await worker.hook(receiver.url, other)
    await worker.publish(changed(project), changed(other))
    await eventually(lambda: receiver.requests)
    assert [json.loads(body)["project"]["id"] for _, _, body in receiver.requests] == [kept.hook.project_id]


async def test_a_project_has_twenty_hooks_at_most(worker: Worker, receiver: Receiver) -> None:
    project = new_id()
    answers = await asyncio.gather(*(worker.hook(receiver.url, project) for _ in range(24)), return_exceptions=True)
    assert sum(isinstance(answer, PreconditionFailed) for answer in answers) == 4
    assert len(await worker.results(project)) == 20


async def test_an_unused_artifact_is_removed(worker: Worker, tmp_path: Path, eventually: Any) -> None:
    async def content() -> AsyncIterator[bytes]:
        yield b"x"

    for name in ("unused", "used", "stored-again"):
        await worker.objects.put_stream(f"artifacts/{name}", content())
        if name != "stored-again":
            os.utime(tmp_path / "objects" / "artifacts" / name, (time.time() - 3600,) * 2)

    def expired(key: str, *, unused: bool) -> Any:
        artifact = types_pb2.Artifact(kind=types_pb2.ARTIFACT_KIND_APP, object_key=key)
        return events_pb2.ReleaseExpired(deployment_id=new_id(), artifact=artifact, artifact_unused=unused)

    await worker.publish(
        expired("artifacts/used", unused=False),
        expired("artifacts/never-there", unused=True),
        expired("artifacts/stored-again", unused=True),
        expired("artifacts/unused", unused=True),
    )

    async def removed() -> bool:
        return not await worker.objects.exists("artifacts/unused") and not await worker.database.all(
            sa.text("SELECT 1 FROM removals")
        )

    await eventually(removed)
    assert await worker.objects.exists("artifacts/used")
    assert await worker.objects.exists("artifacts/stored-again"), "a build of the same content has just stored it"


async def test_what_is_not_its_business_is_acknowledged(worker: Worker, eventually: Any) -> None:
    await worker.publish(events_pb2.BuildStarted(deployment_id=new_id(), attempt=1))
    await worker.publish(events_pb2.WorkloadStopped(deployment_id=new_id()), stream=RUNTIME_EVENTS)

    async def acknowledged() -> bool:
        for stream in (DEPLOYMENT_PROGRESS, RUNTIME_EVENTS):
            groups = {group["name"]: group for group in await worker.streams.client.xinfo_groups(stream)}
            group = groups.get(b"worker") or groups.get("worker")
            if group is None or group["pending"] or group["entries-read"] != 1:
                return False
        return True

    await eventually(acknowledged)


async def test_a_poison_event_is_shown_and_replayed_through_the_worker(worker: Worker, eventually: Any) -> None:
    await worker.streams.append(DEPLOYMENT_PROGRESS, [b"no event"])

    async def dead() -> list[worker_pb2.DeadEvent]:
        answer = await worker.stub.ListDeadEvents(worker_pb2.ListDeadEventsRequest(group="worker"))
        return list(answer.events)

    (event,) = await eventually(dead)
    assert (event.stream, event.tries, event.event_id) == ("deployment.progress", 1, "")
    assert (await worker.stub.GetDeadEvent(worker_pb2.GetDeadEventRequest(id=event.id))).payload_json == ""
    one = worker_pb2.DeadEventChoice(id=event.id)
    assert (await worker.stub.ReplayDeadEvents(worker_pb2.ReplayDeadEventsRequest(events=one))).count == 1
    (again,) = await eventually(dead)
    assert again.id != event.id
    every = worker_pb2.DeadEventChoice(all=worker_pb2.AllDeadEvents(stream="deployment.progress"))
    assert (await worker.stub.DropDeadEvents(worker_pb2.DropDeadEventsRequest(events=every))).count == 1
    with pytest.raises(InvalidInput):
        await worker.stub.DropDeadEvents(worker_pb2.DropDeadEventsRequest(events=worker_pb2.DeadEventChoice()))
