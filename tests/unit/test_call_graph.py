"""Who may call whom: what the code asks addresses for, and what the documentation says, held against the one table."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from shipoff.common.callgraph import CALLS, SERVICES, callers_of

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "shipoff"


def stubs_used(service: str) -> Iterator[str]:
    """The services whose client stubs a service's code names."""
    for path in (SOURCE / service).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr.endswith("Stub") and isinstance(node.value, ast.Name):
                yield node.value.id.removesuffix("_pb2_grpc")


def test_services_call_only_whom_the_table_names():
    for service in SERVICES:
        called = {"orchestrator" if name == "pb_grpc" else name for name in stubs_used(service)} - {service}
        assert called <= CALLS.get(service, frozenset()), service


def test_the_check_sees_the_calls_that_there_are():
    assert set(stubs_used("orchestrator")) >= {"build", "runtime", "cdn", "log"}
    assert set(stubs_used("build")) == {"detector"}


def test_nobody_calls_in_a_circle():
    TopologicalSorter(CALLS).prepare()


def test_callers_are_the_table_read_the_other_way():
    assert callers_of("log") == {"gateway", "orchestrator"}
    assert callers_of("gateway") == frozenset()
    assert {(caller, called) for called in SERVICES for caller in callers_of(called)} == {
        (caller, called) for caller, several in CALLS.items() for called in several
    }


def test_the_architecture_says_the_same():
    text = " ".join((ROOT / "ARCHITECTURE.md").read_text().split())
    sentence = re.search(r"The call graph is acyclic: (.*?)\. Facts", text)
    assert sentence is not None
    said = {}
    for part in sentence[1].split("; "):
        caller, _, called = part.partition(" → ")
        said[caller] = frozenset(called.strip("{}").split(", "))
    assert said == CALLS
