"""Attempts at building a deployment, as the reconciler sees them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from shipoff.common.telemetry import NO_CONTEXT, Context


class State(StrEnum):
    """Where an attempt is."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class Cause(StrEnum):
    """Why the service ends an attempt that has not ended itself."""

    CANCELLED = "cancelled"
    BUILDER_LOST = "builder_lost"
    OUT_OF_MEMORY = "out_of_memory"
    DISK = "disk"
    TIMEOUT = "timeout"
    PLATFORM = "platform"


@dataclass(frozen=True, order=True)
class Ref:
    """One attempt. `attempt` is the deployment's fencing token."""

    deployment_id: str
    attempt: int

    def __str__(self) -> str:
        return f"{self.deployment_id}/{self.attempt}"


@dataclass(frozen=True)
class Process:
    """A builder's process; `started` tells it from a later one that was given the same id.

    On a cluster it is a Job: `started` is its uid, and `pid` is zero.
    """

    pid: int
    started: str


@dataclass(frozen=True)
class Order:
    """What a builder is started for, and what it may use: zero where the deployment reserved nothing."""

    project_id: str
    cpu_millis: int
    memory_bytes: int
    timeout_s: int


@dataclass(frozen=True)
class End:
    """How a builder ended that has not said so itself, where that can be seen from outside."""

    cause: Cause
    reason: str


@dataclass(frozen=True)
class Sight:
    """What is to be seen of a builder from outside."""

    alive: bool
    # It has not begun: the cluster looks for room, or fetches its image. What stands in the way is in `obstacle`, where known.
    waiting: bool = False
    obstacle: str = ""
    # How long it has been seen to run: nothing can have been heard of it for longer.
    running_s: float = float("inf")
    end: End | None = None


ALIVE = Sight(alive=True)
GONE = Sight(alive=False)


@dataclass(frozen=True)
class Attempt:
    """What is stored of an attempt that is not over and cleaned up. Seconds are of the database's clock."""

    ref: Ref
    project_id: str
    state: State
    # None: it has not been launched.
    process: Process | None
    # Since the builder was heard of, or launched.
    unseen_s: float
    # Until it has to be done; negative afterwards.
    remaining_s: float
    # Since it was asked to stop; None: it was not.
    cancelling_s: float | None
    cancel_reason: str
    # Since it ended; 0 while it runs.
    ended_s: float
    # The ids it was started under: what is done for it later is done under them.
    context: Context = NO_CONTEXT


@dataclass(frozen=True)
class Rules:
    """How long things may take."""

    # Without a word from the builder.
    lease_s: float = 30.0
    # Past its own deadline, which it keeps itself when it can.
    overtime_s: float = 10.0
    # From a cancel until the builder is told by a signal, and until it is killed.
    terminate_s: float = 2.5
    kill_s: float = 4.0
    # Until a builder has been started.
    launch_s: float = 60.0
    # Until one that was started begins.
    begin_s: float = 300.0
    # For a builder to leave by itself once its outcome is stored.
    leave_s: float = 2.0


@dataclass(frozen=True)
class Launch:
    """Start a builder."""

    ref: Ref


@dataclass(frozen=True)
class Terminate:
    """Ask the builder's process to stop."""

    ref: Ref
    process: Process


@dataclass(frozen=True)
class Stop:
    """End every process of the attempt."""

    ref: Ref
    process: Process | None


@dataclass(frozen=True)
class Fail:
    """Record that the attempt has failed, unless it has ended meanwhile."""

    ref: Ref
    cause: Cause
    reason: str


@dataclass(frozen=True)
class CleanUp:
    """Remove the attempt's files, and record that nothing is left."""

    ref: Ref


Instruction = Launch | Terminate | Stop | Fail | CleanUp
