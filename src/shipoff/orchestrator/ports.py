"""What the orchestrator needs from outside."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from shipoff.orchestrator.admission import Queue, QueueEntry, Turns
from shipoff.orchestrator.domain import Deployment, Event, Instruction, Reserved, Resources, State
from shipoff.orchestrator.records import Held, History, NewDeployment, Record, Task, Used


class Work(Protocol):
    """One transaction on the stored deployments."""

    async def prepare(
        self, deployment_ids: Collection[str] = (), *, new: Sequence[NewDeployment] = (), replacing: bool = False
    ) -> None:
        """Stores and locks all of these at once, so that `insert` and `locked` find them at hand.

        With `replacing`, also what serves in their places, for `production`.
        """

    async def insert(self, new: NewDeployment) -> Deployment | None:
        """Stores a queued deployment under the project's next number; None when its id is known already."""

    async def locked(self, deployment_id: str) -> Deployment | None:
        """The deployment, locked until the transaction ends."""

    async def locked_now(self, deployment_ids: Sequence[str]) -> Mapping[str, Deployment]:
        """Those of them that nobody else has locked, locked."""

    async def production(self, project_id: str, environment: str) -> Deployment | None:
        """What serves, locked."""

    async def older_on_the_way(self, deployment: Deployment) -> Sequence[Deployment]:
        """Queued and building deployments of the same environment that were accepted before this one, locked."""

    async def newer_number(self, deployment: Deployment) -> int | None:
        """The number of the newest deployment of the same environment that was accepted after this one and has not failed."""

    async def baked(self, deployment: Deployment) -> bool:
        """Whether it has served for its bake time."""

    async def newer_under_way(self, deployment: Deployment) -> bool:
        """Whether a deployment of the same environment that was accepted after this one is queued, built or put up."""

    async def broken(self, project_id: str, environment: str) -> Deployment | None:
        """What serves, not locked, if it broke and waits for what takes its place."""

    async def put_back(self, deployment: Deployment) -> tuple[int, NewDeployment] | None:
        """What puts back the newest kept release that served before this one and did not break, with its number.

        None where there is none. Releases that served for the bake time come before those that were replaced earlier.
        """

    async def lock_numbers(self, project_id: str) -> None:
        """Until the transaction ends the project's next number is ours: whoever has a lower one is stored."""

    async def of_project(self, project_id: str) -> Sequence[Deployment]:
        """Every deployment of the project that is not at its end, locked."""

    async def save(self, before: Deployment, after: Deployment, *, actor: str) -> None:
        """A decision: compare-and-set on the version, the transition, its event, the deadline, the reservation.

        Written with all others of the transaction, which raises Aborted when somebody else was faster.
        """

    async def instruct(self, deployment: Deployment, instruction: Instruction) -> None:
        """Stores what has to be done, unless the same is waiting already."""

    async def finish(self, tasks: Sequence[Task]) -> Mapping[int, State]:
        """Removes performed instructions: the deployment's state for each, but for those that somebody else holds by now."""

    async def reserve(self, deployment: Deployment, needs: Resources) -> None:
        """Takes the needs out of the budget."""

    @property
    def has_accepted(self) -> bool:
        """Whether something new waits for a slot."""

    async def lock_admission(self, *, wait: bool = True) -> Reserved | None:
        """The budget, with admission locked for everybody else; None where somebody else has it, and is not waited for."""

    async def waiting(self) -> tuple[Sequence[QueueEntry], Turns]:
        """What waits for a slot, oldest first, and how far its teams have come."""

    async def take_turns(self, now: Turns, team_ids: Sequence[str]) -> None:
        """Stores what these teams' turns have made of the turns."""

    async def record_usage(self, deployment: Deployment, used: Used, *, succeeded: bool) -> None:
        """Keeps what the deployment's present attempt used."""

    async def resize(self, deployment: Deployment, replicas: int) -> None:
        """Reserves for so many instances instead. Raises PreconditionFailed when there is no room for them."""

    async def release(self, deployment: Deployment) -> None:
        """Reserves nothing for it any more."""

    async def next_fence(self, deployment: Deployment, *, call_off: bool = False) -> int:
        """A new fencing token for the environment's route; `call_off` lets it beat this very deployment's."""


class Store(Protocol):
    """The stored deployments."""

    def begin(self) -> AbstractAsyncContextManager[Work]:
        """A transaction: everything in the block happens, or nothing."""

    async def record(self, deployment_id: str) -> Record | None:
        """A deployment with its facts."""

    async def history(self, deployment_id: str) -> History | None:
        """Likewise, with what became of it."""

    async def page(
        self, project_id: str, *, environment: str, states: Sequence[State], number: int, before: int, limit: int
    ) -> Sequence[Record]:
        """Deployments of a project, newest first; with `before`, only numbers below it."""

    async def serving(self, project_id: str, environment: str) -> Record | None:
        """What is in PRODUCTION."""

    async def queue(self) -> Queue:
        """What waits and what builds, and the budget."""

    async def is_waited(self) -> bool:
        """Whether anything waits for a slot."""

    async def claim(self, *, limit: int, lease_s: float) -> Sequence[Held]:
        """Takes due instructions for this process for a while."""

    async def renew(self, tasks: Sequence[Task], lease_s: float) -> None:
        """Holds on to those instructions that are still this process's."""

    async def put_off(self, task: Task, delay_s: float) -> None:
        """Gives an instruction back, to be tried again after a while."""

    async def overdue(self) -> Sequence[tuple[str, float]]:
        """Deployments past their deadline, with the limit in seconds."""

    async def unchecked(self, *, idle_s: float, limit: int) -> Sequence[Deployment]:
        """Building and provisioning deployments nobody has looked after for `idle_s`; marks them as looked after."""

    async def expire_releases(self, keep: int) -> int:
        """Lets go of artifacts beyond the newest `keep` of each environment; how many."""


class Outside(Protocol):
    """The other services, as far as an instruction needs them."""

    async def start_build(self, record: Record, *, limits: Resources, timeout_s: int) -> None:
        """Starts the record's attempt."""

    async def cancel_build(self, deployment_id: str, attempt: int) -> None:
        """Stops an attempt."""

    async def publish(self, record: Record) -> None:
        """Unpacks a static release at the edge."""

    async def apply_workload(self, record: Record) -> None:
        """Stores what shall run."""

    async def pause_workload(self, deployment_id: str, *, paused: bool) -> None:
        """Has its instances rest, or run again."""

    async def scale_workload(self, deployment_id: str, replicas: int) -> None:
        """Wants so many instances of it. Raises NotFound."""

    async def stop_workload(self, deployment_id: str) -> None:
        """Wants it gone."""

    async def set_route(self, record: Record, fence: int) -> None:
        """Points the environment at the deployment. Raises Aborted when a higher fence stands."""

    async def remove_route(self, deployment: Deployment) -> None:
        """Takes the environment off the edge."""

    async def build_outcome(self, deployment: Deployment) -> Event | None:
        """The domain event that an attempt amounts to by now; None while it runs. Raises NotFound when it is unknown."""

    async def workload_outcome(self, deployment: Deployment) -> Event | None:
        """The domain event that a workload amounts to by now; None while it starts. Raises NotFound when it is unknown."""
