"""What the cdn needs from outside: its table, the release folders, and the edge."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from shipoff.cdn.domain import Release, Route, Standing


class Changing(Protocol):
    """One environment's route in a transaction; nobody else changes it until that ends."""

    standing: Standing | None

    async def store(self, route: Route) -> None:
        """Replaces the route. Raises AlreadyExists when a host belongs to another environment."""

    async def remove(self) -> None:
        """Takes the route away; its fence stays."""


class Table(Protocol):
    """The routing table and the register of releases."""

    def changing(self, project_id: str, environment: str) -> AbstractAsyncContextManager[Changing]:
        """Locks an environment."""

    def reading_alone(self) -> AbstractAsyncContextManager[list[Route]]:
        """Every route; no other process is in such a block at the same time."""

    async def routes(self, project_id: str = "") -> list[Route]:
        """The routes of a project, or all."""

    async def release(self, deployment_id: str) -> Release | None:
        """The published release, or None."""

    async def releases(self, deployment_ids: Collection[str]) -> list[Release]:
        """Those of these that are published."""

    async def add_release(self, release: Release) -> None:
        """Records a published release; the same again does nothing."""

    async def expired_releases(self) -> list[str]:
        """Releases that are kept no longer and that no route points at."""

    async def forget_release(self, deployment_id: str) -> None:
        """Removes the record."""


class Releases(Protocol):
    """The release folders."""

    async def publish(self, release: Release) -> None:
        """Makes the folder from the archive, whole or not at all.

        Raises InvalidInput when the archive holds what cannot be served safely, DataLoss when it is not what its digest says,
        NotFound, Unavailable, Exhausted.
        """

    async def exists(self, deployment_id: str) -> bool:
        """Whether the folder is there."""

    async def remove(self, deployment_id: str) -> None:
        """Removes the folder; fine when there is none."""

    async def clean(self) -> None:
        """Removes what interrupted work left."""


class Edge(Protocol):
    """The server that browsers talk to."""

    async def apply(self, routes: Sequence[Route]) -> None:
        """Makes the edge serve exactly these. Raises Unavailable when it does not answer."""

    async def intact(self) -> bool:
        """Whether it serves what was applied last, if anything was. Raises Unavailable when it does not answer."""
