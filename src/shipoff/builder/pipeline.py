"""The build itself, from the source to the uploaded artifact: one function a phase."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from shipoff.builder import bytecode
from shipoff.builder.assignment import Assignment, BuildError, Kind, artifact_error, source_error
from shipoff.builder.cloning import Cloning, clone
from shipoff.builder.confine import TenantFiles
from shipoff.builder.images.dockerfile import served
from shipoff.builder.images.executor import ImageBuild, Site
from shipoff.builder.journal import Journal
from shipoff.builder.link import Link
from shipoff.builder.packing import Packed, Packing, check_output, pack
from shipoff.builder.programs import Programs
from shipoff.builder.snapshot import take
from shipoff.builder.steps import Steps, base_environment
from shipoff.builder.unpacking import unpack
from shipoff.builder.watch import Watch
from shipoff.common.amounts import counted, size
from shipoff.common.errors import DataLoss, InvalidInput, NotFound, PreconditionFailed, ShipoffError
from shipoff.contracts.build.v1 import build_pb2
from shipoff.contracts.types.v1 import types_pb2

_CHUNK_BYTES = 512 << 10
_TRIES = 5


@dataclass(frozen=True)
class Workshop:
    """What the phases work with."""

    assignment: Assignment
    link: Link
    journal: Journal
    programs: Programs
    files: TenantFiles
    watch: Watch

    @property
    def source(self) -> Path:
        """The folder of the source."""
        return self.assignment.work_folder / "source"


@dataclass(frozen=True)
class Built:
    """What a build leaves."""

    artifact: types_pb2.Artifact
    plan: types_pb2.Plan
    commit: str


async def build(shop: Workshop, job: build_pb2.Job) -> Built:
    """Builds the job's source; the artifact is uploaded. Raises BuildError."""
    if job.notice:
        await shop.journal.say(f"▸ {job.notice}")
    await shop.files.run(_prepare, shop.assignment.work_folder)
    commit = await _fetch(shop, job)
    decided = await _plan(shop, job)
    if decided.HasField("unchanged"):
        words = f"the same was built for deployment {decided.unchanged_since}"
        await shop.journal.say(f"▸ unchanged: {words}, and is used again (--no-cache builds it anew)")
        return Built(decided.unchanged, decided.plan, commit)
    return Built(await _execute(shop, job, decided.plan), decided.plan, commit)


async def _execute(shop: Workshop, job: build_pb2.Job, plan: types_pb2.Plan) -> types_pb2.Artifact:
    """Runs the plan with the platform's executor; the artifact, stored."""
    if shop.assignment.images is None or (served(plan) and not plan.steps):
        await _run_steps(shop, job, plan)
        return await _upload(shop, plan, await _pack(shop, plan, shop.source))

    def on_step(name: str) -> None:
        shop.link.phase(name)
        shop.watch.step = name

    site = Site(shop.assignment, shop.assignment.images, shop.journal, shop.files, shop.programs, shop.source, on_step)
    executor = ImageBuild(site, job, plan)
    if served(plan):
        return await _upload(shop, plan, await _pack(shop, plan, await executor.pages()))
    image = await executor.image()
    kind = types_pb2.ARTIFACT_KIND_IMAGE
    artifact = types_pb2.Artifact(kind=kind, object_key=image.reference, digest=image.digest, size_bytes=image.size_bytes)
    return await _stored(shop, lambda: shop.link.record_image(artifact))


def _prepare(work: Path) -> None:
    for name in ("home", "tmp"):
        (work / name).mkdir(mode=0o700, exist_ok=True)


@contextlib.contextmanager
def _phase(shop: Workshop, name: str) -> Iterator[None]:
    shop.link.phase(name)
    shop.watch.step = name
    yield
    shop.watch.step = ""


async def _fetch(shop: Workshop, job: build_pb2.Job) -> str:
    """Brings the source into its folder; the commit, empty for an archive."""
    with _phase(shop, "clone"):
        if job.source.WhichOneof("kind") == "archive":
            await shop.journal.say("▸ unpack: the uploaded archive")
            await _unpack(shop, job.source.archive)
            return ""
        git = job.source.git
        await shop.journal.say(f"▸ clone: {_shown_url(git.url)} {git.commit or git.ref}".rstrip())
        environment = base_environment(shop.assignment)
        cloning = Cloning(shop.programs, shop.files, environment, shop.assignment.allow_hosts)
        commit = await clone(cloning, git, shop.source)
        await shop.watch.check_disk()
        await shop.journal.say(f"  commit {commit}")
        return commit


def _shown_url(url: str) -> str:
    """The URL as far as a log may show it: without what stands before the host, and without a query."""
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path.partition('?')[0]}"


async def _unpack(shop: Workshop, source: types_pb2.ArchiveSource) -> None:
    archive = shop.assignment.work_folder / "source.tar.gz"
    await _download(shop, source, archive)
    await shop.files.run(unpack, archive, shop.source, shop.assignment.limits)
    await shop.files.run(archive.unlink)


async def _download(shop: Workshop, source: types_pb2.ArchiveSource, archive: Path) -> None:
    """Fetches the archive and checks its digest; tries again when it breaks off. Raises BuildError."""
    for attempt in range(1, _TRIES + 1):
        digest = hashlib.sha256()
        file = await shop.files.run(archive.open, "wb")
        try:
            with file:
                async for chunk in shop.link.fetch_source():
                    digest.update(chunk)
                    await asyncio.to_thread(file.write, chunk)
            if f"sha256:{digest.hexdigest()}" == source.digest:
                return
            problem = "it is not what its digest says"
        except NotFound as error:
            raise source_error("the uploaded archive is no longer there: deploy again") from error
        except ShipoffError as error:
            problem = error.message
        if attempt < _TRIES:
            await asyncio.sleep(0.2 * 2**attempt)
    raise source_error(f"the uploaded archive cannot be fetched: {problem}")


