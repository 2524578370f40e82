"""The decisions of the runtime: what a workload's desired and observed state call for. Pure.

Handlers call the changes that somebody asked for (scaled, restarted, stopped), the reconciler calls `decide` with what it
has observed, again and again, until nothing is left to do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from shipoff.runtime import releasing
from shipoff.runtime.domain import (
    Action,
    Arrange,
    Decision,
    Emission,
    EmitEndpointsChanged,
    EmitFailed,
    EmitReady,
    EmitStopped,
    Endpoint,
    Instance,
    InstanceKey,
    InstanceState,
    Observation,
    Observed,
    Phase,
    Policy,
    RemoveResidue,
    StartInstance,
    SwitchRoute,
    Workload,
)
from shipoff.runtime.supervision import Step, Surroundings, advance, start, stop

Slot = tuple[str, int]


def scaled(workload: Workload, replicas: int) -> Workload:
    """Another number of replicas; nothing for one that is not to run."""
    return replace(workload, replicas=replicas) if workload.wanted else workload


def restarted(workload: Workload, now: float) -> Workload:
    """Every instance is to be replaced; one that had failed gets another chance, unless its release command had."""
    if workload.phase in (Phase.STOPPING, Phase.STOPPED):
        return workload
    if workload.phase is not Phase.FAILED:
        return replace(workload, generation=workload.generation + 1)
    if workload.releasing:
        return workload
    return replace(
        workload,
        generation=workload.generation + 1,
        phase=Phase.STARTING,
        reason="",
        was_ready=False,
        loop_told=False,
        settled=False,
        ready_deadline=now + workload.ready_timeout_s,
    )


def paused(workload: Workload, now: float, *, wanted: bool) -> Workload:
    """Its instances rest, or run again; nothing for one that has not been ready or is not to run.

    Their addresses are forgotten, so that the first of those that come back are told of. Until then nobody misses them.
    """
    if not workload.wanted or not workload.was_ready or workload.paused == wanted:
        return workload
    missed_from = 0.0 if wanted else now + workload.ready_timeout_s
    return replace(workload, paused=wanted, endpoints=(), unready_since=missed_from, loop_told=False, reason="")


def stopped(workload: Workload) -> Workload:
    """It is wanted no more."""
    if workload.phase in (Phase.STOPPING, Phase.STOPPED):
        return workload
    return replace(workload, phase=Phase.STOPPING, settled=False)


def resumed(workload: Workload, now: float) -> Workload:
    """After a time in which nobody could supervise it, its time to become ready begins anew."""
    if workload.unready_since:
        workload = replace(workload, unready_since=now)
    if workload.phase is not Phase.STARTING:
        return workload
    return replace(workload, ready_deadline=max(workload.ready_deadline, now + workload.timeout_s))


def due_within(instances: Iterable[Instance], latest: float) -> tuple[Instance, ...]:
    """Nothing waits beyond `latest`: after the host's clock was set back, what was due soon would be due in hours."""
    return tuple(replace(one, due_at=min(one.due_at, latest)) for one in instances)


def suspended(instances: Iterable[Instance]) -> tuple[Instance, ...]:
    """What is left of instances that the platform stopped because it stops itself: each slot waits to be started again.

    A release command is not: how it ended is found out by the next start.
    """
    newest: dict[Slot, Instance] = {}
    for instance in sorted(instances, key=lambda one: one.key):
        newest[instance.key.slot] = instance
    return tuple(
        one if one.once
        else replace(one, state=InstanceState.WAITING, pid=0, process_started="", due_at=0.0, ready_at=0.0, cause="")
        for one in newest.values()
    )  # fmt: skip


def due_probes(instances: Iterable[Instance], now: float) -> frozenset[InstanceKey]:
    """The instances to probe now."""
    probed = (InstanceState.STARTING, InstanceState.READY)
    return frozenset(one.key for one in instances if one.serves and one.pid and one.state in probed and one.due_at <= now)


