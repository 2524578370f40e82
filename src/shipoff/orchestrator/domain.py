"""Values, states, events and instructions of a deployment. Pure: time and ids come in as values."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from math import ceil

from shipoff.common.telemetry import NO_CONTEXT, Context


class State(StrEnum):
    """Where a deployment is. The numbers of the contract's enum are in the server's mapping."""

    QUEUED = "queued"
    BUILDING = "building"
    PROVISIONING = "provisioning"
    PRODUCTION = "production"
    FAILED = "failed"
    INACTIVE = "inactive"


RESTING = frozenset({State.PRODUCTION, State.FAILED, State.INACTIVE})
TERMINAL = frozenset({State.FAILED, State.INACTIVE})

# A builder that is lost (killed, or its machine gone) is worth this many attempts in all.
MAX_ATTEMPTS = 3


@dataclass(frozen=True)
class Resources:
    """CPU in thousandths of a core, memory in bytes: of the machine that builds, and apart from it of the apps' cluster."""

    cpu_millis: int
    memory_bytes: int
    # Zero throughout where apps run on the machine that builds.
    cluster_cpu_millis: int = 0
    cluster_memory_bytes: int = 0

    @property
    def on_cluster(self) -> Resources:
        """As much, of the cluster."""
        return Resources(0, 0, self.cpu_millis, self.memory_bytes)

    @property
    def of_cluster(self) -> Resources:
        """The cluster's part, as an amount."""
        return Resources(self.cluster_cpu_millis, self.cluster_memory_bytes)

    @property
    def amounts(self) -> tuple[int, int, int, int]:
        """Each by itself."""
        return self.cpu_millis, self.memory_bytes, self.cluster_cpu_millis, self.cluster_memory_bytes

    def _with(self, other: Resources, change: Callable[[int, int], int]) -> Resources:
        return Resources(*(change(mine, theirs) for mine, theirs in zip(self.amounts, other.amounts, strict=True)))

    def within(self, other: Resources) -> bool:
        """Whether this fits into the other."""
        return all(mine <= theirs for mine, theirs in zip(self.amounts, other.amounts, strict=True))

    def clamped(self, other: Resources) -> Resources:
        """This, but no more than the other."""
        return self._with(other, min)

    def maximum(self, other: Resources) -> Resources:
        """The larger of both, each for itself."""
        return self._with(other, max)

    def minus(self, other: Resources) -> Resources:
        """What is left."""
        return self._with(other, operator.sub)

    def plus(self, other: Resources) -> Resources:
        """Both together."""
        return self._with(other, operator.add)

    def times(self, factor: float) -> Resources:
        """A multiple, rounded up."""
        return Resources(*(ceil(amount * factor) for amount in self.amounts))

    def shown(self, *, only_positive: bool = False) -> str:
        """For people: "1.4 GB and 0.5 cores"; `only_positive` leaves out what is zero or less."""
        machine = _in_words(self.memory_bytes, self.cpu_millis, only_positive=only_positive)
        cluster = _in_words(self.cluster_memory_bytes, self.cluster_cpu_millis, only_positive=only_positive)
        if not any(self.of_cluster.amounts) or (only_positive and not cluster):
            return machine
        if not any(self.amounts[:2]) or (only_positive and not machine):
            return f"{cluster} of the cluster"
        return f"{machine}, and {cluster} of the cluster"

    def __str__(self) -> str:
        return self.shown()


def _in_words(memory_bytes: int, cpu_millis: int, *, only_positive: bool) -> str:
    parts = [(memory_bytes, f"{memory_bytes / 1e9:.1f} GB"), (cpu_millis, f"{cpu_millis / 1000:.1f} cores")]
    return " and ".join(text for amount, text in parts if amount > 0 or not only_positive)


@dataclass(frozen=True)
class Reserved:
    """The budget and how much of it is held."""

    budget: Resources
    reserved: Resources
    # The part that apps hold, for as long as they serve.
    lasting: Resources = Resources(0, 0)

    @property
    def ceiling(self) -> Resources:
        """What builds can have when all others are over."""
        return self.budget.minus(self.lasting)

    @property
    def free(self) -> Resources:
        """What can be given out."""
        return self.budget.minus(self.reserved)


def mebibytes(amount: int) -> str:
    """A size as people set it: "512 MiB", "1.5 GiB"."""
    gib = amount / (1 << 30)
    return f"{amount >> 20} MiB" if gib < 1 else f"{gib:.3g} GiB"


@dataclass(frozen=True)
class Endpoint:
    """Where an instance listens."""

    host: str
    port: int


