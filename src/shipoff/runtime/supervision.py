"""What becomes of one instance: pure, called by transitions.decide for each of a workload's."""

from __future__ import annotations

from dataclasses import dataclass, replace

from shipoff.runtime.domain import (
    Action,
    Instance,
    InstanceState,
    KillInstance,
    Observation,
    Policy,
    StartInstance,
    TerminateInstance,
    Workload,
)

LOST = "ended while the platform was away"


@dataclass(frozen=True)
class Step:
    """An instance's next state, None when it is gone, and what to do."""

    instance: Instance | None
    actions: tuple[Action, ...] = ()


@dataclass(frozen=True)
class Surroundings:
    """What an instance's next step depends on beside itself."""

    workload: Workload
    now: float
    policy: Policy


def start(instance: Instance, around: Surroundings) -> tuple[Instance, StartInstance]:
    """The next run of a waiting slot, numbered after the workload's last one."""
    key = replace(instance.key, incarnation=around.workload.last_incarnation + 1)
    started = replace(
        instance,
        key=key,
        state=InstanceState.STARTING,
        generation=around.workload.generation,
        pid=0,
        process_started="",
        started_at=around.now,
        ready_at=0.0,
        due_at=around.now + around.policy.again_s,
        signalled=False,
        misses=0,
        last_words="",
        cause="",
    )
    return started, StartInstance(key)


def stop(instance: Instance, *, at: float, cause: str = "") -> Instance:
    """Sends an instance on its way out, SIGTERM at `at`; one that is on it already keeps its time."""
    if instance.state is InstanceState.STOPPING:
        return replace(instance, cause=instance.cause and cause)
    return replace(instance, state=InstanceState.STOPPING, due_at=at, signalled=False, cause=cause)


def advance(instance: Instance, seen: Observation | None, around: Surroundings) -> Step:
    """The instance after an observation; None for `seen` means that the driver has never started this run."""
    if instance.state is InstanceState.WAITING:
        return Step(instance)
    if seen is None and instance.pid:
        seen = Observation(alive=False, lost=True, exit=LOST)
    if instance.state is InstanceState.STOPPING:
        return _stopping(instance, seen, around)
    if seen is None:
        return _not_started(instance, around)
    if not seen.alive:
        return Step(_lost(instance, seen, around) if seen.lost else _crashed(instance, seen, around))
    alive = replace(instance, pid=seen.pid, process_started=seen.process_started)
    if seen.excess:
        return _kill(alive, seen.excess, around)
    if instance.state is InstanceState.STARTING:
        return Step(_starting(alive, seen, around))
    return _ready(alive, seen, around)


def _not_started(instance: Instance, around: Surroundings) -> Step:
    if around.now < instance.due_at:
        return Step(instance)
    return Step(replace(instance, due_at=around.now + around.policy.again_s), (StartInstance(instance.key),))


def _starting(instance: Instance, seen: Observation, around: Surroundings) -> Instance:
    now, policy = around.now, around.policy
    if not instance.serves:
        settled_at = instance.started_at + policy.worker_settle_s
        return _become_ready(instance, around) if now >= settled_at else replace(instance, due_at=settled_at)
    if seen.probe is None:
        return replace(instance, due_at=min(instance.due_at, now + policy.start_probe_s))
    if seen.probe.well:
        return _become_ready(instance, around)
    eager = now - instance.started_at < policy.start_eager_s
    pause_s = policy.start_probe_s if eager else policy.start_slow_probe_s
    return replace(instance, due_at=now + pause_s, last_words=seen.probe.words)


def _become_ready(instance: Instance, around: Surroundings) -> Instance:
    return replace(
        instance,
        state=InstanceState.READY,
        ready_at=around.now,
        due_at=around.now + around.policy.live_probe_s,
        misses=0,
        last_words="",
    )


def _ready(instance: Instance, seen: Observation, around: Surroundings) -> Step:
    now, policy = around.now, around.policy
    if instance.crashes and now - instance.ready_at >= policy.well_after_s:
        instance = replace(instance, crashes=0)
    if now < instance.due_at and seen.probe is None:
        return Step(instance)
    if seen.probe is None or seen.probe.well:
        return Step(replace(instance, due_at=now + policy.live_probe_s, misses=0))
    missed = replace(instance, due_at=now + policy.live_probe_s, misses=instance.misses + 1, last_words=seen.probe.words)
    if missed.misses < policy.live_misses:
        return Step(missed)
    return Step(stop(missed, at=now, cause=f"stopped answering: {seen.probe.words}"))


def _kill(instance: Instance, cause: str, around: Surroundings) -> Step:
    """No grace for what is above a limit: it would only grow further."""
    doomed = stop(instance, at=around.now + around.policy.again_s, cause=cause)
    return Step(replace(doomed, signalled=True), (KillInstance(instance.key),))


def _stopping(instance: Instance, seen: Observation | None, around: Surroundings) -> Step:
    if seen is None or not seen.alive:
        if not instance.cause:
            return Step(None)
        return Step(_crashed(instance, seen or Observation(alive=False), around))
    instance = replace(instance, pid=seen.pid, process_started=seen.process_started)
    if around.now < instance.due_at:
        return Step(instance)
    if not instance.signalled:
        asked = replace(instance, signalled=True, due_at=around.now + around.policy.grace_s)
        return Step(asked, (TerminateInstance(instance.key),))
    return Step(replace(instance, due_at=around.now + around.policy.again_s), (KillInstance(instance.key),))


def _crashed(instance: Instance, seen: Observation, around: Surroundings) -> Instance:
    """Back to waiting, each time longer: 1, 2, 4 … seconds."""
    now, policy = around.now, around.policy
    well = instance.ready_at > 0 and now - instance.ready_at >= policy.well_after_s
    crashes = 1 if well else instance.crashes + 1
    backoff_s = min(policy.backoff_first_s * 2 ** min(crashes - 1, 16), policy.backoff_longest_s)
    recent = tuple(time for time in instance.exits if now - time < policy.loop_window_s)
    words = instance.cause or seen.exit or "ended"
    return replace(
        instance,
        state=InstanceState.WAITING,
        pid=0,
        process_started="",
        ready_at=0.0,
        due_at=now + backoff_s,
        restarts=instance.restarts + 1,
        crashes=crashes,
        exits=(*recent, now),
        last_exit=words,
        last_words=" | ".join(seen.last_lines),
        cause="",
    )


def _lost(instance: Instance, seen: Observation, around: Surroundings) -> Instance:
    """Back to waiting without blame: the platform or the machine had gone away."""
    return replace(
        instance,
        state=InstanceState.WAITING,
        pid=0,
        process_started="",
        ready_at=0.0,
        due_at=around.now,
        last_exit=seen.exit or LOST,
    )
