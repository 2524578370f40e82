"""Values of the runtime: workloads, instances, what is observed of them, and the instructions that change them.

Times are seconds on the runtime's clock (main.py), which begins at the wall clock's time and never jumps.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from shipoff.common.telemetry import Context

WEB = "web"
# Runs once before a release, never as a process of it.
RELEASE = "release"
_ADDRESS = re.compile(r"\$(?:\{(PORT|HOST)\}|(PORT|HOST)(?![A-Za-z0-9_]))")


class Phase(StrEnum):
    """What a workload is doing, as RuntimeService tells it."""

    STARTING = "starting"
    READY = "ready"
    # It was ready and an instance is missing; it is being restarted.
    DEGRADED = "degraded"
    # It never became ready; its instances are stopped.
    FAILED = "failed"
    STOPPING = "stopping"
    STOPPED = "stopped"


class InstanceState(StrEnum):
    """What an instance is doing."""

    # Not running; to be started at `due_at`.
    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    # On its way out: SIGTERM at `due_at`, then SIGKILL at the next.
    STOPPING = "stopping"


@dataclass(frozen=True, order=True)
class InstanceKey:
    """Names one run of one process of a workload. The incarnation grows with every start; 0 has never run."""

    deployment_id: str
    process: str
    index: int
    incarnation: int

    @property
    def slot(self) -> tuple[str, int]:
        """The place in the workload that this run fills."""
        return self.process, self.index


@dataclass(frozen=True, order=True)
class Endpoint:
    """An address that an instance answers on."""

    host: str
    port: int


@dataclass(frozen=True)
class Process:
    """A command of the plan; arguments may hold $PORT or ${PORT}, $HOST or ${HOST}. None: the image's own."""

    name: str
    argv: tuple[str, ...]


def filled(part: str, *, host: str, port: int) -> str:
    """An argument of a Process with exactly $PORT and $HOST filled in, braced or not; no other name is touched."""
    address = {"PORT": str(port), "HOST": host}
    return _ADDRESS.sub(lambda found: address[found[1] or found[2]], part)


@dataclass(frozen=True)
class Artifact:
    """What the build left in the object store; of an image, `object_key` is its reference by digest."""

    kind: int
    object_key: str
    digest: str
    size_bytes: int


@dataclass(frozen=True)
class Workload:
    """What shall run for one deployment, and how far that has come."""

    deployment_id: str
    project_id: str
    project_name: str
    team_id: str
    environment: str
    artifact: Artifact
    processes: tuple[Process, ...]
    # Where the processes start, relative to the artifact's root.
    app_root: str
    # A serialized SealedVariables message; only the driver opens it.
    variables: bytes
    replicas: int
    cpu_millis: int
    memory_bytes: int
    health_path: str
    ready_timeout_s: float
    # Of its release command until that has ended, then of its becoming ready.
    ready_deadline: float
    # How long its process `release` may take, which runs once before the others; 0: it is not run for this deployment.
    release_timeout_s: float = 0.0
    # That process has ended well.
    released: bool = False
    # Under which names its environment is asked for, and where its `web` listens (0: where it is told to).
    hosts: tuple[str, ...] = ()
    port: int = 0
    phase: Phase = Phase.STARTING
    reason: str = ""
    was_ready: bool = False
    # Its crash loop has been told; not told again before it has been well.
    loop_told: bool = False
    # Since when no instance that takes requests has been ready, after it was; 0: one is.
    unready_since: float = 0.0
    # The ready endpoints last announced, and the revision they were announced with.
    endpoints: tuple[Endpoint, ...] = ()
    revision: int = 0
    # Its instances rest until it is resumed.
    paused: bool = False
    # Grows with every restart that was asked for; instances of an older one are replaced.
    generation: int = 0
    # The newest run's number; never given twice within a workload.
    last_incarnation: int = 0
    # Nothing is left to do: stopped or failed, and everything of it is gone.
    settled: bool = False
    # Who asked for the deployment, and what for, in words.
    requested_by: str = ""
    why: str = ""
    # Of the call that wanted it first.
    request_id: str = ""
    traceparent: str = ""
    # The compare-and-set token of the stored row.
    version: int = 0

    @property
    def context(self) -> Context:
        """The ids under which everything about it is done and told."""
        return Context(self.request_id, self.team_id, self.traceparent)

    @property
    def wanted(self) -> bool:
        """Whether its instances shall run."""
        return self.phase in (Phase.STARTING, Phase.READY, Phase.DEGRADED)

    @property
    def runnable(self) -> tuple[Process, ...]:
        """The processes that run for as long as the workload does."""
        return tuple(process for process in self.processes if process.name != RELEASE)

    @property
    def releasing(self) -> bool:
        """Whether its release command has to end well before anything else of it runs."""
        runs = self.release_timeout_s > 0 and any(process.name == RELEASE for process in self.processes)
        return runs and not self.released

    @property
    def timeout_s(self) -> float:
        """How long its present stage may take until it is ready: its release command, or its start."""
        return self.release_timeout_s if self.releasing else self.ready_timeout_s

    def slots(self) -> tuple[tuple[str, int], ...]:
        """The instances it shall have: replicas of `web` and one of each other; without a `web`, replicas of each.

        Before them its release command alone.
        """
        if not self.wanted or self.paused:
            return ()
        if self.releasing:
            return ((RELEASE, 0),)
        names = [process.name for process in self.runnable]
        return tuple(
            (name, index) for name in names for index in range(self.replicas if name == WEB or WEB not in names else 1)
        )


