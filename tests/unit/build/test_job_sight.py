"""What a Job and its pod say of a builder: every case a row."""

from __future__ import annotations

from typing import Any

import pytest
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import Pod

from shipoff.build.adapters.kubernetes.sight import has_begun, last_words, sight_of
from shipoff.build.domain import Cause


def job(*, condition: str = "", reason: str = "", suspend: bool = False) -> Job:
    conditions = [{"type": condition, "status": "True", "reason": reason}] if condition else []
    spec = {"suspend": suspend, "template": {"spec": {"containers": []}}}
    return Job.from_dict({"metadata": {"name": "j"}, "spec": spec, "status": {"conditions": conditions}})


def pod(state: dict[str, Any] | None = None, *, phase: str = "Running", leaving: bool = False, **status: Any) -> Pod:
    containers = (
        [{"name": "builder", "image": "", "imageID": "", "ready": False, "restartCount": 0, "state": state}] if state else []
    )
    meta = {"name": "p", **({"deletionTimestamp": "2026-11-25T00:00:00Z"} if leaving else {})}
    return Pod.from_dict({"metadata": meta, "status": {"phase": phase, "containerStatuses": containers, **status}})


def ended(code: int, reason: str = "Error", **more: Any) -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, **more}}


RUNNING = {"running": {"startedAt": "2026-11-25T00:00:00Z"}}
OPEN = job()


@pytest.mark.parametrize(
    ("job", "pod", "left", "cause", "words"),
    [
        (None, None, False, Cause.BUILDER_LOST, "its Job was deleted"),
        (None, pod(RUNNING), False, Cause.BUILDER_LOST, "its Job was deleted"),
        (None, pod(ended(137, "OOMKilled"), phase="Failed"), True, Cause.OUT_OF_MEMORY, "more memory"),
        (OPEN, pod(RUNNING), True, Cause.BUILDER_LOST, "its pod was deleted"),
        (OPEN, pod(RUNNING, leaving=True), True, Cause.BUILDER_LOST, "from outside"),
        (OPEN, pod(ended(1), phase="Failed", leaving=True), False, Cause.BUILDER_LOST, "from outside"),
        (OPEN, pod(ended(137, "OOMKilled"), phase="Failed"), False, Cause.OUT_OF_MEMORY, "more memory"),
        (OPEN, pod(ended(137), phase="Failed"), False, Cause.BUILDER_LOST, "signal 9"),
        (OPEN, pod(ended(1), phase="Failed"), False, Cause.BUILDER_LOST, "exit code 1"),
        (
            OPEN,
            pod(phase="Failed", reason="Evicted", message='Usage of EmptyDir volume "build" exceeds the limit "8Gi".'),
            False,
            Cause.DISK,
            "more disk",
        ),
        (
            OPEN,
            pod(ended(137), phase="Failed", reason="Evicted", message="The node was low on resource: memory."),
            False,
            Cause.BUILDER_LOST,
            "low on resource",
        ),
        (OPEN, pod(phase="Failed", reason="NodeShutdown", message=""), False, Cause.BUILDER_LOST, "nodeshutdown"),
        (job(condition="Failed", reason="DeadlineExceeded"), None, False, Cause.TIMEOUT, "time"),
        (job(condition="FailureTarget", reason="DeadlineExceeded"), pod(RUNNING), False, Cause.TIMEOUT, "time"),
        (job(condition="Failed", reason="DeadlineExceeded"), pod(ended(1), leaving=True), True, Cause.TIMEOUT, "time"),
        (job(condition="Failed", reason="BackoffLimitExceeded"), None, False, Cause.BUILDER_LOST, "its pod was deleted"),
        (job(suspend=True), None, False, Cause.BUILDER_LOST, "while it was being started"),
    ],
)
def test_one_that_is_over_says_how(job, pod, left, cause, words):
    sight = sight_of(job, pod, left=left, running_s=9)
    assert not sight.alive
    assert sight.end is not None
    assert sight.end.cause is cause
    assert words in sight.end.reason


@pytest.mark.parametrize(
    ("job", "pod"),
    [
        (OPEN, pod(ended(0, "Completed"), phase="Succeeded")),
        (job(condition="Complete"), pod(ended(0, "Completed"), phase="Succeeded")),
        (job(condition="Complete"), None),
    ],
)
def test_one_that_ended_by_itself_has_said_what_it_had_to_say(job, pod):
    sight = sight_of(job, pod, left=False, running_s=9)
    assert (sight.alive, sight.end) == (False, None)


@pytest.mark.parametrize(
    ("pod", "words"),
    [
        (None, "no pod was made"),
        (pod(phase="Pending"), ""),
        (pod({"waiting": {"reason": "ContainerCreating"}}, phase="Pending"), ""),
        (
            pod({"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}, phase="Pending"),
            "cannot be pulled: not found",
        ),
        (
            pod({"waiting": {"reason": "CreateContainerConfigError", "message": "no key"}}, phase="Pending"),
            "cannot be started: no key",
        ),
        (
            pod(
                phase="Pending",
                conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}],
            ),
            "no node has room for it: 0/1 nodes",
        ),
    ],
)
def test_one_that_has_not_begun_says_what_stands_in_the_way(pod, words):
    sight = sight_of(OPEN, pod, left=False, running_s=0)
    assert (sight.alive, sight.waiting) == (True, True)
    assert words in sight.obstacle
    assert bool(words) == bool(sight.obstacle)


def test_one_that_runs_is_alive_for_as_long_as_it_was_seen_to():
    sight = sight_of(OPEN, pod(RUNNING), left=False, running_s=9)
    assert (sight.alive, sight.waiting, sight.running_s) == (True, False, 9)


def test_its_last_words_are_in_its_pods_status():
    assert last_words(pod(ended(1, message="given up: no such host"))) == "given up: no such host"
    assert last_words(pod(RUNNING)) == ""
    assert has_begun(pod(RUNNING))
    assert not has_begun(pod(phase="Pending"))
