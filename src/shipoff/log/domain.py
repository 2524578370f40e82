"""What the log service keeps: chunks of lines, and how far each producer's stream has arrived."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Owner:
    """Whose lines a deployment's are."""

    project_id: str
    team_id: str


@dataclass(frozen=True)
class Hole:
    """Sequence numbers of a stream, both ends included, that have not arrived while later ones have."""

    first: int
    last: int
    noticed_at: datetime
    # A line of the platform's has told it.
    reported: bool = False

    @property
    def count(self) -> int:
        """How many lines are missing."""
        return self.last - self.first + 1


@dataclass(frozen=True)
class Progress:
    """How far one producer's stream has arrived: everything up to `high` except the holes."""

    high: int = 0
    holes: tuple[Hole, ...] = ()


@dataclass(frozen=True)
class StreamKey:
    """Names one producer's run within a deployment."""

    deployment_id: str
    stream_id: str


# Compared by identity: a chunk is fanned out to many readers, and its decoded lines are remembered by it.
@dataclass(frozen=True, eq=False)
class Chunk:
    """Consecutive lines of one source and instance, compressed."""

    deployment_id: str
    first_position: int
    last_position: int
    # shipoff.types.v1.LogSource
    source: int
    instance: int
    # When the platform received them; the producers' own times are in the lines.
    received_at: datetime
    first_time: datetime
    last_time: datetime
    payload: bytes

    @property
    def count(self) -> int:
        """How many lines it holds."""
        return self.last_position - self.first_position + 1


@dataclass(frozen=True)
class Query:
    """Which lines somebody asks for."""

    deployment_id: str
    # Empty: every source.
    sources: frozenset[int] = frozenset()
    # Only lines after this position.
    after: int = 0
    # Only lines before this position; 0: no such limit.
    before: int = 0
    # The newest `limit` lines instead of the oldest.
    tail: bool = False
    limit: int = 1000

    def wants(self, source: int) -> bool:
        """Whether lines of this source are asked for."""
        return not self.sources or source in self.sources
