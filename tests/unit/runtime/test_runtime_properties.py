"""Whatever the driver reports, in whatever order: the rules that always hold."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from neighbours.runtime_workloads import POLICY, workload

from shipoff.runtime import transitions
from shipoff.runtime.domain import (
    EmitEndpointsChanged,
    EmitReady,
    EmitStopped,
    Instance,
    InstanceKey,
    InstanceState,
    KillInstance,
    Observation,
    Observed,
    Phase,
    Probe,
    Process,
    RemoveResidue,
    StartInstance,
    Workload,
)


class World:
    """A machine that does what it is told, and things of its own accord."""

    def __init__(self) -> None:
        self.workload: Workload = workload(
            processes=(Process("web", ("w",)), Process("worker", ("b",))), last_incarnation=0, ready_deadline=60.0
        )
        self.instances: tuple[Instance, ...] = ()
        self.alive: set[InstanceKey] = set()
        self.dead: set[InstanceKey] = set()
        self.folder = False
        self.now = 0.0
        self.told: list[object] = []

    def look(self, answers: bool) -> None:
        """One pass of the reconciler."""
        due = transitions.due_probes(self.instances, self.now)
        seen = {}
        for one in self.instances:
            if one.key in self.alive:
                probe = Probe(answers, "silence") if one.key in due else None
                seen[one.key] = Observation(True, pid=one.key.incarnation, probe=probe)
            elif one.key in self.dead:
                seen[one.key] = Observation(False, exit="exit code 1")
        observed = Observed(seen, residue=self.folder)
        decision = transitions.decide(self.workload, self.instances, observed, now=self.now, policy=POLICY)
        self.workload = decision.workload
        self.instances = tuple(replace(one, port=one.port or 2000 + one.key.incarnation) for one in decision.instances)
        self.told += decision.emissions
        for action in decision.actions:
            self._perform(action)

    def _perform(self, action: object) -> None:
        if isinstance(action, StartInstance):
            assert action.key not in self.dead, "a number was used twice"
            self.alive.add(action.key)
            self.folder = True
        elif isinstance(action, KillInstance):
            self.kill(action.key)
        elif isinstance(action, RemoveResidue):
            assert not self.alive, "removed under running instances"
            self.folder = False

    def kill(self, key: InstanceKey) -> None:
        if key in self.alive:
            self.alive.remove(key)
            self.dead.add(key)


_steps = st.lists(
    st.one_of(
        st.tuples(st.just("look"), st.booleans()),
        st.tuples(st.just("pass"), st.sampled_from([0.1, 1.0, 5.0, 30.0])),
        st.tuples(st.just("die"), st.integers(0, 5)),
        st.tuples(st.just("scale"), st.integers(1, 4)),
        st.tuples(st.just("restart"), st.none()),
        st.tuples(st.just("lose"), st.none()),
        st.tuples(st.just("stop"), st.none()),
    ),
    max_size=60,
)


def _take(world: World, kind: str, value: float | None) -> None:
    if kind == "look":
        world.look(bool(value))
    elif kind == "pass":
        world.now += value or 0
    elif kind == "die" and world.alive:
        world.kill(sorted(world.alive)[int(value or 0) % len(world.alive)])
    elif kind == "scale":
        world.workload = transitions.scaled(world.workload, int(value or 1))
    elif kind == "restart":
        world.workload = transitions.restarted(world.workload, world.now)
    elif kind == "lose":
        # The platform was killed, and with it the knowledge of how anything ended.
        world.dead.clear()
    elif kind == "stop":
        world.workload = transitions.stopped(world.workload)


def _check(world: World) -> None:
    keys = [one.key for one in world.instances]
    assert len(set(keys)) == len(keys)
    assert world.alive <= set(keys), "an instance runs that nobody knows"
    ports = [one.port for one in world.instances if one.key.process == "web" and one.state is not InstanceState.WAITING]
    assert len(set(ports)) == len(ports)
    revisions = [one.revision for one in world.told if isinstance(one, (EmitReady, EmitEndpointsChanged))]
    assert revisions == sorted(set(revisions))


@given(_steps)
@settings(max_examples=80, deadline=None)
def test_nothing_runs_unknown_and_whatever_happens_a_wish_is_reached(steps):
    world = World()
    for kind, value in steps:
        _take(world, kind, value)
        _check(world)
    _settle(world)
    if world.workload.phase is Phase.STOPPED:
        assert not world.alive
        assert not world.folder
        assert world.told[-1] == EmitStopped()
        assert world.told.count(EmitStopped()) == 1
    elif world.workload.phase is Phase.FAILED:
        assert not world.alive
    else:
        assert world.workload.phase is Phase.READY
        running = sorted(one.key.slot for one in world.instances if one.key in world.alive)
        assert running == sorted(world.workload.slots())


def _settle(world: World) -> None:
    """Time goes by, everything answers."""
    for _ in range(120):
        world.look(answers=True)
        _check(world)
        if world.workload.settled:
            return
        world.now += 2.0
