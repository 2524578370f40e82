"""The cdn as it runs: real PostgreSQL, Valkey and Caddy, and small apps for it to lead to."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import io
import tarfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
from neighbours.ports import free_port

from shipoff.cdn.main import running
from shipoff.cdn.settings import CdnSettings
from shipoff.common.config import address
from shipoff.common.ids import new_id
from shipoff.common.objects import ObjectStore
from shipoff.common.postgres import Database
from shipoff.common.rpc import channel
from shipoff.common.streams import Streams
from shipoff.contracts.cdn.v1 import cdn_pb2, cdn_pb2_grpc
from shipoff.contracts.types.v1 import types_pb2
from shipoff.embedded.caddy import Caddy
from shipoff.embedded.layout import Layout, backing_account


def tarball(entries: Mapping[str, str | bytes | tarfile.TarInfo]) -> bytes:
    """A .tar.gz: names with contents, or whole headers."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as gz, tarfile.open(fileobj=gz, mode="w|") as tar:
        for name, content in entries.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return packed.getvalue()


@dataclass
class Site:
    """An environment that tests deploy to."""

    host: str
    project_id: str = field(default_factory=new_id)
    environment: str = "production"
    fence: int = 0


@dataclass
class Cdn:
    """A running cdn with its edge."""

    settings: CdnSettings
    caddy: Caddy
    stub: cdn_pb2_grpc.CdnServiceStub
    objects: ObjectStore
    streams: Streams
    database: Database
    http: httpx2.AsyncClient

    async def get(self, host: str, path: str = "/", **more) -> httpx2.Response:
        return await self.http.get(path, headers={"Host": host, **more.pop("headers", {})}, **more)

    async def publish(self, archive: bytes, deployment: str | None = None, *, digest: str = "") -> str:
        """Uploads an artifact and publishes it as a deployment's release; the deployment's id."""
        deployment = deployment or new_id()

        async def chunks() -> AsyncIterator[bytes]:
            yield archive

        key = f"artifacts/{deployment}"
        await self.objects.put_stream(key, chunks())
        artifact = types_pb2.Artifact(
            kind=types_pb2.ARTIFACT_KIND_STATIC,
            object_key=key,
            digest=digest or f"sha256:{hashlib.sha256(archive).hexdigest()}",
            size_bytes=len(archive),
        )
        await self.stub.PublishRelease(cdn_pb2.PublishReleaseRequest(deployment_id=deployment, artifact=artifact))
        return deployment

    async def route(self, site: Site, deployment: str, *ports: int, spa: bool | None = None, fence: int | None = None) -> None:
        """Points the site at a release (spa given) or at ports of this machine, with the next fence."""
        if fence is None:
            fence = site.fence = site.fence + 1
        route = cdn_pb2.Route(
            project_id=site.project_id,
            environment=site.environment,
            deployment_id=deployment,
            hosts=[site.host],
            fence=fence,
        )
        if spa is None:
            route.proxy.SetInParent()
            route.proxy.endpoints.extend(types_pb2.Endpoint(host="127.0.0.1", port=port) for port in ports)
        else:
            route.static.spa = spa
            route.static.SetInParent()
        await self.stub.SetRoute(cdn_pb2.SetRouteRequest(route=route))

    async def site(self, host: str, entries: Mapping[str, str | bytes], *, spa: bool = False) -> Site:
        """A published and routed static site."""
        site = Site(host)
        await self.route(site, await self.publish(tarball(entries)), spa=spa)
        return site


@pytest.fixture
async def caddy(backing) -> AsyncIterator[Caddy]:
    caddy = Caddy(Layout(backing.home), backing_account(), free_port())
    await caddy.start()
    yield caddy
    await caddy.stop()


@pytest.fixture
async def settings(backing, database_url_for, redis_url, caddy) -> CdnSettings:
    database_url = await database_url_for("cdn")
    shared = {"SHIPOFF_REDIS_URL": redis_url, "SHIPOFF_OBJECTS_URL": backing.objects_url, "SHIPOFF_HTTP_PORT": caddy._http_port}
    return CdnSettings(database_url=database_url, watch_s=0.2, reconcile_s=0.5, **shared)


@contextlib.asynccontextmanager
async def connected(settings: CdnSettings, caddy: Caddy) -> AsyncIterator[Cdn]:
    async with (
        channel(address("cdn")) as ch,
        ObjectStore.open(settings.objects_url) as objects,
        Streams.open(settings.redis_url) as streams,
        Database.open(settings.database_url) as database,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{settings.http_port}", timeout=20) as http,
    ):
        yield Cdn(settings, caddy, cdn_pb2_grpc.CdnServiceStub(ch), objects, streams, database, http)


@pytest.fixture
async def cdn(settings: CdnSettings, caddy: Caddy, eventually) -> AsyncIterator[Cdn]:
    async with running(settings), connected(settings, caddy) as cdn:

        async def loaded() -> bool:
            # A connection of its own each time: Caddy closes those it has when it is given another configuration.
            with contextlib.suppress(httpx2.HTTPError):
                return (await cdn.get("nobody.localhost", headers={"Connection": "close"})).status_code == 404
            return False

        await eventually(loaded)
        yield cdn


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def app(answer: Answer, port: int = 0) -> AsyncIterator[int]:
    """A raw TCP app on this machine; its port."""
    server = await asyncio.start_server(answer, "127.0.0.1", port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def saying(text: str) -> Answer:
    """Answers every request with a text, and closes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            body = text.encode()
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            await writer.drain()
        writer.close()

    return answer


@dataclass
class Load:
    """Visitors that keep their connections open and ask as fast as they can."""

    url: str
    host: str
    seen: set[str] = field(default_factory=set)
    failures: list[object] = field(default_factory=list)
    requests: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def hammer(self) -> None:
        with httpx2.Client(headers={"Host": self.host}, timeout=10) as client:
            while not self.stop.is_set():
                try:
                    answer = client.get(self.url)
                    if answer.status_code == 200:
                        self.seen.add(answer.text)
                    else:
                        self.failures.append((answer.status_code, answer.text))
                except httpx2.HTTPError as error:
                    self.failures.append(error)
                with self._changed:
                    self.requests += 1
                    self._changed.notify_all()

    def wait_for_requests(self, count: int) -> None:
        """Returns after so many more requests."""
        with self._changed:
            target = self.requests + count
            assert self._changed.wait_for(lambda: self.requests >= target, timeout=10)


@contextlib.asynccontextmanager
async def hammering(cdn: Cdn, host: str) -> AsyncIterator[Load]:
    """Two such visitors beside the block."""
    load = Load(f"http://127.0.0.1:{cdn.settings.http_port}/", host)
    threads = [threading.Thread(target=load.hammer) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load.stop.set()
        for thread in threads:
            await asyncio.to_thread(thread.join)


def folder(settings: CdnSettings, deployment: str) -> Path:
    return settings.releases / deployment
