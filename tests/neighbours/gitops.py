"""A GitOps repository for tests of the cluster's drivers: a bare one, and what is in it, read with git itself."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from neighbours.kube_runtime import CLUSTER
from neighbours.sealed import certificate

from shipoff.runtime.adapters.gitops.journal import Journal
from shipoff.runtime.adapters.gitops.origins import Folder, Origin
from shipoff.runtime.adapters.gitops.repository import Author, Repository
from shipoff.runtime.adapters.gitops.sealing import Seal
from shipoff.runtime.adapters.kubernetes.argocd import ArgoDriver
from shipoff.runtime.adapters.kubernetes.recorded import RecordingDriver
from shipoff.runtime.manifests import Names
from shipoff.runtime.manifests.application import Argo
from shipoff.runtime.manifests.folder import Files

AUTHOR = Author("Shipoff", "shipoff@example.com")


def seal(number: int = 0) -> Seal:
    """That of a cluster."""
    return Seal(certificate(number), now=datetime.now(UTC))


@dataclass
class Desired:
    """A repository in a folder, as a person looks at it."""

    path: Path

    def git(self, *arguments: str) -> str:
        """What git prints."""
        done = subprocess.run(["git", *arguments], cwd=self.path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    @property
    def exists(self) -> bool:
        """Whether anything was ever committed."""
        return (self.path / "refs/heads/main").exists()

    def subjects(self) -> list[str]:
        """The first lines of the commits' messages, the oldest first."""
        return self.git("log", "--reverse", "--format=%s", "main").splitlines() if self.exists else []

    def files(self, names: Names) -> dict[str, Any]:
        """The manifests of a project, by path."""
        folder = f"apps/{names.namespace}"
        if not self.exists:
            return {}
        paths = self.git("ls-tree", "-r", "--name-only", "main", "--", folder).splitlines()
        return {path.removeprefix(f"{folder}/"): yaml.safe_load(self.git("show", f"main:{path}")) for path in paths}

    def selected(self, names: Names) -> str:
        """The release that the environment's Service leads to."""
        service = self.files(names).get(f"{names.environment}/service-{names.environment}.yaml")
        return service["spec"]["selector"]["shipoff.dev/release"] if service else ""

    def releases(self, names: Names) -> set[str]:
        """The deployments that the Deployments in the environment's folder are for."""
        found = [one for path, one in self.files(names).items() if path.startswith(f"{names.environment}/deployment-")]
        return {one["metadata"]["labels"]["shipoff.dev/deployment"] for one in found}


def journal(origin: Origin, number: int = 0) -> Journal:
    """One process's view of the repository."""
    return Journal(Repository(origin, AUTHOR), seal(number), "apps")


def recording(origin: Origin, *args: Any, **options: Any) -> RecordingDriver:
    """The driver of mode `direct`, with a repository."""
    return RecordingDriver(*args, journal=journal(origin), **options)


def argo_driver(argo: Argo, origin: Origin, *args: Any, **options: Any) -> ArgoDriver:
    """The driver of mode `argocd`."""
    return ArgoDriver(*args, journal=journal(origin), argo=argo, platform=CLUSTER.platform, **options)


def argo_on(path: Path, namespace: str) -> Any:
    """The same, on a bare repository that Argo CD reads as well."""
    argo = Argo(namespace, "default", "https://kubernetes.default.svc", str(path), "main", "apps")
    return partial(argo_driver, argo, Folder(path, "main"))


def adding(path: str, content: bytes = b"x\n") -> Callable[[Files], Files]:
    """A change that adds one file."""
    return lambda files: {**files, path: content}


def write_many(path: Path, who: str, count: int) -> None:
    """What one process of several does."""
    repository = Repository(Folder(path, "main"), AUTHOR)
    for number in range(count):
        repository.commit("apps/shared", adding(f"{who}/{number}.yaml"), f"{who} {number}")