@dataclass(frozen=True)
class Instance:
    """One run in a slot, or the slot's wait for the next one."""

    key: InstanceKey
    state: InstanceState = InstanceState.WAITING
    generation: int = 0
    host: str = "127.0.0.1"
    port: int = 0
    # The address is that of all its environment's instances, or of what stands before them: nobody's alone.
    shared: bool = False
    pid: int = 0
    # Tells a process from a later one with the same pid; the driver's own notation.
    process_started: str = ""
    started_at: float = 0.0
    ready_at: float = 0.0
    # When it wants attention next: a start, a probe or a signal, by state.
    due_at: float = 0.0
    signalled: bool = False
    misses: int = 0
    restarts: int = 0
    # Exits in a row, without having been well in between.
    crashes: int = 0
    # When it exited, of late.
    exits: tuple[float, ...] = ()
    last_exit: str = ""
    # What the last probe found, in words.
    last_words: str = ""
    # Why it is being stopped although it is wanted; counts as a crash. Empty: it is not wanted.
    cause: str = ""

    @property
    def serves(self) -> bool:
        """Whether requests can be sent to it."""
        return self.key.process == WEB

    @property
    def once(self) -> bool:
        """Whether it is a release command's: whatever becomes of it, it is not started a second time."""
        return self.key.process == RELEASE

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens."""
        return Endpoint(self.host, self.port)


@dataclass(frozen=True)
class Command:
    """A program that is run once in a release, to its end or for `limit_s` at most."""

    argv: tuple[str, ...]
    limit_s: float
    # Input follows; without, it reads nothing.
    has_input: bool = False
    # The instance that it runs in (process, index); None: beside them. An empty process: `web`, or the only one.
    within: tuple[str, int] | None = None


@dataclass(frozen=True)
class Output:
    """What a command wrote, to "stdout" or "stderr"."""

    channel: str
    data: bytes


@dataclass(frozen=True)
class Exited:
    """How a command ended, as a shell has it; why the platform ended it, where it did."""

    code: int
    reason: str = ""


@dataclass(frozen=True)
class Probe:
    """An answer to a probe, or its absence, in words."""

    well: bool
    words: str = ""


@dataclass(frozen=True)
class Observation:
    """What the driver saw of one run."""

    alive: bool
    pid: int = 0
    process_started: str = ""
    # None: not probed this time.
    probe: Probe | None = None
    # How it ended, in words: "exit code 1".
    exit: str = ""
    # It ended with exit code 0.
    well: bool = False
    # It ended while nobody watched, so nobody is to blame.
    lost: bool = False
    # A limit that it is above, in words: it is killed for that.
    excess: str = ""
    last_lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Observed:
    """What was seen of a workload. A run that is not in `instances` has not been started."""

    instances: Mapping[InstanceKey, Observation] = field(default_factory=dict)
    # Something of it is still there: its folder, its namespace.
    residue: bool = False
    # Runs that can never be started, with the reason for the user.
    refused: Mapping[InstanceKey, str] = field(default_factory=dict)
    # What holds up the start for now, in words.
    trouble: str = ""
    # Something that its instances need is missing, or is not what is wanted.
    astray: bool = False
    # The environment's requests reach it, or a newer release. A driver that has no switch of its own leaves it so.
    routed: bool = True
    # What of it is another on the cluster than the repository says, in words.
    drift: str = ""
    # Another release has taken over: it may stay for the drain time, as the way back.
    replaced: bool = True


@dataclass(frozen=True)
class StartInstance:
    """Run it. Nothing happens where it runs already."""

    key: InstanceKey


@dataclass(frozen=True)
class TerminateInstance:
    """Ask it to end."""

    key: InstanceKey


@dataclass(frozen=True)
class KillInstance:
    """End it and everything it started."""

    key: InstanceKey


@dataclass(frozen=True)
class Arrange:
    """Bring what surrounds its instances in line with what is wanted."""

    deployment_id: str


@dataclass(frozen=True)
class SwitchRoute:
    """Lead the environment's requests to it, away from the release before."""

    deployment_id: str


