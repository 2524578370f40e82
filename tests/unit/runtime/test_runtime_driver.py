"""The pure parts of the process driver and of the contract's edge."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from shipoff.common.errors import InvalidInput
from shipoff.contracts.runtime.v1 import runtime_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.runtime.adapters.proctable import Entry, tree
from shipoff.runtime.adapters.sessions import exit_words
from shipoff.runtime.adapters.spawning import command_in
from shipoff.runtime.domain import filled
from shipoff.runtime.server import Defaults, workload_of

DEFAULTS = Defaults(memory_bytes=512 << 20, ready_timeout_s=60)


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("--bind=$HOST:$PORT", "--bind=127.0.0.1:8000"),
        ("${HOST}", "127.0.0.1"),
        ("${PORT}", "8000"),
        ("$PORTAL ${PORTS} $$PORT", "$PORTAL ${PORTS} $8000"),
        ("$(id) `id` $HOME ${HOME} *", "$(id) `id` $HOME ${HOME} *"),
    ],
)
def test_only_the_address_is_filled_in(given, made):
    assert filled(given, host="127.0.0.1", port=8000) == made


@pytest.mark.parametrize(
    ("given", "made"),
    [(".venv/bin/python", "/app/.venv/bin/python"), ("node", "node"), ("/usr/bin/env", "/usr/bin/env"), ("./run", "/app/run")],
)
def test_a_relative_program_is_one_of_the_apps(given, made):
    assert command_in([given], Path("/app")) == [made]


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "exit code 0"), (1, "exit code 1"), (-9, "killed by signal 9 (SIGKILL)"), (-64, "killed by signal 64 (SIGRTMAX)")],
)
def test_exits_in_words(code, words):
    assert exit_words(code) == words


def test_a_tree_is_the_session_and_every_descendant_but_not_another_with_its_number():
    table = {
        entry.pid: entry
        for entry in [
            Entry(10, parent=1, session=10, started="5", rss_bytes=0),
            Entry(11, parent=1, session=10, started="6", rss_bytes=0),
            Entry(12, parent=11, session=12, started="7", rss_bytes=0),
            Entry(20, parent=1, session=20, started="8", rss_bytes=0),
        ]
    }
    assert tree(10, "5", table) == {10, 11, 12}
    assert tree(10, "4", table) == frozenset()
    del table[10]
    assert tree(10, "5", table) == {11, 12}


def message(**fields: object) -> runtime_pb2.Workload:
    web = types_pb2.PlanProcess(name="web", command=types_pb2.Command(argv=["serve"]))
    made = runtime_pb2.Workload(
        deployment_id=str(uuid.uuid4()),
        artifact=types_pb2.Artifact(kind=types_pb2.ARTIFACT_KIND_APP),
        processes=fields.pop("processes", [web]),  # type: ignore[arg-type]  # a test's own fields
    )
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def test_what_is_not_said_is_the_platforms_default():
    made = workload_of(message(), defaults=DEFAULTS, now=100.0)
    assert (made.replicas, made.memory_bytes, made.ready_timeout_s, made.ready_deadline, made.app_root) == (
        1,
        512 << 20,
        60.0,
        160.0,
        ".",
    )


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"app_root": "../x"}, "workload.app_root"),
        ({"app_root": "/etc"}, "workload.app_root"),
        ({"processes": [types_pb2.PlanProcess(name="../x", command=types_pb2.Command(argv=["a"]))]}, "workload.processes.name"),
        ({"processes": [types_pb2.PlanProcess(name="web")]}, "workload.processes.command"),
        (
            {"processes": [types_pb2.PlanProcess(name="web", command=types_pb2.Command(argv=["a\0b"]))]},
            "workload.processes.command",
        ),
        (
            {"processes": [types_pb2.PlanProcess(name="web", command=types_pb2.Command(argv=["a"]))] * 2},
            "workload.processes.name",
        ),
    ],
)
def test_what_cannot_be_run_names_its_field(bad, field):
    with pytest.raises(InvalidInput) as caught:
        workload_of(message(**bad), defaults=DEFAULTS, now=0.0)
    assert caught.value.field == field


def test_only_folders_run_as_processes():
    made = message()
    made.artifact.kind = types_pb2.ARTIFACT_KIND_IMAGE
    with pytest.raises(InvalidInput):
        workload_of(made, defaults=DEFAULTS, now=0.0)
