"""What Argo CD says of a project, in words for whoever waits for a deployment."""

from __future__ import annotations

from typing import Any

import pytest

from shipoff.runtime.manifests.application import Application, drift, failure, waiting

COMMIT = "c" * 40
REFUSED = {"kind": "Deployment", "name": "web", "status": "SyncFailed", "message": "spec.replicas: must be positive"}


def app(**status: Any) -> Any:
    return Application(metadata={"name": "app-shop", "namespace": "argocd"}, status=status)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({}, ""),
        ({"operationState": {"phase": "Succeeded", "retryCount": 2, "message": "fine"}}, ""),
        ({"operationState": {"phase": "Running", "message": "waiting for healthy state"}}, ""),
        (
            {"conditions": [{"type": "ComparisonError", "message": "authentication\nrequired"}]},
            "Argo CD says ComparisonError: authentication required",
        ),
        ({"conditions": [{"type": "OrphanedResourceWarning", "message": "x"}]}, ""),
        (
            {"operationState": {"phase": "Failed", "message": "one failed", "syncResult": {"resources": [REFUSED]}}},
            "Argo CD cannot sync: one failed; Deployment web: spec.replicas: must be positive",
        ),
        (
            {"operationState": {"phase": "Running", "retryCount": 1, "message": "Retrying attempt #1"}},
            "Argo CD cannot sync: Retrying attempt #1",
        ),
        (
            {"resources": [{"kind": "SealedSecret", "name": "s", "health": {"status": "Degraded", "message": "no key"}}]},
            "a secret cannot be opened on the cluster: SealedSecret s: no key",
        ),
        ({"resources": [{"kind": "Ingress", "name": "s", "health": {"status": "Degraded", "message": "no"}}]}, ""),
    ],
)
def test_why_it_fails_is_said_in_its_own_words(status: dict[str, Any], words: str) -> None:
    assert failure(app(**status)) == words


def test_a_long_story_is_cut() -> None:
    assert len(failure(app(conditions=[{"type": "SyncError", "message": "x" * 5000}]))) == 600


def test_what_is_waited_for_is_named() -> None:
    assert waiting(None, COMMIT) == "Argo CD's Application is not there yet"
    assert "does it run?" in waiting(app(), COMMIT)
    assert "not synced commit cccccccccc yet: it is at dddd" in waiting(app(sync={"revision": "dddd"}), COMMIT)
    assert "not applied everything of commit cccccccccc" in waiting(app(sync={"revision": COMMIT}), COMMIT)


def test_drift_names_what_is_another_than_the_repository_says_and_nobody_else_s() -> None:
    resources = [
        {"kind": "Service", "name": "production", "status": "OutOfSync"},
        {"kind": "Service", "name": "staging", "status": "OutOfSync"},
        {"kind": "Ingress", "name": "production", "status": "Synced"},
    ]
    own = [("Service", "production"), ("Ingress", "production")]
    out = {"sync": {"status": "OutOfSync"}, "resources": resources}
    assert drift(app(**out), own) == "out of sync with the repository: Service production"
    assert not drift(app(**out, operationState={"phase": "Running"}), own)
    assert not drift(app(sync={"status": "Synced"}, resources=resources), own)
    assert not drift(None, own)
