"""What the runtime needs from outside: where it keeps its state, and what runs the instances."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from shipoff.runtime.domain import Emission, Instance, InstanceKey, Observed, Workload
from shipoff.runtime.executions import Command, Exited, Output
from shipoff.runtime.schedules import ScheduleRun

Stored = tuple[Workload, tuple[Instance, ...]]


class Store(Protocol):
    """Workloads and their instances, durable."""

    async def insert(self, workload: Workload) -> bool:
        """Stores a new workload; False, and nothing changed, when the deployment has one."""
        ...

    async def load(self, deployment_id: str) -> Stored | None:
        """The workload with its instances, None when it is unknown."""
        ...

    async def save(
        self, workload: Workload, instances: Sequence[Instance] | None = None, *, emissions: Sequence[Emission] = ()
    ) -> Workload:
        """Stores the state and the events in one transaction; the workload with its new version.

        `instances` None leaves them as they are. Raises Aborted when the stored version is not the workload's, and
        AlreadyExists when another live instance has one of the ports.
        """
        ...

    async def unsettled(self) -> Mapping[str, int]:
        """Deployment id → version of every workload that may have something to do."""
        ...

    async def live_ports(self) -> Collection[int]:
        """The ports that instances have now."""
        ...

    async def forget_settled(self, *, older_than_s: float) -> None:
        """Removes workloads that have been stopped or failed for that long."""
        ...


@dataclass(frozen=True)
class Capacity:
    """What instances may reserve in all."""

    cpu_millis: int
    memory_bytes: int


class Driver(Protocol):
    """Runs instances: as processes of this machine, or as pods of a cluster.

    Every method may be called again after a crash at any point and then leads to the same end. Temporary trouble is raised
    as TemporaryError; what can never work as PermanentError with a message for the user.
    """

    async def place(self, instance: Instance, *, taken: Collection[int]) -> Instance:
        """The instance with the host and port it will listen on. Raises Exhausted when there is no room."""
        ...

    async def start(self, workload: Workload, instance: Instance) -> None:
        """Starts this run, with whatever has to be there before; nothing when it runs or has run already."""
        ...

    async def arrange(self, workload: Workload) -> None:
        """Brings what surrounds its instances in line with what is wanted, their number included."""
        ...

    async def switch(self, workload: Workload) -> None:
        """Leads the environment's requests to it; those under way at the release before end there."""
        ...

    async def terminate(self, key: InstanceKey) -> None:
        """Asks the run to end; nothing when it has."""
        ...

    async def kill(self, key: InstanceKey) -> None:
        """Ends the run with everything it started."""
        ...

    async def observe(self, workload: Workload, instances: Sequence[Instance], *, probe: Collection[InstanceKey]) -> Observed:
        """What is there of the workload; answers to a probe for those that are to be probed."""
        ...

    async def remove(self, deployment_id: str) -> None:
        """Removes whatever is left of a workload whose instances are gone."""
        ...

    def following(self) -> AbstractAsyncContextManager[object]:
        """Whoever brings about what is wanted follows meanwhile what there is."""
        ...

    async def running(self) -> Collection[InstanceKey]:
        """Every run that is there, wanted or not."""
        ...

    async def capacity(self) -> Capacity | None:
        """What instances may reserve in all; None: they share the machine of whoever asks."""
        ...


class Schedules(Protocol):
    """What became of the schedules of a workload's environment."""

    async def runs(self, workload: Workload) -> Mapping[str, ScheduleRun]:
        """By name, those that have been seen."""
        ...


class ScheduleStore(Schedules, Protocol):
    """Where a scheduler keeps how far it is, by project, environment and name."""

    async def scheduled(self) -> Sequence[Workload]:
        """The workloads with schedules that are live: ready once, wanted, not paused, the newest of their environment."""
        ...

    async def begin(self, workload: Workload, name: str, *, now: float) -> None:
        """Sees a schedule for the first time: what came before does not count."""
        ...

    async def claim(self, workload: Workload, name: str, *, seen_at: float, now: float, runs: bool) -> bool:
        """Deals with every time until now; with `runs` by a run that begins. False when somebody else has."""
        ...

    async def ended(self, workload: Workload, name: str, outcome: str) -> None:
        """Its run ended so."""
        ...

    async def runs_were_lost(self) -> None:
        """Nothing of what was running is any more."""
        ...


class ScheduleLogs(Protocol):
    """Where what scheduled commands write goes: to the app's log."""

    def opened(self, workload: Workload, name: str, number: int) -> AbstractContextManager[Callable[[str, bytes], None]]:
        """Takes what a run writes, by channel. `number` tells it from every other run of its schedule."""
        ...


class Running(Protocol):
    """A command that was started."""

    def events(self) -> AsyncGenerator[Output | Exited, None]:
        """What it writes as it comes, and at last how it ended. Whoever does not read holds it up."""
        ...

    async def write(self, data: bytes) -> None:
        """Gives it input; none: its input ends. Nothing where it reads none, or has ended."""
        ...

    async def interrupt(self) -> None:
        """Asks it to end, as Ctrl-C does."""
        ...

    async def end(self, reason: str) -> None:
        """Ends it for this reason."""
        ...


class Runner(Protocol):
    """Runs commands in releases, as processes of this machine or as pods of a cluster."""

    def running(self, workload: Workload, command: Command, instance: Instance | None) -> AbstractAsyncContextManager[Running]:
        """The command, started; in the instance, where one is given. Nothing of it is left when the block is left.

        Raises TemporaryError, and PermanentError with a message for the user when it can never be started.
        """
        ...