@dataclass(frozen=True)
class Deployment:
    """What `decide` needs to know. `artifact` and `plan` are serialized facts it only carries."""

    id: str
    number: int
    project_id: str
    team_id: str
    environment: str
    state: State
    # When it was accepted, which decides what is newer: messages may arrive in any order.
    accepted_at: datetime
    version: int = 1
    attempt: int = 0
    # It is a folder of files for the CDN, not a process; known once there is an artifact.
    static: bool = False
    artifact: bytes = b""
    plan: bytes = b""
    commit: str = ""
    reason: str = ""
    # Of the endpoints: grows with every change of the set of ready instances.
    revision: int = 0
    endpoints: tuple[Endpoint, ...] = ()
    # It puts an earlier release back because a later one broke: nobody asked for it.
    automatic: bool = False
    # How it broke while serving, and waits for what takes its place; empty: it did not.
    broke: str = ""
    project_name: str = ""
    # What its build may use, once it was let in.
    slot: Resources = Resources(0, 0)
    # Which step was killed at what, once a build ran out of memory: it is tried once more.
    out_of_memory: str = ""
    # It builds no more, and waits for a larger slot to build again.
    awaits_slot: bool = False
    # Instances, where they were scaled since; zero: what its configuration says.
    replicas: int = 0
    # It serves nothing until it is resumed: no instance runs, and its address says so.
    paused: bool = False
    # The ids of the request that it was accepted with: what is done for it later is done under them.
    context: Context = NO_CONTEXT


# Events: what happened.


@dataclass(frozen=True)
class SlotGranted:
    """The budget has room, and this much of it is the build's."""

    slot: Resources = Resources(0, 0)


@dataclass(frozen=True)
class SlotRefused:
    """The budget will never have room."""

    reason: str


@dataclass(frozen=True)
class Scaled:
    """So many instances are wanted, and there is room for them."""

    replicas: int


@dataclass(frozen=True)
class PauseWanted:
    """Its instances are to rest, or to run again."""

    paused: bool


@dataclass(frozen=True)
class ArtifactKnown:
    """There is nothing to build."""


@dataclass(frozen=True)
class BuildSucceeded:
    """The attempt left an artifact."""

    attempt: int
    artifact: bytes
    plan: bytes
    static: bool
    commit: str = ""


@dataclass(frozen=True)
class BuildFailed:
    """The attempt ended without one."""

    attempt: int
    reason: str
    # The builder went away; another attempt may do.
    lost: bool = False
    # It was killed for its memory; a larger slot may do.
    out_of_memory: bool = False
    step: str = ""
    peak_memory_bytes: int = 0


@dataclass(frozen=True)
class ReleasePublished:
    """The CDN has the files."""


@dataclass(frozen=True)
class EndpointsReady:
    """These instances answer."""

    revision: int
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True)
class RouteSwitched:
    """The edge points at this deployment."""

    revision: int


@dataclass(frozen=True)
class RouteTaken:
    """The edge points at a newer deployment already."""


@dataclass(frozen=True)
class ProvisionFailed:
    """It will not serve."""

    reason: str


@dataclass(frozen=True)
class Broke:
    """It was ready, and keeps crashing or answers no more."""

    reason: str
    # It had served for its bake time by then.
    baked: bool
    # Something can take its place: an earlier release, or a newer deployment that is under way.
    replaceable: bool


@dataclass(frozen=True)
class Superseded:
    """A newer deployment of the same environment was accepted."""

    by_number: int
    commit: str = ""


@dataclass(frozen=True)
class Cancelled:
    """Somebody called it off."""

    actor: str


@dataclass(frozen=True)
class Replaced:
    """A newer deployment serves."""

    by_number: int


@dataclass(frozen=True)
class ProjectRemoved:
    """Everything of the project goes."""


@dataclass(frozen=True)
class DeadlinePassed:
    """It was in its state for longer than it may be."""

    limit_s: float


Event = (
    SlotGranted
    | SlotRefused
    | Scaled
    | PauseWanted
    | ArtifactKnown
    | BuildSucceeded
    | BuildFailed
    | ReleasePublished
    | EndpointsReady
    | RouteSwitched
    | RouteTaken
    | ProvisionFailed
    | Broke
    | Superseded
    | Cancelled
    | Replaced
    | ProjectRemoved
    | DeadlinePassed
)


class Instruction(StrEnum):
    """What has to be done outside. Each is idempotent, and looks at the stored deployment before it does anything."""

    START_BUILD = "start_build"
    CANCEL_BUILD = "cancel_build"
    PROVISION = "provision"
    SWITCH_ROUTE = "switch_route"
    STOP_WORKLOAD = "stop_workload"
    SCALE_WORKLOAD = "scale_workload"
    # Has its instances rest or run, as it is stored.
    PAUSE_WORKLOAD = "pause_workload"
    # Points the edge back at whatever is in PRODUCTION, in case it was switched and the record of it did not happen.
    RESTORE_ROUTE = "restore_route"
    REMOVE_ROUTE = "remove_route"
    # Makes the deployment that brings back the release before this one, unless a newer one is under way.
    PUT_BACK = "put_back"


@dataclass(frozen=True)
class Decision:
    """The deployment as it is after an event, and what has to be done."""

    deployment: Deployment
    instructions: tuple[Instruction, ...] = ()
