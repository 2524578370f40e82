"""What becomes of a workload's release command, which runs once before everything else of it: pure, called by transitions.

It is never started a second time. Where nobody can tell how it ended, the workload fails and says so: whether a migration may
be repeated is for people to decide.
"""

from __future__ import annotations

from dataclasses import replace

from shipoff.runtime import supervision
from shipoff.runtime.domain import Instance, InstanceState, Observation, Workload
from shipoff.runtime.supervision import Step, Surroundings

_INTERRUPTED = (
    "its release command was interrupted, and nobody can tell how far it came: see what it left behind, then deploy again"
)
# It has not ended yet; ended well.
UNDECIDED, WELL = None, ""


def advance(instance: Instance, seen: Observation | None, around: Surroundings) -> tuple[Step, str | None]:
    """The run after an observation, and the verdict: UNDECIDED, WELL, or why the workload fails, in words for the user."""
    if not (around.workload.wanted and around.workload.releasing) or (seen is None and not instance.pid):
        return supervision.advance(instance, seen, around), UNDECIDED
    if seen is None or not seen.alive:
        return Step(None), _verdict(instance, seen)
    if seen.excess or instance.state is not InstanceState.STARTING:
        return supervision.advance(instance, seen, around), UNDECIDED
    runs = replace(instance, pid=seen.pid, process_started=seen.process_started, due_at=around.workload.ready_deadline)
    return Step(runs), UNDECIDED


def _verdict(instance: Instance, seen: Observation | None) -> str:
    if seen is not None and seen.well and not instance.cause:
        return WELL
    if seen is None or (seen.lost and not instance.cause):
        return _INTERRUPTED
    lines = f" — last lines: {' | '.join(seen.last_lines)}" if seen.last_lines else ""
    return f"its release command failed: {instance.cause or seen.exit or 'it ended'}{lines}"


def released(workload: Workload, now: float) -> Workload:
    """Its release command ended well: from now on it has its time to become ready."""
    return replace(workload, released=True, ready_deadline=now + workload.ready_timeout_s)


def overdue(workload: Workload, trouble: str) -> str:
    """Why it fails at the end of its time; `trouble` is what held up the start."""
    within = f"within {workload.release_timeout_s:g} s"
    if trouble:
        return f"its release command could not be run {within}: {trouble}"
    return f"its release command did not end {within}"
