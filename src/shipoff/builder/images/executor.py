"""Builds a plan with BuildKit: an image in the registry, or a folder of pages for the edge. The pipeline calls it."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import hmac
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shipoff.builder.assignment import Assignment, BuildError, Kind, artifact_error
from shipoff.builder.confine import TenantFiles
from shipoff.builder.images import reading
from shipoff.builder.images.bases import base_of, by_digest, canonical, mirrored
from shipoff.builder.images.buildx import Buildx, Request, platform_error
from shipoff.builder.images.dockerfile import Bases, Facts, Generated, generate, operator_id
from shipoff.builder.images.progress import Line, Progress
from shipoff.builder.images.quoting import Refused
from shipoff.builder.images.settings import ImageSettings
from shipoff.builder.images.verdict import judged
from shipoff.builder.journal import Journal
from shipoff.builder.programs import Programs
from shipoff.builder.steps import CACHES, fixed_environment
from shipoff.builder.unpacking import unpack
from shipoff.contracts.build.v1 import build_pb2
from shipoff.contracts.types.v1 import types_pb2

_DOCKERFILE_BYTES = 1 << 20
_ATTESTATION = "vnd.docker.reference.type"
# Settings of tools whose value is a file: what they name is mounted, as the path means nothing inside.
_FILES = frozenset(
    {
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "GIT_SSL_CAINFO",
        "NODE_EXTRA_CA_CERTS",
        "PIP_CERT",
        "PIP_CLIENT_CERT",
        "PIP_CONFIG_FILE",
        "UV_CONFIG_FILE",
        "NPM_CONFIG_USERCONFIG",
        "NPM_CONFIG_GLOBALCONFIG",
        "NPM_CONFIG_CAFILE",
    }
)
# Folders of this machine's, which a build elsewhere cannot see.
_LOCAL = frozenset({"SSL_CERT_DIR", "UV_CACHE_DIR", "PIP_CACHE_DIR", "NPM_CONFIG_CACHE", "NPM_CONFIG_PREFIX"})


@dataclass(frozen=True)
class Image:
    """What was pushed: its reference by digest, the digest, and the size in bytes of what a registry keeps of it."""

    reference: str
    digest: str
    size_bytes: int


@dataclass(frozen=True)
class Site:
    """Where a build works and whom it tells."""

    assignment: Assignment
    settings: ImageSettings
    journal: Journal
    files: TenantFiles
    programs: Programs
    source: Path
    # Called with the step that begins.
    on_step: Callable[[str], None]


@dataclass(frozen=True)
class _Recipe:
    """A Dockerfile on disk, and what belongs to it."""

    file: Path
    context: Path
    target: str
    steps: Mapping[str, str]
    # None: the file is the user's own.
    shown: Mapping[tuple[str, int], str] | None
    replaced: Mapping[str, str]
    arguments: Mapping[str, str]


class ImageBuild:
    """One attempt's build."""

    def __init__(self, site: Site, job: build_pb2.Job, plan: types_pb2.Plan) -> None:
        self._site = site
        self._job = job
        self._plan = plan
        # Beside the tenant's folder, not in it.
        self._folder = site.assignment.work_folder.parent / "image"
        self._buildx = Buildx(site.settings, self._folder, site.assignment.environment, site.programs)

    async def image(self) -> Image:
        """Builds and pushes the image. Raises BuildError."""
        repository = f"{self._site.settings.registry}/{self._job.project_id}"
        name = f"{repository}:{self._job.deployment_id}-{self._job.attempt}"
        output = {"type": "image", "name": name, "push": "true", "store": "false", "oci-mediatypes": "true"}
        output["rewrite-timestamp"] = "true"
        with self._workshop() as folder:
            recipe = await self._recipe(folder)
            await self._run(recipe, output, attested=True)
            digest = str((await asyncio.to_thread(_json_file, self._buildx.metadata))["containerimage.digest"])
            reference = f"{repository}@{digest}"
            size = await self._size(reference)
            await self._look_at(reference)
        if size > self._site.assignment.limits.artifact_bytes:
            most = self._site.assignment.limits.artifact_bytes >> 20
            raise artifact_error(f"the image is larger than {most} MiB: leave out what the app does not need")
        await self._site.journal.say(f"▸ push: {reference}, {size / (1 << 20):.1f} MiB")
        return Image(reference, digest, size)

    async def pages(self) -> Path:
        """Builds the pages and brings them here; a folder that stands for the source's. Raises BuildError."""
        folder = self._site.assignment.work_folder / "pages"
        with self._workshop() as own:
            recipe = await self._recipe(own)
            await self._run(recipe, {"type": "tar", "dest": str(own / "pages.tar")}, attested=False)
            archive = await self._site.files.run((self._site.assignment.work_folder / "pages.tar.gz").open, "wb")
            with archive:
                await asyncio.to_thread(_compress, own / "pages.tar", archive)
        packed = self._site.assignment.work_folder / "pages.tar.gz"
        try:
            await self._site.files.run(unpack, packed, folder, self._site.assignment.limits)
        except BuildError as error:
            raise artifact_error(f"the output directory cannot be taken over: {error.reason}") from error
        await self._site.files.run(packed.unlink)
        return folder

    @contextlib.contextmanager
    def _workshop(self) -> Iterator[Path]:
        """A folder that nobody else can enter; secrets are in it only while it is used."""
        self._folder.mkdir(mode=0o700)
        try:
            yield self._folder
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _recipe(self, folder: Path) -> _Recipe:
        await self._buildx.prepare()
        try:
            if self._plan.provider == "docker":
                return await self._own_recipe(folder)
            return await self._generated_recipe(folder)
        except Refused as error:
            raise BuildError(Kind.BUILD_FAILURE_PLAN, str(error), step="plan") from error

    async def _generated_recipe(self, folder: Path) -> _Recipe:
        made = generate(self._plan, await self._facts())
        file = folder / "Dockerfile"
        await asyncio.to_thread(_write_recipe, file, made)
        return _Recipe(file, self._site.source, made.target, made.steps, made.shown, {}, {})

    async def _own_recipe(self, folder: Path) -> _Recipe:
        """The repository's own Dockerfile, copied after it was looked at: what is checked is what is built."""
        context = self._site.source / self._plan.app_root
        text = await self._site.files.run(_read_source, self._site.source, context / self._plan.dockerfile)
        ignore = await self._site.files.run(_read_source, self._site.source, context / f"{self._plan.dockerfile}.dockerignore")
        if text is None:
            raise Refused(f"{self._plan.dockerfile} is no file of the source of at most {_DOCKERFILE_BYTES >> 10} KiB")
        found = reading.instructions(text)
        reading.refuse_secrets(found, self._job.variables.keys())
        mirrors = self._site.settings.mirrors
        replaced = {image: mirrored(image, mirrors) for image in reading.images(found)}
        syntax = reading.directives(text).syntax
        file = folder / "Dockerfile"
        await asyncio.to_thread(file.write_text, text)
        if ignore is not None:
            await asyncio.to_thread((folder / "Dockerfile.dockerignore").write_text, ignore)
        return _Recipe(
            file,
            context,
            target="",
            steps={},
            shown=None,
            replaced={image: instead for image, instead in replaced.items() if instead != canonical(image)},
            arguments={"BUILDKIT_SYNTAX": mirrored(syntax, mirrors)} if syntax and mirrors else {},
        )

    async def _facts(self) -> Facts:
        environment = self._site.assignment.environment
        return Facts(
            bases=await self._bases(),
            tenant=self._job.team_id,
            app=self._job.project_id,
            variables={name: _fingerprint(self._job.cache_key, name, value) for name, value in self._job.variables.items()},
            operator=[name for name in environment if name.upper() not in _FILES | _LOCAL],
            operator_files=[name for name in environment if name.upper() in _FILES],
            # A cache mount is another file system.
            environment={**fixed_environment(), "UV_LINK_MODE": "copy"},
            caches=CACHES,
        )

    async def _bases(self) -> Bases:
        """The base images by the digests that their registries give them now."""
        settings = self._site.settings
        base = base_of(self._plan, settings.base_images)
        if base is None:
            raise Refused(
                f"there is no base image for {self._plan.provider}: name one in SHIPOFF_BUILD_BASE_IMAGES "
                f"({self._plan.provider}=<image>), or add a Dockerfile to the source"
            )
        pinned: dict[str, str] = {}
        for reference in {base.build, base.runtime}:
            pinned[reference] = await self._pinned(mirrored(reference, settings.mirrors))
        return Bases(pinned[base.build], pinned[base.runtime])

    async def _pinned(self, reference: str) -> str:
        if "@" in reference:
            return by_digest(reference, reference.partition("@")[2])
        try:
            manifest = await self._buildx.inspect(reference, "Manifest")
        except BuildError as error:
            raise platform_error(
                f"the base image {reference} cannot be found ({error.reason}): set SHIPOFF_BUILD_BASE_IMAGES or "
                "SHIPOFF_BUILD_REGISTRY_MIRRORS to where this machine reaches it"
            ) from error
        return by_digest(reference, str(manifest["digest"]))

    async def _run(self, recipe: _Recipe, output: Mapping[str, str], *, attested: bool) -> None:
        """Runs buildx to its end, its progress into the log. Raises BuildError."""
        journal = self._site.journal
        progress = Progress(journal.masker, recipe.steps, recipe.shown)
        secrets = await asyncio.to_thread(self._write_secrets)
        request = Request(
            recipe.file,
            recipe.context,
            output,
            target=recipe.target,
            secrets=secrets,
            replaced=recipe.replaced,
            arguments=recipe.arguments,
            attested=attested,
            no_cache=self._job.no_cache,
        )
        code: list[int] = []
        async for raw in self._buildx.build(request, code):
            before = progress.step
            await self._tell(progress.feed(raw))
            if progress.step != before:
                self._site.on_step(progress.step)
        await self._tell(progress.end())
        if code != [0]:
            own_file = self._plan.dockerfile if recipe.shown is None else ""
            raise judged(progress, recipe.steps, own_file=own_file)

    async def _tell(self, lines: Iterable[Line]) -> None:
        for line in lines:
            if line.channel:
                await self._site.journal.output([line.text], channel=line.channel, size=len(line.text) + 1)
            else:
                await self._site.journal.write([line.text], channel="")

    def _write_secrets(self) -> dict[str, Path]:
        """Every secret in a file of its own: id → file. An operator's file that cannot be read is left out."""
        folder = self._folder / "secrets"
        folder.mkdir(mode=0o700, exist_ok=True)
        values: dict[str, bytes] = {name: value.encode() for name, value in self._job.variables.items()}
        for name, value in self._site.assignment.environment.items():
            if name.upper() in _FILES:
                with contextlib.suppress(OSError):
                    values[operator_id(name)] = Path(value).read_bytes()
            elif name.upper() not in _LOCAL:
                values[operator_id(name)] = value.encode()
        paths = {}
        for number, (name, data) in enumerate(sorted(values.items())):
            paths[name] = folder / str(number)
            with os.fdopen(os.open(paths[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(data)
        return paths

    async def _size(self, reference: str) -> int:
        """The bytes of every layer and configuration, attestations left out."""
        repository = reference.partition("@")[0]
        top = await self._buildx.manifest(reference)
        manifests = [top]
        if "manifests" in top:
            platforms = [one for one in top["manifests"] if _ATTESTATION not in (one.get("annotations") or {})]
            manifests = [await self._buildx.manifest(f"{repository}@{one['digest']}") for one in platforms]
        blobs = {blob["digest"]: int(blob["size"]) for one in manifests for blob in (*one["layers"], one["config"])}
        return sum(blobs.values())

    async def _look_at(self, reference: str) -> None:
        """Says where an image of the user's own runs as root."""
        if self._plan.provider != "docker":
            return
        image = await self._buildx.inspect(reference, "Image")
        configurations = [image] if "config" in image else list(image.values())
        users = {str((one.get("config") or {}).get("User") or "0").partition(":")[0] for one in configurations}
        if any(not user.isdigit() or int(user) == 0 for user in users):
            await self._site.journal.say(
                "  warning: the image may run as root: end its Dockerfile with a numeric user, USER 10001"
            )


def _fingerprint(key: bytes, name: str, value: str) -> str:
    """Changes with the value, and cannot be turned back or compared without the key (RFC 2104)."""
    return hmac.new(key, f"{name}\0{value}".encode(), hashlib.sha256).hexdigest()[:16]


def _write_recipe(file: Path, made: Generated) -> None:
    file.write_text(made.text)
    file.with_name(f"{file.name}.dockerignore").write_text(made.ignore)


def _read_source(root: Path, path: Path) -> str | None:
    """A text file of the source; None where there is none, or it is a link that leads out, or too large."""
    with contextlib.suppress(OSError):
        real = path.resolve(strict=True)
        status = real.stat()
        if real.is_relative_to(root.resolve()) and stat.S_ISREG(status.st_mode) and status.st_size <= _DOCKERFILE_BYTES:
            return real.read_text(errors="replace")
    return None


def _compress(source: Path, target: Any) -> None:
    with source.open("rb") as plain, gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=target, mtime=0) as packed:
        shutil.copyfileobj(plain, packed, 1 << 20)


def _json_file(path: Path) -> Any:
    return json.loads(path.read_text())
