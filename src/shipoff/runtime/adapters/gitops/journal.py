"""The GitOps repository as the drivers of the cluster use it: what its folders hold, as last seen, and commits to them.

Looking costs no call to a server; committing does, one at a time. While the repository is away every commit fails at once
with the reason, and it is asked again only after a pause, so that nothing waits for it that need not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog

from shipoff.common.errors import TemporaryError, Unavailable
from shipoff.common.lifecycle import looping
from shipoff.runtime.adapters.gitops.repository import Repository
from shipoff.runtime.adapters.gitops.sealing import Seal
from shipoff.runtime.manifests.folder import Change, Held, read_all

# How often it is looked whether somebody else has committed.
_REFRESH_S = 30.0
# What was seen so lately counts as seen now.
_FRESH_S = 5.0
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0

log = structlog.get_logger()


@dataclass
class _Seen:
    """A project's files, and when they were known to be so (of the loop's clock)."""

    held: Mapping[str, Held]
    at: float


@dataclass
class Journal:
    """One branch of one repository; `folder` of it is the platform's."""

    repository: Repository
    seal: Seal
    folder: str
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    # The branch's commit; None: nobody has managed to look yet.
    _head: str | None = None
    _pause_s: float = 0.0
    _closed_until: float = 0.0
    _reason: str = ""

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Notices others' commits beside the block."""
        await self._refresh()
        async with looping("look for commits of others", self._refresh, every_s=_REFRESH_S):
            yield

    async def held(self, project: str) -> Mapping[str, Held] | None:
        """What a project's folder holds, by path, as last seen; None: nobody knows."""
        if project not in self._seen and self._head is not None:
            head, now = self._head, _now()
            _, files = await asyncio.to_thread(self.repository.read, f"{self.folder}/{project}")
            if head == self._head:
                self._seen.setdefault(project, _Seen(read_all(files), now))
        seen = self._seen.get(project)
        return seen.held if seen else None

    def is_fresh(self, project: str) -> bool:
        """Whether what was last seen of it is so now."""
        seen = self._seen.get(project)
        return seen is not None and _now() - seen.at < _FRESH_S

    async def commit(self, project: str, change: Change, message: str) -> str:
        """Changes a project's folder; the branch's commit then. Raises TemporaryError."""
        async with self._lock:
            self._require_open()
            try:
                made = await asyncio.to_thread(self.repository.commit, f"{self.folder}/{project}", change, message)
            except TemporaryError as error:
                self._shut(error)
                raise
            self._reopen()
            if made.before != self._head:
                self._seen.clear()
            self._head = made.commit
            self._seen[project] = _Seen(read_all(made.files), _now())
        if made.commit != made.before:
            log.info("desired state committed", project=project, commit=made.commit, subject=message.partition("\n")[0])
        return made.commit

    @property
    def head(self) -> str:
        """The branch's commit as last seen."""
        return self._head or ""

    async def _refresh(self) -> None:
        async with self._lock:
            if _now() < self._closed_until:
                return
            try:
                head = await asyncio.to_thread(self.repository.refresh)
            except TemporaryError as error:
                self._shut(error)
                return
            self._reopen()
            if head != self._head:
                self._seen.clear()
            self._head = head

    def _require_open(self) -> None:
        if _now() < self._closed_until:
            raise Unavailable(self._reason, retry_after_s=self._closed_until - _now())

    def _shut(self, error: TemporaryError) -> None:
        self._pause_s = min(self._pause_s * 2 or _FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        self._closed_until = _now() + self._pause_s
        self._reason = error.message
        log.warning("nothing can be committed", error=error.message, retry_s=self._pause_s)

    def _reopen(self) -> None:
        self._pause_s = self._closed_until = 0.0


def _now() -> float:
    return asyncio.get_running_loop().time()
