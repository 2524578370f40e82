"""The build service on real PostgreSQL, Valkey and object store, with real builders; the detector's plan is in the source.

A source's app.json is the plan (protobuf's JSON), so that a test says exactly which commands run.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import hashlib
import io
import json
import os
import secrets
import subprocess
import sys
import tarfile
import uuid
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from google.protobuf import json_format

from shipoff.build.adapters.machine import started_at
from shipoff.build.adapters.postgres import PostgresBuildStore
from shipoff.build.domain import Process, Ref
from shipoff.build.main import running
from shipoff.build.settings import BuildSettings
from shipoff.common.config import address
from shipoff.common.objects import ObjectStore
from shipoff.common.outbox import Outbox
from shipoff.common.postgres import Database
from shipoff.common.rpc import channel, serving
from shipoff.common.sealing import Sealer
from shipoff.common.streams import DEPLOYMENT_PROGRESS, LOGS_INGEST, Streams, decode
from shipoff.contracts.build.v1 import build_pb2, build_pb2_grpc
from shipoff.contracts.detector.v1 import detector_pb2, detector_pb2_grpc
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.types.v1 import types_pb2

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MASTER_KEY = base64.b64encode(b"m" * 32).decode()
Result = events_pb2.BuildSucceeded | events_pb2.BuildFailed


def archive_of(files: Mapping[str, bytes | str]) -> bytes:
    """A .tar.gz of these files."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def files_of(name: str) -> dict[str, bytes]:
    """An example's files."""
    listed = subprocess.run(["git", "ls-files", "-z", "."], cwd=EXAMPLES / name, capture_output=True, check=True, text=True)
    return {path: (EXAMPLES / name / path).read_bytes() for path in listed.stdout.split("\0") if path}


def plan_of(*commands: str, mode: str = "PLAN_MODE_SERVER", **fields: Any) -> str:
    """An app.json whose build step runs these shell commands."""
    argvs = [{"argv": ["/bin/sh", "-c", command]} for command in commands]
    steps = [{"name": "build", "commands": argvs}] if commands else []
    plan = {"schema": 1, "provider": "shell", "mode": mode, "appRoot": ".", "steps": steps, **fields}
    return json.dumps(plan)


class PlanInSource(detector_pb2_grpc.DetectorServiceServicer):
    """Answers with the plan that the source holds."""

    async def Detect(self, request: detector_pb2.DetectRequest, context: Any) -> detector_pb2.DetectResponse:
        if "app.json" not in request.contents:
            return detector_pb2.DetectResponse(problem="there is no app.json")
        plan = json_format.Parse(request.contents["app.json"], types_pb2.Plan())
        return detector_pb2.DetectResponse(plan=plan)


