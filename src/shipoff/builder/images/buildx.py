"""Runs docker-buildx: argument lists only, with an environment and a configuration of the build's own.

It runs under the builder's account, not the tenant's: whoever reaches the engine's socket is root of its machine. What a tenant
wrote reaches it as files of the source and as data in the generated Dockerfile.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

from shipoff.builder.assignment import BuildError, Kind
from shipoff.builder.enclosure import Program
from shipoff.builder.images.bases import mirrored
from shipoff.builder.images.settings import ImageSettings
from shipoff.builder.programs import Programs
from shipoff.builder.steps import EPOCH

_BUILDER = "shipoff"
_CHUNK_BYTES = 64 << 10
_LINE_BYTES = 32 << 20
_SAID = 600


@dataclass(frozen=True)
class Request:
    """One build."""

    dockerfile: Path
    context: Path
    # As `--output` takes it.
    output: Mapping[str, str]
    target: str = ""
    # Secret's name → its file.
    secrets: Mapping[str, Path] = field(default_factory=dict)
    # An image as the Dockerfile writes it → the one that is used instead.
    replaced: Mapping[str, str] = field(default_factory=dict)
    arguments: Mapping[str, str] = field(default_factory=dict)
    attested: bool = True
    # Without the layers of earlier builds.
    no_cache: bool = False


class Buildx:
    """The program, as this build may use it. `folder` is the builder's own."""

    def __init__(self, settings: ImageSettings, folder: Path, environment: Mapping[str, str], programs: Programs) -> None:
        self._settings = settings
        self._programs = programs
        self._folder = folder
        self.metadata = folder / "metadata.json"
        self._environment = {**environment, **self._own()}

    def _own(self) -> dict[str, str]:
        settings = self._settings
        builders = settings.builders_folder if settings.builder else str(self._folder / "builders")
        engine = {"DOCKER_HOST": settings.docker_host} if settings.docker_host else {}
        return {
            "PATH": os.environ.get("PATH", "/usr/local/bin:/usr/bin:/bin"),
            "HOME": str(self._folder),
            "DOCKER_CONFIG": str(self._folder / "docker"),
            "BUILDX_CONFIG": builders,
            "BUILDX_NO_DEFAULT_ATTESTATIONS": "1",
            **engine,
        }

    async def prepare(self) -> None:
        """Takes the operator's logins over, and makes a remote BuildKit known. Raises BuildError."""
        settings = self._settings
        if not settings.buildx:
            raise platform_error("this machine has no docker-buildx: install it, or set SHIPOFF_BUILD_BUILDX to its place")
        configuration = self._folder / "docker"
        configuration.mkdir(mode=0o700, exist_ok=True)
        if settings.logins:
            try:
                await asyncio.to_thread(shutil.copyfile, settings.logins, configuration / "config.json")
            except OSError as error:
                raise platform_error(f"the logins in {settings.logins} cannot be read: {error.strerror}") from error
        if settings.address and not settings.builder:
            options = _driver_options(settings)
            await self.ask("create", "--name", _BUILDER, "--driver", "remote", *options, "--", settings.address)

    async def ask(self, *words: str) -> str:
        """What a command answers. Raises BuildError with its last words."""
        async with self._started(words, stdout=PIPE) as process:
            written, said = await process.communicate()
        if process.returncode != 0:
            raise platform_error(_last_words(said.decode(errors="replace")))
        return written.decode(errors="replace").strip()

    async def inspect(self, reference: str, part: str) -> Any:
        """A part (Manifest, Image) of what a registry says of an image. Raises BuildError."""
        return json.loads(await self.ask("imagetools", "inspect", "--format", f"{{{{json .{part}}}}}", "--", reference))

    async def manifest(self, reference: str) -> Any:
        """The manifest or index itself. Raises BuildError."""
        return json.loads(await self.ask("imagetools", "inspect", "--raw", "--", reference))

    async def build(self, request: Request, code: list[int]) -> AsyncIterator[bytes]:
        """The lines of a build's progress; its exit code is appended at the end."""
        async with self._started(self._arguments(request)) as process:
            assert process.stderr is not None
            rest = b""
            while chunk := await process.stderr.read(_CHUNK_BYTES):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line
                rest = rest[-_LINE_BYTES:]
            if rest:
                yield rest
            code.append(await process.wait())

    def _arguments(self, request: Request) -> list[str]:
        settings = self._settings
        words = ["build", "--progress=rawjson", "--file", str(request.dockerfile), "--metadata-file", str(self.metadata)]
        words += ["--output", _csv(request.output), "--build-arg", f"SOURCE_DATE_EPOCH={EPOCH}"]
        if request.no_cache:
            words.append("--no-cache")
        if request.target:
            words += ["--target", request.target]
        if settings.network != "default":
            words += ["--network", settings.network]
        if settings.network == "host":
            words += ["--allow", "network.host"]
        if settings.platforms:
            words += ["--platform", ",".join(settings.platforms)]
        if request.attested and settings.provenance != "off":
            words += ["--attest", f"type=provenance,mode={settings.provenance}"]
        if request.attested and settings.sbom_generator:
            words += ["--attest", f"type=sbom,generator={mirrored(settings.sbom_generator, settings.mirrors)}"]
        for name, value in request.arguments.items():
            words += ["--build-arg", f"{name}={value}"]
        for image, instead in request.replaced.items():
            words += ["--build-context", f"{image}=docker-image://{instead}"]
        for name, path in request.secrets.items():
            words += ["--secret", _csv({"id": name, "src": str(path)})]
        return [*words, "--", str(request.context)]

    @asynccontextmanager
    async def _started(self, words: Sequence[str], *, stdout: int = DEVNULL) -> AsyncIterator[asyncio.subprocess.Process]:
        builder = self._settings.builder or (_BUILDER if self._settings.address else "")
        chosen = ["--builder", builder] if builder and words[0] != "create" else []
        program = Program([*_leash(), self._settings.buildx, *chosen, *words], self._folder, self._environment)
        try:
            async with self._programs.own(program, stdout=stdout, stderr=PIPE) as process:
                yield process
        except OSError as error:
            raise platform_error(f"{self._settings.buildx} cannot be run: {error.strerror}") from error


def _leash() -> list[str]:
    """It ends with this process however that ends (setpriv(1)), and BuildKit cancels a build that nobody waits for."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def platform_error(reason: str) -> BuildError:
    """Nothing the user did: the builder, the registry or their settings."""
    return BuildError(Kind.BUILD_FAILURE_PLATFORM, reason, step="image")


def _driver_options(settings: ImageSettings) -> list[str]:
    if not settings.tls_folder:
        return []
    files = {"cacert": "ca.pem", "cert": "cert.pem", "key": "key.pem"}
    return ["--driver-opt", _csv({name: f"{settings.tls_folder}/{file}" for name, file in files.items()})]


def _csv(fields: Mapping[str, str]) -> str:
    """key=value pairs as buildx reads them: RFC 4180, one record."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(f"{name}={value}" for name, value in fields.items())
    return line.getvalue()


def _last_words(text: str) -> str:
    lines = [line.strip().removeprefix("ERROR: ") for line in text.splitlines() if line.strip()]
    return (lines[-1] if lines else "it said nothing")[-_SAID:]
