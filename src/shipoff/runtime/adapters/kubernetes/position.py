"""How far a pod's output has been sent, told by the cluster's own timestamps: pure.

The API server gives a container's lines from a whole second on, in the order in which they were written, which is nearly that
of their times. So a position is a second and how many lines since then are done: whoever comes after a crash asks from that
second on, passes over so many, and numbers what follows as it was numbered before.
https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#get-read-log-of-the-specified-pod
"""

from __future__ import annotations

from dataclasses import dataclass, replace

UP_TO_NEWEST = -1
_NS = 1_000_000_000


@dataclass(frozen=True)
class Position:
    """Before the next line of a pod."""

    # Under which lines are numbered.
    deployment_id: str = ""
    sequence: int = 0
    # Runs of the pod's container that ended before this one, and whether this one has been read to its end.
    run: int = 0
    complete: bool = False
    # Lines are asked for from this second on (0: from the first); the lines since that are done, before a later one. With
    # `UP_TO_NEWEST` nobody has counted: all are done that are no newer than the newest.
    since: int = 0
    seen: int = 0
    # The latest second of which lines are done, and how many of them.
    latest: int = 0
    latest_seen: int = 0
    newest_ns: int = 0

    def numbered_under(self, deployment_id: str) -> Position:
        """Numbers begin anew with each deployment that has the pod."""
        return self if self.deployment_id == deployment_id else replace(self, deployment_id=deployment_id, sequence=0)

    def after(self, at_ns: int, *, lines: int = 1) -> Position:
        """When a line of the container's is done, which was sent as so many."""
        second, since, seen, latest, latest_seen = at_ns // _NS, self.since, self.seen, self.latest, self.latest_seen
        if second > latest:
            since, seen, latest, latest_seen = latest, latest_seen, second, 1
        elif second == latest:
            latest_seen += 1
        elif second >= since and seen != UP_TO_NEWEST:
            seen += 1
        return replace(
            self, sequence=self.sequence + lines, since=since, seen=seen, latest=latest, latest_seen=latest_seen,
            newest_ns=max(self.newest_ns, at_ns),
        )  # fmt: skip

    def told(self) -> Position:
        """When a line of the platform's own was sent in between."""
        return replace(self, sequence=self.sequence + 1)

    def at_run(self, run: int, *, began_ns: int = 0) -> Position:
        """At another run of the container: at its beginning, unless its lines came before the news that it began."""
        if 0 < began_ns <= self.newest_ns:
            second = began_ns // _NS
            return replace(self, run=run, complete=False, since=second, seen=UP_TO_NEWEST, latest=second, latest_seen=0)
        return Position(self.deployment_id, self.sequence, run)


class Resumption:
    """Passes over what is done when lines are asked for again."""

    def __init__(self, position: Position) -> None:
        self._since_ns = position.since * _NS
        self._counted = position.seen != UP_TO_NEWEST
        self._left = position.seen + position.latest_seen
        self._newest_ns = position.newest_ns
        self._passed_over = False

    def is_new(self, at_ns: int) -> bool:
        """Whether a line is still to be sent."""
        if not self._counted:
            return at_ns > self._newest_ns
        if self._left == 0:
            return True
        if at_ns < self._since_ns:
            return False
        if at_ns > self._newest_ns:
            return True
        self._left -= 1
        self._passed_over = True
        return False

    def lost_some(self, at_ns: int) -> bool:
        """Whether lines before this new one may have been rotated away: none of those that are done is there any more.

        True once.
        """
        lost = self._counted and self._left > 0 and not self._passed_over and at_ns > self._newest_ns
        if at_ns > self._newest_ns:
            self._left = 0
        return lost
