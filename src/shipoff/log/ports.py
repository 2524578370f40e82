"""What the log service needs from outside: a place for chunks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from shipoff.log.domain import Chunk, Hole, Owner, Progress, Query, StreamKey


@dataclass(frozen=True)
class DueHole:
    """A hole that has waited long enough to be reported."""

    stream: StreamKey
    instance: int
    hole: Hole


class Writing(Protocol):
    """One transaction that appends lines. Nobody else appends to its deployments until it ends."""

    async def lock(self, owners: Mapping[str, Owner]) -> dict[str, int]:
        """The last position of each of these deployments, which are made where they are new."""

    async def progress(self, streams: Iterable[StreamKey]) -> dict[StreamKey, Progress]:
        """How far these streams have arrived."""

    async def due_holes(self, deployment_id: str, *, noticed_before: datetime) -> list[DueHole]:
        """The deployment's holes that are to be reported."""

    async def append(self, chunks: Sequence[Chunk]) -> None:
        """Adds chunks, which follow each deployment's last position."""

    async def save_progress(
        self, before: Mapping[StreamKey, Progress], after: Mapping[StreamKey, Progress], instances: Mapping[StreamKey, int]
    ) -> None:
        """Records how far the streams have arrived."""

    async def mark_reported(self, hole: DueHole) -> None:
        """Records that a line tells of this hole."""


class Chunks(Protocol):
    """The stored chunks."""

    def writing(self) -> AbstractAsyncContextManager[Writing]:
        """Everything in the block is stored, or nothing."""

    async def read(self, query: Query, *, chunks: int) -> list[Chunk]:
        """Up to so many chunks with wanted lines, in the order of their positions (newest first for a tail)."""

    async def last_positions(self, deployment_ids: Iterable[str]) -> dict[str, int]:
        """The last position of each of these deployments that has any."""

    async def deployments_with_due_holes(self, *, noticed_before: datetime) -> list[str]:
        """Deployments with holes to report."""

    async def delete_before(self, received_before: datetime) -> int:
        """Removes chunks received before; the number removed."""

    async def delete_beyond(self, lines: int) -> int:
        """Keeps only about so many of each deployment's newest lines; the number of chunks removed."""

    async def forget_streams(self, idle_since: datetime) -> int:
        """Forgets producers that have sent nothing since; the number forgotten."""