@dataclass(frozen=True)
class RemoveResidue:
    """Remove what is left of a workload that runs no more."""

    deployment_id: str


@dataclass(frozen=True)
class EmitReady:
    """Tell that it is ready for the first time."""

    revision: int
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True)
class EmitEndpointsChanged:
    """Tell that other instances are ready now."""

    revision: int
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True)
class EmitFailed:
    """Tell that it will not become ready, or keeps crashing."""

    reason: str
    was_ready: bool


@dataclass(frozen=True)
class EmitStopped:
    """Tell that everything of it is gone."""


Emission = EmitReady | EmitEndpointsChanged | EmitFailed | EmitStopped
Action = StartInstance | TerminateInstance | KillInstance | Arrange | SwitchRoute | RemoveResidue


@dataclass(frozen=True)
class Decision:
    """The new state, the events to store with it, and what to do afterwards."""

    workload: Workload
    instances: tuple[Instance, ...]
    emissions: tuple[Emission, ...] = ()
    actions: tuple[Action, ...] = ()


@dataclass(frozen=True)
class Policy:
    """The timings and limits of supervision, in seconds unless the name says otherwise."""

    # Between the wish to stop an instance and its SIGTERM: requests under way end, routes switch.
    drain_s: float = 1.0
    # Between SIGTERM and SIGKILL.
    grace_s: float = 10.0
    # How often a starting instance is probed, and from when on only every `start_slow_probe_s`.
    start_probe_s: float = 0.075
    start_eager_s: float = 15.0
    start_slow_probe_s: float = 0.5
    live_probe_s: float = 5.0
    live_misses: int = 3
    # A process without a port is ready when it has lived this long.
    worker_settle_s: float = 2.0
    backoff_first_s: float = 1.0
    backoff_longest_s: float = 60.0
    # Ready for this long, earlier exits are forgiven.
    well_after_s: float = 60.0
    exits_before_ready: int = 3
    loop_exits: int = 3
    loop_window_s: float = 300.0
    # An app that was ready and has had no ready instance for so long is told to be broken.
    broken_after_s: float = 30.0
    # How often a start or a kill that did not happen is asked for again.
    again_s: float = 1.0