def next_due(workload: Workload, instances: Iterable[Instance], policy: Policy) -> float:
    """When the workload wants attention next; infinity when only an event can change it."""
    times = [instance.due_at for instance in instances]
    if workload.phase is Phase.STARTING:
        times.append(workload.ready_deadline)
    if workload.wanted and workload.unready_since and not workload.loop_told:
        times.append(workload.unready_since + policy.broken_after_s)
    return min(times, default=float("inf"))


def decide(workload: Workload, instances: Sequence[Instance], observed: Observed, *, now: float, policy: Policy) -> Decision:
    """The new state of a workload and its instances, the events to store with it, and the actions to perform afterwards.

    Level-triggered: the same observation twice, or one that was missed, changes nothing in the outcome.
    """
    if workload.settled:
        return Decision(workload, tuple(instances))
    course = _Course(workload, now, policy)
    course.observe(instances, observed)
    if course.workload.wanted:
        course.fill_slots()
        course.judge(observed)
    if not course.workload.wanted:
        course.clear_out(observed)
    else:
        course.surround(observed)
        course.announce(observed)
    return course.decision()


@dataclass
class _Course:
    """One decision in the making: local to `decide`, which stays a function of its arguments."""

    workload: Workload
    now: float
    policy: Policy
    runs: dict[InstanceKey, Instance] = field(default_factory=dict)
    emissions: list[Emission] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)

    def decision(self) -> Decision:
        runs = tuple(self.runs[key] for key in sorted(self.runs))
        return Decision(self.workload, runs, tuple(self.emissions), tuple(self.actions))

    def _around(self) -> Surroundings:
        return Surroundings(self.workload, self.now, self.policy)

    def observe(self, instances: Sequence[Instance], observed: Observed) -> None:
        """Lets every instance take the step that its observation calls for."""
        for instance in instances:
            seen = observed.instances.get(instance.key)
            if self.workload.was_ready and instance.key in observed.refused:
                seen = Observation(alive=False, exit=observed.refused[instance.key])
            step = self._release(instance, seen) if instance.once else advance(instance, seen, self._around())
            self.actions += step.actions
            if step.instance is not None:
                self.runs[step.instance.key] = step.instance

    def _release(self, instance: Instance, seen: Observation | None) -> Step:
        step, verdict = releasing.advance(instance, seen, self._around())
        if verdict == releasing.WELL:
            self.workload = releasing.released(self.workload, self.now)
        elif verdict:
            self._give_up(verdict)
        return step

    def _give_up(self, reason: str) -> None:
        self.workload = replace(self.workload, phase=Phase.FAILED, reason=reason)
        self.emissions.append(EmitFailed(reason, was_ready=False))

    def _by_slot(self) -> Mapping[Slot, list[Instance]]:
        """The runs of each slot, the newest last."""
        slots: dict[Slot, list[Instance]] = defaultdict(list)
        for key in sorted(self.runs):
            slots[key.slot].append(self.runs[key])
        return slots

    def _put(self, old: Instance | None, new: Instance) -> None:
        if old is not None:
            self.runs.pop(old.key, None)
        self.runs[new.key] = new

    def fill_slots(self) -> None:
        """Brings the runs in line with the slots that are wanted: starts, replaces and stops."""
        wanted = self.workload.slots()
        by_slot = self._by_slot()
        for slot, runs in by_slot.items():
            if slot not in wanted:
                self._stop_all(runs)
        for slot in wanted:
            self._fill(slot, by_slot.get(slot, []))
        self._roll(wanted)

    def _stop_all(self, runs: Iterable[Instance]) -> None:
        for run in runs:
            if run.state is InstanceState.WAITING:
                self.runs.pop(run.key)
            else:
                self._put(run, stop(run, at=self.now + self.policy.drain_s))

    def _fill(self, slot: Slot, runs: list[Instance]) -> None:
        current = runs[-1] if runs else None
        if current is None or (current.state is InstanceState.STOPPING and not current.cause):
            self._start(None, Instance(InstanceKey(self.workload.deployment_id, *slot, 0)))
        elif current.state is InstanceState.WAITING and current.due_at <= self.now:
            self._start(current, current)
        for older in runs[:-1]:
            self._retire(older, runs[-1])

    def _start(self, old: Instance | None, slot: Instance) -> None:
        started, action = start(slot, self._around())
        self.workload = replace(self.workload, last_incarnation=started.key.incarnation)
        self._put(old, started)
        self.actions.append(action)

    def _retire(self, older: Instance, newer: Instance) -> None:
        """An older run beside a newer one: it serves until the newer one does."""
        if older.state is InstanceState.WAITING:
            self.runs.pop(older.key)
        elif newer.state is InstanceState.READY:
            self._put(older, stop(older, at=self.now + self.policy.drain_s))
        elif older.state is InstanceState.STOPPING and older.cause:
            self._put(older, replace(older, cause=""))

    def _roll(self, wanted: Sequence[Slot]) -> None:
        """Replaces runs of an older generation, ready ones one at a time and only beside their successor."""
        by_slot = self._by_slot()
        newest = [by_slot[slot][-1] for slot in wanted]
        rolling = any(run.state is not InstanceState.READY and run.generation == self.workload.generation for run in newest)
        for run in newest:
            if run.generation >= self.workload.generation or run.state is InstanceState.STOPPING or run.once:
                continue
            if run.state is InstanceState.STARTING:
                self._put(run, stop(run, at=self.now))
                self._succeed(run)
            elif run.state is InstanceState.READY and not rolling:
                rolling = True
                self._succeed(run)

    def _succeed(self, run: Instance) -> None:
        """Starts the run that takes over from this one, which keeps its own port until then."""
        self._start(None, replace(run, state=InstanceState.WAITING, port=0, pid=0, crashes=0, exits=()))

    def judge(self, observed: Observed) -> None:
        """Gives up on what will not become ready; tells of what keeps crashing."""
        if not self.workload.was_ready:
            reason = self._hopeless(observed)
            if reason:
                self._give_up(reason)
            return
        self._watch_readiness()
        reason = self._broken()
        if reason and not self.workload.loop_told:
            self.workload = replace(self.workload, reason=reason, loop_told=True)
            self.emissions.append(EmitFailed(reason, was_ready=True))

    def _watch_readiness(self) -> None:
        """Remembers since when nothing of it takes requests."""
        serving = [run for run in self.runs.values() if run.serves]
        ready = not serving or any(run.state is InstanceState.READY for run in serving)
        since = 0.0 if ready else self.workload.unready_since or self.now
        self.workload = replace(self.workload, unready_since=since)

    def _broken(self) -> str:
        """How it fails although it was ready before; empty while it does well enough."""
        looping = [run for run in self.runs.values() if self._loops(run)]
        if looping:
            return f"crash loop: exited {len(looping[0].exits)} times in a short while: {_exit_words(looping[0])}"
        since = self.workload.unready_since
        if not since or self.now - since < self.policy.broken_after_s:
            return ""
        missing = next(run for run in self.runs.values() if run.serves)
        return f"nothing of it has been ready for {self.policy.broken_after_s:g} s: {_silence(missing)}"

    def _loops(self, run: Instance) -> bool:
        recent = [time for time in run.exits if self.now - time < self.policy.loop_window_s]
        return len(recent) >= self.policy.loop_exits

    def _hopeless(self, observed: Observed) -> str:
        """Why it will never be ready; empty while it may."""
        for key, words in observed.refused.items():
            if key in self.runs:
                return words
        missing = [run for run in self.runs.values() if run.state is not InstanceState.READY]
        for run in missing:
            if run.crashes >= self.policy.exits_before_ready:
                return f"{_named(run)}exited {run.crashes} times before it was ready: {_exit_words(run)}"
        held_up = not self._complete() or (observed.trouble and not observed.routed)
        if self.now < self.workload.ready_deadline or not held_up:
            return ""
        if self.workload.releasing:
            return releasing.overdue(self.workload, observed.trouble)
        words = observed.trouble or next((_silence(run) for run in missing), "nothing was started")
        return f"never became ready: {words} within {self.workload.ready_timeout_s:g} s"

    def _complete(self) -> bool:
        """Every slot has an instance that is ready."""
        ready = {run.key.slot for run in self.runs.values() if run.state is InstanceState.READY}
        return ready.issuperset(self.workload.slots())

    def surround(self, observed: Observed) -> None:
        """Keeps in order what its instances need, and leads requests to it from the first time that it is complete."""
        if observed.astray:
            self.actions.append(Arrange(self.workload.deployment_id))
        if not observed.routed and (self.workload.was_ready or self._complete()):
            self.actions.append(SwitchRoute(self.workload.deployment_id))

    def announce(self, observed: Observed) -> None:
        """Sets the phase and tells of a ready set that is another than the one last told."""
        serving = {run.endpoint for run in self.runs.values() if run.serves and run.state is InstanceState.READY}
        endpoints = tuple(sorted(serving))
        complete = self._complete()
        if not self.workload.was_ready:
            if complete and observed.routed:
                self._told(endpoints, EmitReady(self.workload.revision + 1, endpoints))
                self.workload = replace(self.workload, phase=Phase.READY, was_ready=True, reason="")
            return
        # An empty set is not told: whoever routes keeps the last one, on which the instances come back.
        if endpoints and endpoints != self.workload.endpoints:
            self._told(endpoints, EmitEndpointsChanged(self.workload.revision + 1, endpoints))
        self._set_phase(complete, observed.drift)

    def _told(self, endpoints: tuple[Endpoint, ...], emission: Emission) -> None:
        self.workload = replace(self.workload, endpoints=endpoints, revision=self.workload.revision + 1)
        self.emissions.append(emission)

    def _set_phase(self, complete: bool, drift: str) -> None:
        broken = [run for run in self.runs.values() if run.crashes and run.state is not InstanceState.READY]
        silent = self.workload.loop_told and self.workload.unready_since > 0
        if complete or not (broken or silent):
            calm = all(not run.crashes for run in self.runs.values())
            told = self.workload.loop_told and not calm
            self.workload = replace(
                self.workload, phase=Phase.READY, loop_told=told, reason=self.workload.reason if told else drift
            )
            return
        reason = self.workload.reason if self.workload.loop_told else f"{_named(broken[0])}{_exit_words(broken[0])}"
        self.workload = replace(self.workload, phase=Phase.DEGRADED, reason=reason)

    def clear_out(self, observed: Observed) -> None:
        """Stops every instance, then removes what is left, then tells."""
        lingers = observed.replaced and self.workload.phase is not Phase.FAILED
        at = self.now + self.policy.drain_s if lingers else self.now
        for run in list(self.runs.values()):
            if run.state is InstanceState.WAITING:
                self.runs.pop(run.key)
            else:
                ending = stop(run, at=at)
                self._put(run, ending if ending.signalled else replace(ending, due_at=min(ending.due_at, at)))
        self.actions = [action for action in self.actions if not isinstance(action, StartInstance)]
        if self.runs:
            return
        if observed.residue:
            self.actions.append(RemoveResidue(self.workload.deployment_id))
            return
        self.workload = replace(self.workload, settled=True)
        if self.workload.phase is Phase.STOPPING:
            self.workload = replace(self.workload, phase=Phase.STOPPED)
            self.emissions.append(EmitStopped())


def _named(run: Instance) -> str:
    """Which instance, where that is not plain."""
    return "" if run.serves else f"process {run.key.process} "


def _exit_words(run: Instance) -> str:
    lines = f" — last lines: {run.last_words}" if run.last_words else ""
    return f"{run.last_exit}{lines}"


def _silence(run: Instance) -> str:
    """What an instance that is not ready does instead."""
    if run.state is InstanceState.WAITING:
        return f"{_named(run)}{_exit_words(run)}"
    if not run.pid:
        return f"{_named(run) or 'it '}was not started"
    return run.last_words or f"nothing answered on port {run.port}"
