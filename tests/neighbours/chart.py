"""The Helm chart, rendered by the real Helm: `make helm` brings it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "chart"
# The least that has to be said.
LEAST = {"baseDomain": "apps.example.com", "image": {"repository": "registry.example.com/shipoff"}}
RELEASE, NAMESPACE = "s", "platform"

Object = dict[str, Any]


@lru_cache(maxsize=1)
def helm() -> str:
    """The program. Skips where it is missing; in CI that is a failure."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from helm import place  # type: ignore[import-not-found]  # a script, beside the sources
    finally:
        sys.path.pop(0)
    found = str(place()) if place().exists() else shutil.which("helm")
    if found is None:
        reason = "Helm is missing: make helm"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return found


def _run(verb: list[str], values: Object) -> subprocess.CompletedProcess[str]:
    command = [helm(), *verb, "--namespace", NAMESPACE, "--values", "-"]
    return subprocess.run(command, input=json.dumps({**LEAST, **values}), capture_output=True, text=True, check=False)


@lru_cache(maxsize=64)
def _rendered(values: str, upgrade: bool) -> list[Object]:
    done = _run(["template", RELEASE, str(CHART), *(["--is-upgrade"] if upgrade else [])], json.loads(values))
    assert done.returncode == 0, done.stderr
    # The loader in C is ten times as fast.
    return [one for one in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader) if one]


def rendered(*, upgrade: bool = False, **values: Any) -> list[Object]:
    """The objects of a release with these values; the same ones for the same values, so nobody changes them."""
    return _rendered(json.dumps(values, sort_keys=True), upgrade)


def refused(**values: Any) -> str:
    """Why the chart is not rendered with these values. Fails when it is."""
    done = _run(["template", RELEASE, str(CHART)], values)
    assert done.returncode != 0, "the chart was rendered"
    return done.stderr


def linted(**values: Any) -> str:
    """What `helm lint --strict` says; fails when it finds anything."""
    done = _run(["lint", "--strict", str(CHART)], values)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def of_kind(objects: list[Object], kind: str) -> dict[str, Object]:
    """Those of a kind, by name."""
    return {one["metadata"]["name"]: one for one in objects if one["kind"] == kind}


def pods(objects: list[Object]) -> dict[str, Object]:
    """The pods' specifications, by the name of what makes them."""
    makers = ("Deployment", "StatefulSet", "Job")
    return {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in objects if one["kind"] in makers}
