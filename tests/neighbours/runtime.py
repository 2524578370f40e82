"""A runtime on real PostgreSQL, Valkey and object store, running tiny apps of Python's standard library."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import hashlib
import io
import os
import shutil
import sys
import tarfile
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from google.protobuf.message import Message

from shipoff.common.objects import ObjectStore
from shipoff.common.rpc import channel
from shipoff.common.sealing import Sealer
from shipoff.common.streams import LOGS_INGEST, RUNTIME_EVENTS, Streams, decode
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.runtime.v1 import runtime_pb2, runtime_pb2_grpc
from shipoff.contracts.types.v1 import types_pb2
from shipoff.runtime.domain import Policy
from shipoff.runtime.main import running
from shipoff.runtime.settings import RuntimeSettings

# What the tests' apps do; the artifact holds that file.
APP = Path(__file__).with_name("runtime_app.py")
# An interpreter that every account may run; the tests' own may lie in somebody's home.
PYTHON = shutil.which("python3", path="/usr/local/bin:/usr/bin") or sys.executable
QUICK = Policy(
    drain_s=0.1, grace_s=3.0, live_probe_s=0.3, live_misses=2, worker_settle_s=0.4, backoff_first_s=0.1,
    backoff_longest_s=1.0, well_after_s=30.0, again_s=0.2,
)  # fmt: skip
MASTER_KEY = base64.b64encode(b"k" * 32).decode()


def artifact_of(files: Mapping[str, bytes]) -> bytes:
    """A .tar.gz of these files, all executable."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


async def events_of(streams: Streams, stream: str) -> list[Message]:
    """Every message ever put on the stream, in order; one that was published twice counts once, as in every inbox."""
    events = [decode(fields[b"e"]) for _, fields in await streams.client.xrange(stream)]
    return list({event.id: event.message for event in events}.values())


@dataclass
class Runtime:
    """What a test holds of a runtime: its contract, its streams, and the folders of its apps."""

    stub: runtime_pb2_grpc.RuntimeServiceStub
    streams: Streams
    settings: RuntimeSettings
    objects_url: str
    sealer: Sealer = field(default_factory=lambda: Sealer(MASTER_KEY))

    @property
    def apps(self) -> Path:
        return Path(self.settings.apps_folder)

    async def apply(
        self,
        *mode: str,
        processes: Mapping[str, Sequence[str]] | None = None,
        run: types_pb2.RunSettings | None = None,
        variables: Mapping[str, str] | None = None,
        files: Mapping[str, bytes] | None = None,
        deployment_id: str = "",
        project_id: str = "",
        damage: bytes = b"",
        release_timeout_s: int = 0,
    ) -> str:
        """Applies a workload that runs app.py in this mode; its deployment id."""
        data = artifact_of({"app.py": APP.read_bytes(), **(files or {})})
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        key = f"artifacts/{digest}"

        async def chunks() -> AsyncIterator[bytes]:
            yield damage or data

        async with ObjectStore.open(self.objects_url) as objects:
            await objects.put_stream(key, chunks())
        commands = processes or {"web": [PYTHON, "app.py", *mode, "$PORT"]}
        sealed = self.sealer.seal_variables(self.sealer.new_data_key(), dict(variables or {}), {})
        workload = runtime_pb2.Workload(
            deployment_id=deployment_id or str(uuid.uuid4()),
            project_id=project_id or str(uuid.uuid4()),
            project_name="demo",
            team_id=str(uuid.uuid4()),
            environment="production",
            artifact=types_pb2.Artifact(kind=types_pb2.ARTIFACT_KIND_APP, object_key=key, digest=digest, size_bytes=len(data)),
            processes=[types_pb2.PlanProcess(name=n, command=types_pb2.Command(argv=a)) for n, a in commands.items()],
            app_root=".",
            configuration=types_pb2.Configuration(variables=sealed, run=run or types_pb2.RunSettings()),
            release_timeout_s=release_timeout_s,
        )
        await self.stub.ApplyWorkload(runtime_pb2.ApplyWorkloadRequest(workload=workload))
        return workload.deployment_id

    async def get(self, deployment_id: str) -> runtime_pb2.GetWorkloadResponse:
        answer: runtime_pb2.GetWorkloadResponse = await self.stub.GetWorkload(
            runtime_pb2.GetWorkloadRequest(deployment_id=deployment_id)
        )
        return answer

    async def stop(self, deployment_id: str) -> None:
        await self.stub.StopWorkload(runtime_pb2.StopWorkloadRequest(deployment_id=deployment_id))

    async def scale(self, deployment_id: str, replicas: int) -> None:
        await self.stub.ScaleWorkload(runtime_pb2.ScaleWorkloadRequest(deployment_id=deployment_id, replicas=replicas))

    async def pause(self, deployment_id: str, *, paused: bool = True) -> None:
        await self.stub.PauseWorkload(runtime_pb2.PauseWorkloadRequest(deployment_id=deployment_id, paused=paused))

    async def restart(self, deployment_id: str) -> None:
        await self.stub.RestartWorkload(runtime_pb2.RestartWorkloadRequest(deployment_id=deployment_id))

    async def events(self, deployment_id: str, kind: type[Message] | None = None) -> list[Any]:
        """What was told of a workload, in order."""
        told = [m for m in await events_of(self.streams, RUNTIME_EVENTS) if getattr(m, "deployment_id", "") == deployment_id]
        return [m for m in told if kind is None or isinstance(m, kind)]

    async def lines(self, deployment_id: str) -> list[tuple[str, int, str, str]]:
        """(stream id, sequence, channel, text) of every line that was shipped, in order, repeats included."""
        batches = [m for m in await events_of(self.streams, LOGS_INGEST) if isinstance(m, events_pb2.LogBatch)]
        own = [batch for batch in batches if batch.deployment_id == deployment_id]
        return [(b.stream_id, line.sequence, line.channel, line.text) for b in own for line in b.lines]

    def pids(self, deployment_id: str) -> set[int]:
        """Every process that carries the mark of one of the workload's instances."""
        return marked(f"{self.apps}|{deployment_id}")


