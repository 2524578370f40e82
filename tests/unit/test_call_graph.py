"""Who may call whom: what the code asks addresses for, held against the manifest."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "shipoff"
SERVICES = ("gateway", "identity", "project", "orchestrator", "build", "detector", "runtime", "log", "cdn", "worker")
MANIFEST = {
    "gateway": {"identity", "project", "orchestrator", "runtime", "log", "cdn", "detector", "worker"},
    "orchestrator": {"build", "runtime", "cdn", "log"},
    "build": {"detector", "log"},
}


def stubs_used(service: str) -> Iterator[str]:
    """The services whose client stubs a service's code names."""
    for path in (SOURCE / service).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr.endswith("Stub") and isinstance(node.value, ast.Name):
                yield node.value.id.removesuffix("_pb2_grpc")


def test_services_call_only_whom_the_manifest_names():
    for service in SERVICES:
        called = {"orchestrator" if name == "pb_grpc" else name for name in stubs_used(service)} - {service}
        assert called <= MANIFEST.get(service, set()), service


def test_the_check_sees_the_calls_that_there_are():
    assert set(stubs_used("orchestrator")) >= {"build", "runtime", "cdn", "log"}
    assert set(stubs_used("build")) == {"detector"}


def test_nobody_calls_in_a_circle():
    TopologicalSorter(MANIFEST).prepare()
