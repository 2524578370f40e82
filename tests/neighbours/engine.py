"""A Docker Engine and a registry of the tests' own: private folders and sockets, stopped afterwards; and base images in it.

`scripts/engine.sh` brings the programs. The engine is BuildKit's home too. What takes long (base images, packages that builds
download) stays in the tools' folder from run to run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from neighbours.ports import free_port

# Empty is as good as none, as in the script.
TOOLS = Path(os.environ.get("SHIPOFF_TEST_TOOLS") or "/var/cache") / "shipoff-tests"
_ENGINE = TOOLS / "engine" / "usr"
BUILDX = _ENGINE / "libexec" / "docker" / "cli-plugins" / "docker-buildx"
# The bridge leads nowhere, so that nothing of this machine's packet filter is changed.
HOST_NETWORK = ("--network", "host", "--allow", "network.host")
_PREFIX = "shipoff-engine-"
_ROOM_BYTES = 8 << 30
_START_S = 60
_ASK_S = 120
_TOOLS_IMAGE = """\
FROM {base}
COPY uv /usr/local/bin/uv
ADD npm.tgz /usr/local/lib/
RUN ["ln", "-s", "/usr/local/lib/package/bin/npm-cli.js", "/usr/local/bin/npm"]
RUN ["ln", "-s", "/usr/local/lib/package/bin/npx-cli.js", "/usr/local/bin/npx"]
"""
# Stands for the scanner that lists packages: the protocol of docs.docker.com/build/metadata/attestations/sbom.
_SCANNER = """\
import json, os, pathlib
document = {"spdxVersion": "SPDX-2.3", "name": "image", "packages": [{"name": "scanned"}]}
statement = {"_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://spdx.dev/Document", "predicate": document}
pathlib.Path(os.environ["BUILDKIT_SCAN_DESTINATION"], "sbom.spdx.json").write_text(json.dumps(statement))
"""


def missing() -> str:
    """Why there can be no engine here; empty where there can."""
    if os.geteuid() != 0:
        return "a Docker Engine of the tests' own needs root"
    if not BUILDX.exists() or not list(TOOLS.glob("npm-*.tgz")) or not shutil.which("docker-registry"):
        return "the engine's programs are not there: run scripts/engine.sh"
    return ""


@dataclass
class Engine:
    """The running engine and registry."""

    folder: Path
    registry: str

    @property
    def host(self) -> str:
        """DOCKER_HOST."""
        return f"unix://{self.folder}/docker.sock"

    def run(self, *words: str, timeout_s: float = _ASK_S) -> str:
        """What a docker command answers; fails with what it said."""
        environment = _environment(self.folder) | {"DOCKER_HOST": self.host}
        done = subprocess.run(
            [_ENGINE / "bin" / "docker", *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"docker {words}: {done.stderr}"
        return done.stdout.strip()

    def buildx(self, *words: str) -> str:
        """What docker-buildx answers."""
        environment = _environment(self.folder) | {"DOCKER_HOST": self.host}
        done = subprocess.run([BUILDX, *words], env=environment, capture_output=True, text=True, timeout=_ASK_S, check=False)
        assert done.returncode == 0, f"buildx {words}: {done.stderr}"
        return done.stdout.strip()

    def manifest(self, reference: str) -> dict[str, Any]:
        """What the registry has under a reference by digest: an index or a manifest."""
        return dict(json.loads(self.blob(reference, "manifests")))

    def blob(self, reference: str, kind: str = "blobs") -> bytes:
        """A blob or manifest of the registry; `reference` is "<registry>/<repository>@<digest>"."""
        name, _, digest = reference.partition("@")
        host, _, repository = name.partition("/")
        accepted = ", ".join(
            f"application/vnd.{form}+json"
            for form in (
                "oci.image.index.v1",
                "oci.image.manifest.v1",
                "docker.distribution.manifest.v2",
                "docker.distribution.manifest.list.v2",
            )
        )
        request = urllib.request.Request(f"http://{host}/v2/{repository}/{kind}/{digest}", headers={"Accept": accepted})
        with urllib.request.urlopen(request, timeout=_ASK_S) as answer:  # noqa: S310 - http, as it says
            return bytes(answer.read())

    def image(self, reference: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The manifest and configuration of the image for this machine, past an index where there is one."""
        repository = reference.partition("@")[0]
        top = self.manifest(reference)
        if "manifests" in top:
            digest = next(one["digest"] for one in top["manifests"] if one["platform"]["os"] == "linux")
            top = self.manifest(f"{repository}@{digest}")
        return top, json.loads(self.blob(f"{repository}@{top['config']['digest']}"))

    def base(self, name: str) -> str:
        """A base image's reference."""
        return f"{self.registry}/{name}:1"


def engine_folder() -> Path:
    """A new folder, in memory where there is plenty: layers are many small files."""
    parent = Path("/dev/shm")
    roomy = parent.is_dir() and min(shutil.disk_usage(parent).free, psutil.virtual_memory().available) > _ROOM_BYTES
    parent = parent if roomy else Path("/tmp")
    for left in parent.glob(f"{_PREFIX}*"):
        # Of a run that was killed.
        if not psutil.pid_exists(int(left.name.removeprefix(_PREFIX).partition("-")[0])):
            _remove(left)
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))


