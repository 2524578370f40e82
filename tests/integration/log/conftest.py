"""The log service as it runs, on real servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from shipoff.common.config import address
from shipoff.common.ids import new_id
from shipoff.common.postgres import Database
from shipoff.common.rpc import channel
from shipoff.common.streams import LOGS_INGEST, Streams
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.log.v1 import log_pb2, log_pb2_grpc
from shipoff.contracts.types.v1 import types_pb2
from shipoff.log.main import running
from shipoff.log.settings import LogSettings

BUILD, APP, PLATFORM = types_pb2.LOG_SOURCE_BUILD, types_pb2.LOG_SOURCE_APP, types_pb2.LOG_SOURCE_PLATFORM


def batch(deployment: str, sequences: range, *, stream: str = "s", source=BUILD, text: str = "line {}") -> events_pb2.LogBatch:
    """Lines numbered as their sequences."""
    lines = [types_pb2.LogLine(sequence=n, text=text.format(n), channel="stdout") for n in sequences]
    for line in lines:
        line.time.GetCurrentTime()
    return events_pb2.LogBatch(
        stream_id=f"{deployment}/{stream}",
        deployment_id=deployment,
        project_id=new_id(),
        team_id="t",
        source=source,
        lines=lines,
    )


@dataclass
class Log:
    """A running log service and what its neighbours would hold."""

    settings: LogSettings
    streams: Streams
    database: Database
    stub: log_pb2_grpc.LogServiceStub

    async def send(self, *batches: events_pb2.LogBatch) -> None:
        await self.streams.publish(LOGS_INGEST, list(batches), tenant_id="t")

    async def entries(self, deployment: str, **query) -> list[log_pb2.Entry]:
        response = await self.stub.ReadLogs(log_pb2.ReadLogsRequest(deployment_id=deployment, **query))
        return list(response.entries)

    async def texts(self, deployment: str, **query) -> list[str]:
        return [entry.line.text for entry in await self.entries(deployment, **query)]


@pytest.fixture
async def settings(database_url_for, redis_url, shipoff_home: Path) -> LogSettings:
    return LogSettings(
        database_url=await database_url_for("log"),
        SHIPOFF_REDIS_URL=redis_url,
        hole_patience_s=0.3,
        retention_s=0.2,
        poll_s=0.2,
    )


@asynccontextmanager
async def connected(settings: LogSettings) -> AsyncIterator[Log]:
    async with (
        Streams.open(settings.redis_url) as streams,
        Database.open(settings.database_url) as database,
        channel(settings.listen or address("log")) as ch,
    ):
        yield Log(settings, streams, database, log_pb2_grpc.LogServiceStub(ch))


@pytest.fixture
async def log(settings: LogSettings) -> AsyncIterator[Log]:
    async with running(settings), connected(settings) as log:
        yield log
