"""Values, states, events and instructions of a deployment. Pure: time and ids come in as values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


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
    """CPU in thousandths of a core, memory in bytes."""

    cpu_millis: int
    memory_bytes: int

    def within(self, other: Resources) -> bool:
        """Whether this fits into the other."""
        return self.cpu_millis <= other.cpu_millis and self.memory_bytes <= other.memory_bytes

    def clamped(self, other: Resources) -> Resources:
        """This, but no more than the other."""
        return Resources(min(self.cpu_millis, other.cpu_millis), min(self.memory_bytes, other.memory_bytes))

    def minus(self, other: Resources) -> Resources:
        """What is left."""
        return Resources(self.cpu_millis - other.cpu_millis, self.memory_bytes - other.memory_bytes)


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


# Events: what happened.


@dataclass(frozen=True)
class SlotGranted:
    """The budget has room."""


@dataclass(frozen=True)
class ArtifactKnown:
    """There is nothing to build. `reason`: why it is deployed at all, where nobody asked for it."""

    reason: str = ""


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


@dataclass(frozen=True)
class QueueEntry:
    """A deployment that waits for a slot or holds one."""

    deployment: Deployment
    needs: Resources
    # Builds of its team that hold a slot now.
    team_running: int
    # Another build of its environment holds a slot.
    environment_busy: bool


def _age(entry: QueueEntry) -> tuple[datetime, str]:
    return entry.deployment.accepted_at, entry.deployment.id


def starting_order(waiting: list[QueueEntry]) -> list[QueueEntry]:
    """Who comes first: the team with the fewest running builds, then the oldest.

    Each entry that is placed counts as running for the next, so that teams take turns.
    """
    left = sorted(waiting, key=_age)
    running = {entry.deployment.team_id: entry.team_running for entry in left}
    order: list[QueueEntry] = []
    while left:
        entry = min(left, key=lambda candidate: (running[candidate.deployment.team_id], _age(candidate)))
        left.remove(entry)
        running[entry.deployment.team_id] += 1
        order.append(entry)
    return order


def admissible(waiting: list[QueueEntry], free: Resources) -> list[QueueEntry]:
    """Which of the waiting start now. One that does not fit holds back those behind it, so that nobody starves."""
    started: list[QueueEntry] = []
    environments: set[tuple[str, str]] = set()
    for entry in starting_order(waiting):
        place = (entry.deployment.project_id, entry.deployment.environment)
        if entry.environment_busy or place in environments:
            continue
        if not entry.needs.within(free):
            break
        free = free.minus(entry.needs)
        environments.add(place)
        started.append(entry)
    return started


def fence(number: int, floor: int, generation: int) -> int:
    """The route's fencing token: a later deployment beats an earlier one, then the later switch the earlier.

    `floor` is the highest deployment that was called off after it may have been routed: the way back has to beat it.
    """
    return (max(number, floor) << 32) + generation


@dataclass(frozen=True)
class Record:
    """A stored deployment with the facts that only travel with it. `request` is a serialized DeploymentRequested."""

    deployment: Deployment
    project_name: str
    request: bytes
    branch: str
    commit_message: str
    trigger: int
    requested_by: str
    origin_id: str
    artifact_expired: bool
    created_at: datetime
    changed_at: datetime


@dataclass(frozen=True)
class NewDeployment:
    """A deployment to be stored. With an artifact there is nothing to build."""

    id: str
    project_id: str
    project_name: str
    team_id: str
    environment: str
    request: bytes
    branch: str
    commit: str
    commit_message: str
    trigger: int
    requested_by: str
    accepted_at: datetime
    origin_id: str = ""
    artifact: bytes = b""
    plan: bytes = b""
    static: bool = False


@dataclass(frozen=True)
class Retry:
    """Another attempt of a build: which, why the one before did not count, and when it began."""

    attempt: int
    reason: str
    time: datetime


@dataclass(frozen=True)
class Step:
    """One transition of the record."""

    from_state: State
    to_state: State
    reason: str
    actor: str
    time: datetime


@dataclass(frozen=True)
class Task:
    """An instruction that this process holds: `token` fences whoever held it before."""

    id: int
    token: int
    deployment_id: str
    instruction: Instruction
    attempt: int
    tries: int


@dataclass(frozen=True)
class Reserved:
    """The budget and how much of it is held."""

    budget: Resources
    reserved: Resources

    @property
    def free(self) -> Resources:
        """What can be given out."""
        return self.budget.minus(self.reserved)