@contextmanager
def engine_running(folder: Path) -> Iterator[Engine]:
    """Starts both, with the base images in the registry; nothing of them runs afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    engine = Engine(folder, f"127.0.0.1:{free_port()}")
    configuration = {"features": {"containerd-snapshotter": True}, "builder": {"gc": {"enabled": False}}}
    (folder / "daemon.json").write_text(json.dumps(configuration))
    (folder / "registry.yml").write_text(_registry_settings(engine, folder))
    kept = TOOLS / f"registry-{_recipe()}"
    if kept.exists():
        shutil.copytree(kept, folder / "registry", copy_function=_linked)
    dockerd = [
        *(str(_ENGINE / "sbin" / "dockerd"), "--config-file", str(folder / "daemon.json")),
        *("--data-root", str(folder / "data"), "--exec-root", str(folder / "exec"), "--pidfile", str(folder / "pid")),
        *("--host", engine.host, "--iptables=false", "--ip6tables=false"),
    ]
    with (
        _cleared(folder),
        _process(["docker-registry", "serve", str(folder / "registry.yml")], folder),
        _process(dockerd, folder),
    ):
        _until(lambda: _listens(engine.registry), folder)
        _until(lambda: bool(engine.run("info", "--format", "{{.ServerVersion}}")), folder)
        if not kept.exists():
            _base_images(engine, folder)
            _keep(folder / "registry", kept)
        yield engine


@contextmanager
def _cleared(folder: Path) -> Iterator[None]:
    """Nothing is left of the folder: an engine keeps file systems mounted there."""
    try:
        yield
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((one for one in mounts if one.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)


def _registry_settings(engine: Engine, folder: Path) -> str:
    return json.dumps(
        {
            "version": 0.1,
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": str(folder / "registry")}, "delete": {"enabled": True}},
            "http": {"addr": engine.registry},
        }
    )


def _recipe() -> str:
    """Names what the base images are made of."""
    digest = hashlib.sha256(f"{_TOOLS_IMAGE}{_SCANNER}".encode())
    for file in (TOOLS / "base.tar", Path(sys.executable).with_name("uv"), next(TOOLS.glob("npm-*.tgz"))):
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} {int(status.st_mtime)}".encode())
    return digest.hexdigest()[:16]


def _keep(registry: Path, kept: Path) -> None:
    """Keeps the registry's files for the next run; what was kept of older recipes goes."""
    for stale in TOOLS.glob("registry-*"):
        shutil.rmtree(stale, ignore_errors=True)
    incoming = Path(tempfile.mkdtemp(dir=TOOLS)) / "registry"
    shutil.copytree(registry, incoming)
    # Another run may have been faster.
    with contextlib.suppress(OSError):
        incoming.rename(kept)
    shutil.rmtree(incoming.parent, ignore_errors=True)


def _linked(source: str, target: str) -> None:
    """Nothing that a registry has written changes: a link will do where there can be one."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _base_images(engine: Engine, folder: Path) -> None:
    """Makes what builds stand on: `run` (Debian with Python, Node.js and tini), `tools` (uv and npm besides), `scanner`."""
    engine.run("import", str(TOOLS / "base.tar"), engine.base("run"))
    engine.run("push", "--quiet", engine.base("run"))
    context = folder / "tools"
    context.mkdir(exist_ok=True)
    shutil.copy(Path(sys.executable).with_name("uv"), context / "uv")
    shutil.copy(next(TOOLS.glob("npm-*.tgz")), context / "npm.tgz")
    (context / "Dockerfile").write_text(_TOOLS_IMAGE.format(base=engine.base("run")))
    engine.buildx(
        "build", *HOST_NETWORK, "--quiet", "--output", f"type=image,name={engine.base('tools')},push=true", str(context)
    )
    scanner = folder / "scanner"
    scanner.mkdir(exist_ok=True)
    (scanner / "scan.py").write_text(_SCANNER)
    (scanner / "Dockerfile").write_text(
        f'FROM {engine.base("run")}\nCOPY scan.py /scan.py\nENTRYPOINT ["python3", "/scan.py"]\n'
    )
    engine.buildx(
        "build", *HOST_NETWORK, "--quiet", "--output", f"type=image,name={engine.base('scanner')},push=true", str(scanner)
    )


def _environment(folder: Path) -> dict[str, str]:
    path = os.pathsep.join([str(_ENGINE / "bin"), str(_ENGINE / "sbin"), os.environ["PATH"], "/usr/sbin", "/sbin"])
    return {"PATH": path, "HOME": str(folder), "DOCKER_CONFIG": str(folder / "docker")}


@contextmanager
def _process(argv: list[str], folder: Path) -> Iterator[None]:
    with (folder / "log").open("ab") as log:
        # They end with this process, however that ends.
        leash = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
        process = subprocess.Popen([*leash, *argv], env=_environment(folder), stdout=log, stderr=log, start_new_session=True)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _until(ready: Any, folder: Path) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            if ready():
                return
        except (AssertionError, OSError):
            pass
        assert time.monotonic() < deadline, (folder / "log").read_text(errors="replace")[-3000:]
        time.sleep(0.05)


def _listens(address: str) -> bool:
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), timeout=1):
        return True
