"""Argo CD's Application of a project: what it is to be, and what it says. Pure.

https://argo-cd.readthedocs.io/en/stable/operator-manual/application.yaml. Everything that changes is a commit, so nothing but
the repository decides: what is not in it goes (prune), what differs from it is put back (selfHeal), but an empty folder,
which only an accident could leave, removes nothing (allowEmpty).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lightkube.generic_resource import create_namespaced_resource

from shipoff.runtime.domain import Workload
from shipoff.runtime.manifests.marks import APPLIED, project_labels
from shipoff.runtime.manifests.names import Names

Application: Any = create_namespaced_resource("argoproj.io", "v1alpha1", "Application", "applications")

# With it Argo CD removes what an Application brought before it lets the Application go.
_FINALIZER = "resources-finalizer.argocd.argoproj.io"
# Asks Argo CD to look at once; it takes the annotation away when it has.
REFRESH = {"argocd.argoproj.io/refresh": "normal"}
_FAILED = ("Failed", "Error")
_LONGEST = 600


@dataclass(frozen=True)
class Argo:
    """Where Argo CD is, and what it reads."""

    namespace: str
    project: str
    destination: str
    repository: str
    branch: str
    folder: str


def application(workload: Workload, names: Names, platform: str, argo: Argo) -> Any:
    """The project's Application, called as its namespace."""
    spec = {
        "project": argo.project,
        "source": {
            "repoURL": argo.repository,
            "targetRevision": argo.branch,
            "path": f"{argo.folder}/{names.namespace}",
            "directory": {"recurse": True},
        },
        "destination": {"server": argo.destination, "namespace": names.namespace},
        "syncPolicy": {
            "automated": {"prune": True, "selfHeal": True, "allowEmpty": False},
            "syncOptions": ["ServerSideApply=true", "PruneLast=true", "ApplyOutOfSyncOnly=true"],
            # A commit that cannot be synced does not hold up the one that takes it back.
            "retry": {"limit": -1, "refresh": True, "backoff": {"duration": "2s", "factor": 2, "maxDuration": "1m"}},
        },
    }
    labels = project_labels(workload, platform)
    text = json.dumps([spec, labels], sort_keys=True, separators=(",", ":"))
    metadata = {
        "name": names.namespace,
        "namespace": argo.namespace,
        "labels": labels,
        "annotations": {APPLIED: hashlib.sha256(text.encode()).hexdigest()[:16]},
        "finalizers": [_FINALIZER],
    }
    return Application(apiVersion="argoproj.io/v1alpha1", kind="Application", metadata=metadata, spec=spec)


def failure(found: Any) -> str:
    """Why Argo CD cannot do what the repository says, in its words; empty: nothing is known to be wrong."""
    status = _status(found)
    for one in status.get("conditions") or ():
        if str(one.get("type", "")).endswith("Error"):
            return _short(f"Argo CD says {one['type']}: {one.get('message', '')}")
    operation = status.get("operationState") or {}
    if operation.get("phase") in _FAILED or (operation.get("phase") == "Running" and operation.get("retryCount")):
        return _short(f"Argo CD cannot sync: {'; '.join([operation.get('message', ''), *_refused(operation)]).strip('; ')}")
    sick = [
        f"{one.get('kind')} {one.get('name')}: {one['health'].get('message', '')}"
        for one in status.get("resources") or ()
        if one.get("kind") == "SealedSecret" and (one.get("health") or {}).get("status") == "Degraded"
    ]
    return _short(f"a secret cannot be opened on the cluster: {'; '.join(sick)}") if sick else ""


def _refused(operation: dict[str, Any]) -> Iterable[str]:
    results = (operation.get("syncResult") or {}).get("resources") or ()
    return [f"{one['kind']} {one['name']}: {one.get('message', '')}" for one in results if one.get("status") == "SyncFailed"]


def waiting(found: Any, commit: str) -> str:
    """What is to be waited for until a commit's objects are on the cluster."""
    if found is None:
        return "Argo CD's Application is not there yet"
    status = _status(found)
    if not status:
        return "Argo CD has not looked at its Application yet: does it run?"
    revision = (status.get("sync") or {}).get("revision", "")
    if revision != commit:
        return f"Argo CD has not synced commit {commit[:10]} yet: it is at {revision[:10] or 'none'}"
    return f"Argo CD has not applied everything of commit {commit[:10]} yet"


def drift(found: Any, wanted: Iterable[tuple[str, str]]) -> str:
    """Which of the wanted objects (kind, name) Argo CD finds to be another than the repository says; empty: none."""
    status, names = _status(found), set(wanted)
    if (status.get("operationState") or {}).get("phase") == "Running" or (status.get("sync") or {}).get(
        "status"
    ) != "OutOfSync":
        return ""
    astray = sorted(
        f"{one.get('kind')} {one.get('name')}"
        for one in status.get("resources") or ()
        if one.get("status") == "OutOfSync" and (one.get("kind"), one.get("name")) in names
    )
    return _short(f"out of sync with the repository: {', '.join(astray)}") if astray else ""


def _status(found: Any) -> dict[str, Any]:
    return dict(found.status or {}) if found is not None else {}


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
