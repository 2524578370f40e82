"""What the worker needs from outside."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from shipoff.worker.domain import Claim, Hook, NewHook, Outcome, Removal, Transition
from shipoff.worker.transitions import Verdict


class Hooks(Protocol):
    """The stored hooks."""

    async def add(self, hook: NewHook, *, at_most: int) -> Hook:
        """Stores a hook. Raises PreconditionFailed when the project has `at_most` of them."""
        ...

    async def of_project(self, project_id: str) -> list[Hook]:
        """A project's hooks, oldest first."""
        ...

    async def remove(self, project_id: str, hook_id: str) -> None:
        """Removes a hook with its deliveries. Raises NotFound."""
        ...


class Recording(Protocol):
    """What an event's transaction writes."""

    async def add_deliveries(self, transition: Transition) -> None:
        """One delivery to each hook of the project; nothing where the event has one already."""
        ...

    async def add_removal(self, object_key: str, expired_at: datetime) -> None:
        """An object to be removed; where that is noted already, the later time counts."""
        ...


class Deliveries(Protocol):
    """Deliveries that are due, under leases."""

    async def claim(self, limit: int) -> list[Claim]:
        """The oldest due delivery of up to `limit` hooks that nobody works on; this counts as a try."""
        ...

    async def record(self, claim: Claim, verdict: Verdict) -> bool:
        """Writes down what became of it and gives the hook free; False when the lease was lost and nothing was written."""
        ...


class Removals(Protocol):
    """Objects to be removed."""

    async def due_removals(self, limit: int) -> list[Removal]:
        """Those that are due; this counts as a try, and they are due again later unless they are done."""
        ...

    async def settled(self, object_key: str) -> None:
        """Nothing is left to do about it."""
        ...


class Sender(Protocol):
    """The way to a hook's address."""

    async def check(self, url: str) -> None:
        """Raises InvalidInput when nothing may be sent there."""
        ...

    async def send(self, url: str, body: bytes, headers: dict[str, str]) -> Outcome:
        """Sends once, within ten seconds, to an address that was checked. Raises nothing for a failed try."""
        ...


class Objects(Protocol):
    """The object store."""

    async def changed_at(self, key: str) -> datetime:
        """When the object was stored last. Raises NotFound, TemporaryError."""
        ...

    async def delete(self, key: str) -> None:
        """Removes an object; fine when there is none. Raises TemporaryError."""
        ...


class Seal(Protocol):
    """Seals hooks' secrets."""

    def seal(self, plain: bytes) -> bytes:
        """Sealed bytes."""
        ...

    def open(self, sealed: bytes) -> bytes:
        """What was sealed. Raises DataLoss."""
        ...
