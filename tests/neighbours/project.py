"""Calls project through its gRPC stub and looks into its real database, streams and object store."""

from __future__ import annotations

import base64
import gzip
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from shipoff.common.ids import new_id
from shipoff.common.postgres import Database
from shipoff.common.rpc import channel
from shipoff.common.sealing import Sealer
from shipoff.common.streams import DEPLOYMENT_QUEUE, Event, Streams, decode
from shipoff.contracts.project.v1 import project_pb2 as pb
from shipoff.contracts.project.v1.project_pb2_grpc import ProjectServiceStub
from shipoff.contracts.types.v1 import types_pb2
from shipoff.project.settings import ProjectSettings

MASTER_KEY = base64.b64encode(bytes(range(32))).decode()
SECRET = "the-webhook-secret"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
URL = "https://github.com/ada/engine"


def push_body(commit: str, **changes: Any) -> bytes:
    """A push to main of ada/engine; `seconds` after noon, `before` an older commit."""
    moment = NOON + timedelta(seconds=changes.pop("seconds", 0))
    payload = {
        "ref": "refs/heads/main",
        "before": changes.pop("before", "0" * 40),
        "after": commit,
        "repository": {
            "clone_url": f"{URL.replace('ada', 'Ada')}.git",
            "default_branch": "main",
            "pushed_at": int(moment.timestamp()),
        },
        "head_commit": {"message": f"commit {commit[:4]}", "timestamp": moment.isoformat()},
        "sender": {"login": "ada"},
        **changes,
    }
    return json.dumps(payload).encode()


@dataclass
class Rig:
    stub: ProjectServiceStub
    database: Database
    streams: Streams
    objects: Path
    settings: ProjectSettings
    team_id: str

    async def project(self, name: str = "shop", **settings: Any) -> pb.Project:
        request = pb.CreateProjectRequest(team_id=self.team_id, name=name, **settings)
        return (await self.stub.CreateProject(request)).project

    async def following(self, name: str = "shop", **repository: Any) -> pb.Project:
        return await self.project(name, repository=pb.Repository(**{"url": URL, **repository}))

    async def upload(self, project_id: str, *chunks: bytes) -> types_pb2.ArchiveSource:
        async def parts() -> AsyncIterator[pb.UploadSourceRequest]:
            yield pb.UploadSourceRequest(project_id=project_id)
            for chunk in chunks or (gzip.compress(b"an archive"),):
                yield pb.UploadSourceRequest(chunk=chunk)

        return (await self.stub.UploadSource(parts(), timeout=30)).source

    async def request(self, project_id: str, **changes: Any) -> str:
        source = types_pb2.Source(git=types_pb2.GitSource(url=URL, ref="main"))
        request = pb.RequestDeploymentRequest(
            **{"project_id": project_id, "environment": "production", "source": source, "requested_by": "user-1", **changes}
        )
        return (await self.stub.RequestDeployment(request)).deployment_id

    async def deliver(self, body: bytes, **changes: Any) -> pb.ReceiveWebhookResponse:
        signature = "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        request = pb.ReceiveWebhookRequest(
            **{
                "provider": "github",
                "delivery_id": new_id(),
                "event": "push",
                "signature": signature,
                "body": body,
                **changes,
            }
        )
        return await self.stub.ReceiveWebhook(request)

    async def events(self) -> list[Event]:
        """What is on the queue, in its order."""
        return [decode(fields[b"e"]) for _, fields in await self.streams.client.xrange(DEPLOYMENT_QUEUE)]

    async def count(self, table: str) -> int:
        (row,) = await self.database.all(sa.select(sa.func.count().label("n")).select_from(sa.table(table)))
        return int(row["n"])

    def sealer(self) -> Sealer:
        return Sealer(MASTER_KEY)

    def files(self) -> list[str]:
        """Every object there is."""
        return sorted(str(path.relative_to(self.objects)) for path in self.objects.rglob("*") if path.is_file())


def settings_for(database_url: str, redis_url: str, home: Path, objects: Path) -> ProjectSettings:
    """Settings of a project service for tests."""
    return ProjectSettings(
        database_url=database_url,
        listen=f"unix:{home}/project-test.sock",
        redis_url=redis_url,
        objects_url=f"file://{objects}",
        master_key=MASTER_KEY,
        base_domain="apps.example.com",
        github_webhook_secret=SECRET,
        max_source_bytes=1 << 20,
    )


@asynccontextmanager
async def connected(settings: ProjectSettings) -> AsyncIterator[Rig]:
    """A rig on a service that runs already."""
    async with (
        channel(settings.listen) as ch,
        Database.open(settings.database_url) as database,
        Streams.open(settings.redis_url) as streams,
    ):
        yield Rig(
            ProjectServiceStub(ch), database, streams, Path(settings.objects_url.removeprefix("file://")), settings, new_id()
        )
