"""What is stored beside a deployment, or read from the store: records, instructions that are held, what builds used. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from shipoff.common.telemetry import NO_CONTEXT, Context
from shipoff.orchestrator.domain import Deployment, Instruction, Resources, State


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
    # Why it is deployed at all, where nobody asked for it.
    reason: str = ""
    # Of the request that asks for it.
    context: Context = NO_CONTEXT


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
class History:
    """A deployment with what became of it: its transitions and the attempts of its build after the first, oldest first."""

    record: Record
    steps: Sequence[Step]
    retries: Sequence[Retry]


@dataclass(frozen=True)
class Task:
    """An instruction that this process holds: `token` fences whoever held it before."""

    id: int
    token: int
    deployment_id: str
    instruction: Instruction
    attempt: int
    tries: int


# What is claimed with a fence.
ROUTING = frozenset({Instruction.SWITCH_ROUTE})


@dataclass(frozen=True)
class Route:
    """The route of a place as it was when an instruction for it was claimed: what its next fence is made of, and the number
    of what served there; zero for nothing."""

    floor: int
    generation: int
    serving: int


@dataclass(frozen=True)
class Held:
    """A claimed instruction with the deployment as it was then, and the route for those that switch it."""

    task: Task
    record: Record
    route: Route | None = None


@dataclass(frozen=True)
class Used:
    """What one build used: its mean CPU (`peak` over the whole of it), its peak memory, and how long it took."""

    peak: Resources
    wall_s: float
