"""What pods say, and which pod an instance is: pure.

A run of an instance is one run of a pod's container. Its mark is "<pod uid>/<runs of that container that had ended before>",
so that a container which Kubernetes starts again in its pod is another run, and so is another pod.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightkube.models.core_v1 import ContainerStateTerminated, ContainerStatus
from lightkube.resources.core_v1 import Pod

from shipoff.runtime.domain import Instance, InstanceKey, InstanceState
from shipoff.runtime.manifests.marks import PROCESS

_CRASH_LOOP = "CrashLoopBackOff"
_PULLS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
# Kubernetes' own words for "it is on its way".
_ON_ITS_WAY = ("ContainerCreating", "PodInitializing", "")
_SIGNALLED = 128


@dataclass(frozen=True)
class PodRun:
    """One pod at one moment."""

    uid: str
    name: str
    process: str
    created: str
    leaving: bool
    # Runs of its container that have ended.
    ends: int
    started: bool
    ready: bool
    # Why it is not ready, in words; empty: it runs.
    obstacle: str = ""
    # How the last run ended, in words.
    exit: str = ""
    # The pod itself is over: evicted, or its node was lost.
    over: bool = False
    # And every container of it ended with exit code 0.
    well: bool = False

    @property
    def mark(self) -> str:
        """The run it is in, or waits for."""
        return f"{self.uid}/{self.ends}"


def read(pod: Pod, memory_bytes: int) -> PodRun:
    """The pod in a few words."""
    meta, status = pod.metadata, pod.status
    assert meta is not None
    container = next(iter(status.containerStatuses or ()), None) if status else None
    conditions = {one.type: one for one in (status.conditions or ())} if status else {}
    ready = "Ready" in conditions and conditions["Ready"].status == "True"
    phase = status.phase if status and status.phase else "Pending"
    over = phase in ("Failed", "Succeeded")
    exit_words = _exit(container, memory_bytes)
    if over and status and (status.reason or status.message):
        exit_words = f"{(status.reason or 'ended').lower()}: {status.message or ''}".rstrip(": ")
    scheduled = conditions.get("PodScheduled")
    obstacle = _obstacle(container)
    if scheduled is not None and scheduled.status == "False" and scheduled.reason == "Unschedulable":
        obstacle = f"no room for it on any node: {scheduled.message or ''}".rstrip(": ")
    return PodRun(
        uid=meta.uid or "",
        name=meta.name or "",
        process=(meta.labels or {}).get(PROCESS, ""),
        created=f"{meta.creationTimestamp}",
        leaving=meta.deletionTimestamp is not None,
        ends=_ends(container),
        started=bool(container and container.state and container.state.running),
        ready=ready,
        obstacle=obstacle,
        exit=exit_words,
        over=over,
        well=phase == "Succeeded",
    )


def _ends(container: ContainerStatus | None) -> int:
    if container is None:
        return 0
    state = container.state
    waits = bool(state and state.waiting and state.waiting.reason == _CRASH_LOOP)
    return (container.restartCount or 0) + (1 if waits or (state and state.terminated) else 0)


def _obstacle(container: ContainerStatus | None) -> str:
    state = container.state if container else None
    if state is None or state.running is not None:
        return ""
    reason = (state.waiting.reason if state.waiting else "") or ""
    message = (state.waiting.message if state.waiting else "") or ""
    if reason in _PULLS:
        return f"its image cannot be pulled: {message or reason}"
    if reason in _ON_ITS_WAY:
        return ""
    return f"it cannot be started: {message or reason}"


def _exit(container: ContainerStatus | None, memory_bytes: int) -> str:
    if container is None:
        return ""
    ended = [one.terminated for one in (container.state, container.lastState) if one and one.terminated]
    return _exit_words(ended[0], memory_bytes) if ended else ""


def _exit_words(ended: ContainerStateTerminated, memory_bytes: int) -> str:
    if ended.reason == "OOMKilled":
        return f"out of memory: it used more than its {memory_bytes >> 20} MiB"
    if ended.reason in ("StartError", "ContainerCannotRun"):
        return f"could not be started: {ended.message or ended.reason}"
    if ended.exitCode > _SIGNALLED:
        return f"killed by signal {ended.exitCode - _SIGNALLED}"
    return f"exit code {ended.exitCode}"


def assign(
    instances: Sequence[Instance], runs: Sequence[PodRun], wanted: frozenset[tuple[str, int]]
) -> dict[InstanceKey, PodRun]:
    """Which pod each instance is. One that has a pod keeps it; pods without an instance go to wanted ones that have none.

    Instances that nobody wants take what is left: Kubernetes chooses which pod goes, and it is theirs that went.
    """
    free = {run.uid: run for run in sorted(runs, key=lambda one: (one.over, one.leaving, one.created, one.name))}
    given: dict[InstanceKey, PodRun] = {}
    order = sorted(instances, key=lambda one: (one.key.slot not in wanted, one.state is InstanceState.STOPPING, one.key))
    live = [one for one in order if one.state is not InstanceState.WAITING]
    for one in [one for one in live if one.key.slot in wanted]:
        run = free.get(one.process_started.partition("/")[0])
        if run is not None and (not run.leaving or one.state is InstanceState.STOPPING):
            given[one.key] = free.pop(run.uid)
    for one in [one for one in live if one.key not in given and not one.process_started]:
        run = next((run for run in free.values() if not run.leaving and not run.over), None)
        if run is not None and one.key.slot in wanted:
            given[one.key] = free.pop(run.uid)
    for one in [one for one in live if one.key.slot not in wanted]:
        run = free.get(one.process_started.partition("/")[0])
        if run is not None:
            given[one.key] = free.pop(run.uid)
    return given