async def _plan(shop: Workshop, job: build_pb2.Job) -> build_pb2.PlanDecided:
    with _phase(shop, "plan"):
        snapshot = await shop.files.run(take, shop.source, job.settings.root_directory, shop.assignment.limits)
        decided = await shop.link.plan(snapshot)
        if not decided.HasField("plan"):
            problem = decided.problem or "nothing in the source could be recognised"
            raise BuildError(Kind.BUILD_FAILURE_PLAN, problem, step="plan")
        plan = decided.plan
        await shop.journal.say(f"▸ plan: {_named(plan)}")
        for warning in plan.warnings:
            await shop.journal.say(f"  warning: {warning}")
        return decided


def _named(plan: types_pb2.Plan) -> str:
    """Provider, framework and mode, each word once: "python flask, server", "static"."""
    kind = " ".join(dict.fromkeys(word for word in (plan.provider, plan.framework) if word))
    return kind if kind == _mode(plan) else f"{kind}, {_mode(plan)}"


def _mode(plan: types_pb2.Plan) -> str:
    return types_pb2.PlanMode.Name(plan.mode).removeprefix("PLAN_MODE_").lower()


async def _run_steps(shop: Workshop, job: build_pb2.Job, plan: types_pb2.Plan) -> None:
    folder = await shop.files.run(_inside, shop.source, plan.app_root)
    if folder is None:
        raise BuildError(Kind.BUILD_FAILURE_PLAN, f"the root directory {plan.app_root!r} is not in the source", step="plan")
    steps = Steps(shop.assignment, shop.programs, shop.journal, shop.watch)
    for step in plan.steps:
        place = await shop.files.run(_inside, shop.source, step.folder) if step.folder else folder
        if place is None:
            raise BuildError(Kind.BUILD_FAILURE_PLAN, f"the folder {step.folder!r} is not in the source", step=step.name)
        with _phase(shop, step.name):
            await steps.run(step, place, dict(job.variables))


def _inside(root: Path, relative: str) -> Path | None:
    """The folder, links resolved; None when it is missing or not inside."""
    if PurePosixPath(relative).is_absolute():
        return None
    folder = (root / relative).resolve()
    return folder if folder.is_dir() and folder.is_relative_to(root.resolve()) else None


async def _pack(shop: Workshop, plan: types_pb2.Plan, source: Path) -> Packed:
    with _phase(shop, "pack"):
        await _compile(shop, plan)
        # Nothing of the build's may change what is being packed.
        if not await shop.programs.kill_all():
            raise artifact_error("processes of the build could not be ended")
        packing = await shop.files.run(_packing, shop, plan, source)
        packed = await shop.files.run(pack, packing, shop.assignment.work_folder / "artifact.tar.gz")
        await shop.journal.say(f"▸ pack: {counted(packed.files, 'file')}, {size(packed.size_bytes)}")
        return packed


async def _compile(shop: Workshop, plan: types_pb2.Plan) -> None:
    if served(plan):
        return
    python = await shop.files.run(bytecode.interpreter, [shop.source / plan.app_root, shop.source])
    if python is None:
        return
    # What the source calls an interpreter may be none, or none of this machine's. The app then starts without byte code.
    with contextlib.suppress(OSError):
        await bytecode.compile_all(shop.programs, shop.assignment, python, shop.source)


def _packing(shop: Workshop, plan: types_pb2.Plan, source: Path) -> Packing:
    limit = shop.assignment.limits.artifact_bytes
    if not served(plan):
        # The whole source: processes start in app_root, and may need what stands beside it.
        return Packing(source, served=False, limit_bytes=limit)
    root = (source / plan.app_root).resolve()
    output = Path(os.path.normpath(root / (plan.output_dir or ".")))
    if not output.is_relative_to(root):
        raise artifact_error(f"the output directory {plan.output_dir!r} is not in the source")
    check_output(output, plan.output_dir or ".", root)
    return Packing(output.resolve(), served=True, limit_bytes=limit)


async def _upload(shop: Workshop, plan: types_pb2.Plan, packed: Packed) -> types_pb2.Artifact:
    """Uploads the archive; tries again while that may help. Raises BuildError."""
    kind = types_pb2.ARTIFACT_KIND_STATIC if served(plan) else types_pb2.ARTIFACT_KIND_APP
    artifact = types_pb2.Artifact(kind=kind, digest=packed.digest, size_bytes=packed.size_bytes)

    async def upload() -> types_pb2.Artifact:
        file = await shop.files.run((shop.assignment.work_folder / "artifact.tar.gz").open, "rb")
        with file:
            return await shop.link.upload(artifact, _chunks(file))

    with _phase(shop, "upload"):
        await shop.journal.say(f"▸ upload: {packed.digest}")
        return await _stored(shop, upload)


async def _stored(shop: Workshop, store: Callable[[], Awaitable[types_pb2.Artifact]]) -> types_pb2.Artifact:
    """The artifact as the service has stored it; tries again while that may help. Raises BuildError."""
    problem = ""
    for attempt in range(1, _TRIES + 1):
        try:
            return await store()
        except (InvalidInput, PreconditionFailed) as error:
            raise artifact_error(f"the artifact was refused: {error.message}") from error
        except DataLoss as error:
            problem = f"it arrived damaged ({error.message})"
        except ShipoffError as error:
            problem = error.message
        if attempt < _TRIES:
            await asyncio.sleep(0.2 * 2**attempt)
    raise artifact_error(f"the artifact cannot be stored: {problem}")


async def _chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
        yield chunk