def marked(prefix: str) -> set[int]:
    """Processes whose SHIPOFF_INSTANCE begins so."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            # bubblewrap's own two processes stand for the sandbox, not for the app.
            alive = process.status() != psutil.STATUS_ZOMBIE and process.name() != "bwrap"
            if alive and process.environ().get("SHIPOFF_INSTANCE", "").startswith(prefix):
                found.add(process.pid)
    return found


async def http(port: int, path: str = "/") -> str:
    """The body that an app answers with. Raises OSError."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    return answer.partition("\r\n\r\n")[2]


@dataclass
class Ground:
    """What several runtimes after each other share."""

    settings: RuntimeSettings
    objects_url: str

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Runtime]:
        async with channel(self.settings.listen) as ch, Streams.open(self.settings.redis_url) as streams:
            yield Runtime(runtime_pb2_grpc.RuntimeServiceStub(ch), streams, self.settings, self.objects_url)

    @asynccontextmanager
    async def runtime(self, policy: Policy = QUICK, **changes: Any) -> AsyncIterator[Runtime]:
        """A runtime in this process."""
        async with running(self.settings.model_copy(update=changes), policy=policy), self.client() as client:
            yield client

    @asynccontextmanager
    async def process(self, *, crash_at: int = 0, **more: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """A runtime in a process of its own, killed at the end unless it is gone; it may die while it starts.

        `more`: further variables of its environment.
        """
        tests = str(Path(__file__).parent.parent)
        environment = {**os.environ, "PYTHONPATH": tests, "SHIPOFF_CRASH_AT": str(crash_at), **self.variables(), **more}
        script = [sys.executable, "-m", "neighbours.runtime_service"]
        child = await asyncio.create_subprocess_exec(*script, env=environment, stdout=asyncio.subprocess.PIPE)
        assert child.stdout is not None
        try:
            # Whatever it logs before, that there is no sandbox for one, is no matter.
            while (line := await child.stdout.readline()) != b"running\n":
                assert line, "the runtime ended while it started"
            yield child
        finally:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()

    def variables(self) -> dict[str, str]:
        """The environment of a runtime on this ground."""
        return {
            "SHIPOFF_RUNTIME_DATABASE_URL": self.settings.database_url,
            "SHIPOFF_RUNTIME_LISTEN": self.settings.listen,
            "SHIPOFF_RUNTIME_APPS_FOLDER": self.settings.apps_folder,
            "SHIPOFF_REDIS_URL": self.settings.redis_url,
            "SHIPOFF_OBJECTS_URL": self.settings.objects_url,
            "SHIPOFF_MASTER_KEY": MASTER_KEY,
        }


@asynccontextmanager
async def fresh_ground(home: Path, *, database_url: str, redis_url: str, objects_url: str) -> AsyncIterator[Ground]:
    """An apps' folder of its own; whatever still runs in it at the end is ended."""
    folder = home / "apps" / uuid.uuid4().hex[:8]
    settings = RuntimeSettings(
        database_url=database_url,
        redis_url=redis_url,
        objects_url=objects_url,
        master_key=MASTER_KEY,
        listen=f"unix:{home}/run/grpc/{uuid.uuid4().hex[:8]}.sock",
        apps_folder=str(folder),
    )
    try:
        yield Ground(settings, objects_url)
    finally:
        for pid in marked(str(folder)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
