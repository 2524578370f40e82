"""What pods say, and which instance each of them is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from lightkube.resources.core_v1 import Pod

from shipoff.runtime.adapters.kubernetes.pods import PodRun, assign, read
from shipoff.runtime.domain import Instance, InstanceKey, InstanceState

STARTING, READY, STOPPING = InstanceState.STARTING, InstanceState.READY, InstanceState.STOPPING


def run(uid: str, **changes: Any) -> PodRun:
    return replace(PodRun(uid, f"pod-{uid}", "web", f"2026-{uid}", False, 0, True, True), **changes)


def instance(index: int, state: InstanceState, mark: str = "") -> Instance:
    return Instance(InstanceKey("d", "web", index, index + 1), state, process_started=mark)


def given(instances: list[Instance], runs: list[PodRun], wanted: int) -> dict[int, str]:
    slots = frozenset(("web", index) for index in range(wanted))
    return {key.index: pod.uid for key, pod in assign(instances, runs, slots).items()}


def test_an_instance_keeps_its_pod_and_a_new_one_takes_a_free_one() -> None:
    assert given([instance(0, READY, "b/0"), instance(1, STARTING)], [run("a"), run("b")], 2) == {0: "b", 1: "a"}


def test_the_pod_that_went_was_the_one_that_nobody_wants() -> None:
    # Kubernetes removed pod a, but instance 1 is the surplus one: what is left is instance 0's when it starts anew.
    left = [run("b")]
    assert given([instance(0, STARTING), instance(1, STOPPING, "b/0")], left, 1) == {0: "b"}


def test_a_pod_on_its_way_out_is_nobody_s_but_who_stops_with_it() -> None:
    leaving = [run("a", leaving=True)]
    assert given([instance(0, READY, "a/0")], leaving, 1) == {}
    assert given([instance(0, STOPPING, "a/0")], leaving, 1) == {0: "a"}
    assert given([instance(0, STARTING)], leaving, 1) == {}


def test_an_evicted_pod_is_given_to_nobody_new() -> None:
    assert given([instance(0, STARTING)], [run("a", over=True), run("b")], 1) == {0: "b"}


def _pod(state: dict[str, Any], *, restarts: int = 0, last: dict[str, Any] | None = None, **status: Any) -> Pod:
    container = {"name": "app", "image": "i", "imageID": "", "ready": False, "restartCount": restarts}
    container |= {"state": state, "lastState": last or {}}
    meta = {"name": "p", "uid": "u", "labels": {"shipoff.dev/process": "web"}}
    return Pod.from_dict({"metadata": meta, "status": {"containerStatuses": [container], **status}})


_ENDED = {"terminated": {"exitCode": 7, "reason": "Error"}}


@pytest.mark.parametrize(
    ("pod", "ends"),
    [
        (_pod({"running": {}}), 0),
        (_pod(_ENDED), 1),
        (_pod({"waiting": {"reason": "CrashLoopBackOff"}}, last=_ENDED), 1),
        (_pod({"running": {}}, restarts=1, last=_ENDED), 1),
        (_pod({"waiting": {"reason": "CrashLoopBackOff"}}, restarts=1, last=_ENDED), 2),
    ],
)
def test_each_end_of_a_container_counts_once(pod: Pod, ends: int) -> None:
    assert read(pod, 1).ends == ends


@pytest.mark.parametrize(
    ("pod", "words"),
    [
        (
            _pod({"waiting": {"reason": "ImagePullBackOff", "message": "x: not found"}}),
            "its image cannot be pulled: x: not found",
        ),
        (_pod({"waiting": {"reason": "CreateContainerConfigError", "message": "no"}}), "it cannot be started: no"),
        (_pod({"waiting": {"reason": "ContainerCreating"}}), ""),
    ],
)
def test_what_keeps_a_pod_from_running_is_said_in_words(pod: Pod, words: str) -> None:
    assert read(pod, 1).obstacle == words


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"exitCode": 7}, "exit code 7"),
        ({"exitCode": 137, "reason": "Error"}, "killed by signal 9"),
        ({"exitCode": 137, "reason": "OOMKilled"}, "out of memory: it used more than its 64 MiB"),
        (
            {"exitCode": 128, "reason": "StartError", "message": "exec: no such file"},
            "could not be started: exec: no such file",
        ),
    ],
)
def test_how_a_container_ended_is_said_in_words(state: dict[str, Any], words: str) -> None:
    assert read(_pod({"terminated": state}), 64 << 20).exit == words


def test_an_evicted_pod_says_why() -> None:
    pod = _pod({"running": {}}, phase="Failed", reason="Evicted", message="The node was low on memory.")
    assert (read(pod, 1).over, read(pod, 1).exit) == (True, "evicted: The node was low on memory.")