@dataclass
class Yard:
    """One test's build service and what is around it; the service can be stopped and started again."""

    home: Path
    streams: Streams
    objects: ObjectStore
    settings: BuildSettings
    project_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    team_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    started: set[str] = field(default_factory=set)
    _stack: contextlib.AsyncExitStack | None = None

    async def up(self) -> None:
        """Starts the service."""
        self._stack = contextlib.AsyncExitStack()
        await self._stack.enter_async_context(running(self.settings))

    async def down(self) -> None:
        """Stops it; builders go on."""
        if self._stack is not None:
            await self._stack.aclose()
        self._stack = None

    def spawn(self) -> subprocess.Popen[bytes]:
        """The service in a process of its own, to be killed."""
        program = (
            "import asyncio, sys\n"
            "from shipoff.build.main import running\n"
            "from shipoff.build.settings import BuildSettings\n"
            "async def main():\n"
            "    async with running(BuildSettings.model_validate_json(sys.stdin.read())):\n"
            "        await asyncio.Event().wait()\n"
            "asyncio.run(main())\n"
        )
        values = {**self.settings.model_dump(), "master_key": MASTER_KEY}
        process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(json.dumps(values).encode())
        process.stdin.close()
        return process

    async def source(self, files: Mapping[str, bytes | str]) -> types_pb2.Source:
        """Stores an upload."""
        data = archive_of(files)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"

        async def chunks() -> AsyncIterator[bytes]:
            yield data

        key = f"sources/{self.project_id}/{uuid.uuid4()}"
        await self.objects.put_stream(key, chunks())
        return types_pb2.Source(archive=types_pb2.ArchiveSource(object_key=key, digest=digest, size_bytes=len(data)))

    def variables(self, values: Mapping[str, str]) -> types_pb2.SealedVariables:
        """Seals variables as project does."""
        sealer = Sealer(MASTER_KEY)
        return sealer.seal_variables(sealer.new_data_key(), values, dict.fromkeys(values, 1))

    async def request(
        self,
        source: types_pb2.Source | Mapping[str, bytes | str],
        *,
        deployment_id: str = "",
        attempt: int = 1,
        timeout_s: int = 60,
        variables: Mapping[str, str] | None = None,
        memory_bytes: int = 0,
        cpu_millis: int = 0,
        settings: types_pb2.BuildSettings | None = None,
    ) -> build_pb2.StartBuildRequest:
        """A request for an attempt."""
        if not isinstance(source, types_pb2.Source):
            source = await self.source(source)
        return build_pb2.StartBuildRequest(
            deployment_id=deployment_id or str(uuid.uuid4()),
            attempt=attempt,
            project_id=self.project_id,
            team_id=self.team_id,
            source=source,
            configuration=types_pb2.Configuration(
                version=1, build=settings, variables=self.variables(variables) if variables else None
            ),
            limits=types_pb2.Resources(cpu_millis=cpu_millis, memory_bytes=memory_bytes),
            timeout_s=timeout_s,
        )

    async def start(self, source: types_pb2.Source | Mapping[str, bytes | str], **options: Any) -> str:
        """Starts an attempt; its deployment's id."""
        request = await self.request(source, **options)
        await self.send(request)
        return request.deployment_id

    async def send(self, request: build_pb2.StartBuildRequest) -> None:
        """BuildService.StartBuild."""
        self.started.add(f"{request.deployment_id}/{request.attempt}")
        async with channel(address("build")) as connection:
            await build_pb2_grpc.BuildServiceStub(connection).StartBuild(request)

    async def cancel(self, deployment_id: str, attempt: int = 1) -> None:
        """BuildService.CancelBuild."""
        async with channel(address("build")) as connection:
            request = build_pb2.CancelBuildRequest(deployment_id=deployment_id, attempt=attempt)
            await build_pb2_grpc.BuildServiceStub(connection).CancelBuild(request)

    async def get(self, deployment_id: str, attempt: int = 1) -> build_pb2.GetBuildResponse:
        """BuildService.GetBuild."""
        async with channel(address("build")) as connection:
            request = build_pb2.GetBuildRequest(deployment_id=deployment_id, attempt=attempt)
            return await build_pb2_grpc.BuildServiceStub(connection).GetBuild(request)

    async def results(self, deployment_id: str) -> list[Result]:
        """Every outcome of a deployment's attempts that was ever published."""
        return [message for message in await self.outcomes() if message.deployment_id == deployment_id]

    async def outcomes(self) -> list[Result]:
        """Every outcome that was ever published; one that was published twice counts once, as in every inbox."""
        entries = await self.streams.client.xrange(DEPLOYMENT_PROGRESS)
        events = {event.id: event.message for event in (decode(fields[b"e"]) for _, fields in entries)}
        return [one for one in events.values() if isinstance(one, (events_pb2.BuildSucceeded, events_pb2.BuildFailed))]

    async def result(self, deployment_id: str, *, timeout_s: float = 30) -> Result:
        """The first outcome, once there is one."""
        async with asyncio.timeout(timeout_s):
            while not (results := await self.results(deployment_id)):  # noqa: ASYNC110 - another process writes them
                await asyncio.sleep(0.05)
        return results[0]

    async def lines(self, deployment_id: str) -> list[types_pb2.LogLine]:
        """Every log line that was ever published, in the order of the stream."""
        entries = await self.streams.client.xrange(LOGS_INGEST)
        batches = [decode(fields[b"e"]).message for _, fields in entries]
        return [line for batch in batches if batch.deployment_id == deployment_id for line in batch.lines]

    async def text(self, deployment_id: str) -> str:
        """The log as a person reads it."""
        return "\n".join(line.text for line in await self.lines(deployment_id))

    async def until_said(self, deployment_id: str, text: str, *, timeout_s: float = 30) -> None:
        """Waits for a word in the log. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while text not in await self.text(deployment_id):  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.05)

    async def files(self, artifact: types_pb2.Artifact) -> dict[str, bytes]:
        """What an artifact holds; checks its digest."""
        data = b"".join([chunk async for chunk in self.objects.get_stream(artifact.object_key)])
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == artifact.digest
        assert len(data) == artifact.size_bytes
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            return {m.name: archive.extractfile(m).read() for m in archive if m.isreg()}  # type: ignore[union-attr]  # regular

    @asynccontextmanager
    async def known_attempt(self) -> AsyncIterator[tuple[str, str]]:
        """An attempt whose token the test knows; its builder is a process that does nothing. (deployment, token)"""
        request, token = await self.request({"app.json": plan_of()}), secrets.token_urlsafe(8)
        idle = subprocess.Popen(["sleep", "600"])  # noqa: ASYNC220 - started at once
        process = Process(idle.pid, started_at(idle.pid))
        try:
            async with Database.open(self.settings.database_url) as database:
                store = PostgresBuildStore(database, Outbox(database, self.streams, producing=[DEPLOYMENT_PROGRESS]))
                await store.start(request)
                token_hash = hashlib.sha256(token.encode()).digest()
                assert await store.launched(Ref(request.deployment_id, 1), process, token_hash, 60)
            yield request.deployment_id, token
        finally:
            idle.kill()
            idle.wait()

    def builders(self) -> list[psutil.Process]:
        """The builders' processes."""
        return [process for process in psutil.process_iter() if is_builder_of(process, self.started)]

    def leftovers(self) -> list[str]:
        """Work folders that are still there, and incoming objects."""
        folders = [self.home / "builds" / "work", self.home / "objects" / "incoming"]
        # os.walk passes over what goes away meanwhile.
        walked = [step for folder in folders for step in os.walk(folder)]
        return [
            str(Path(parent) / name)
            for parent, inner, files in walked
            for name in [*files, *(inner if Path(parent).name == "work" else [])]
        ]


def is_builder_of(process: psutil.Process, started: Collection[str]) -> bool:
    """Whether it is a builder of one of these attempts."""
    try:
        arguments = process.cmdline()
    except psutil.Error:
        return False
    return "shipoff.builder" in arguments and arguments[-1] in started


def marked(deployment_id: str) -> Sequence[psutil.Process]:
    """Processes that a deployment's build has started."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            alive = process.status() != psutil.STATUS_ZOMBIE
            if alive and process.environ().get("SHIPOFF_BUILD", "").startswith(deployment_id):
                found.append(process)
    return found


@asynccontextmanager
async def build_yard(
    home: Path, *, database_url: str, redis_url: str, objects_url: str, detector: Any = None, **settings: Any
) -> AsyncIterator[Yard]:
    """A running build service; its detector (a servicer) reads app.json unless another is given. Nothing of it is left."""
    built = BuildSettings(
        database_url=database_url,
        redis_url=redis_url,
        objects_url=objects_url,
        master_key=MASTER_KEY,
        _env_file=None,
        **settings,
    )  # type: ignore[call-arg]  # pydantic-settings' own keyword
    registration = (detector_pb2_grpc.add_DetectorServiceServicer_to_server, detector or PlanInSource())
    async with (
        serving(address("detector"), [registration]),
        Streams.open(redis_url) as streams,
        ObjectStore.open(objects_url) as objects,
    ):
        yard = Yard(home, streams, objects, built)
        await yard.up()
        try:
            yield yard
        finally:
            await yard.down()
            for process in yard.builders():
                # It may be gone before it is looked at.
                with contextlib.suppress(psutil.Error):
                    for child in [*process.children(recursive=True), process]:
                        with contextlib.suppress(psutil.Error):
                            child.kill()
