"""What containers write, as the small API tells it: by pod and run, each line with its time; old ones may be rotated away."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

_NS = 1_000_000_000


@dataclass
class Run:
    """One run of a container."""

    lines: list[tuple[int, str]] = field(default_factory=list)
    over: bool = False


@dataclass
class LogBook:
    """Every pod's runs."""

    runs: defaultdict[str, list[Run]] = field(default_factory=lambda: defaultdict(lambda: [Run()]))
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    # (pod, sinceTime) of every time that one was asked for.
    asked: list[tuple[str, str]] = field(default_factory=list)

    def write(self, pod: str, *texts: str, at_ns: int = 0) -> None:
        """Adds lines, now or at a time."""
        self.runs[pod][-1].lines += [(at_ns or time.time_ns(), text) for text in texts]
        self._tell()

    def end_run(self, pod: str) -> None:
        """The container ended, and starts anew with the next line."""
        self.runs[pod][-1].over = True
        self.runs[pod].append(Run())
        self._tell()

    def rotate(self, pod: str, *, kept: int) -> None:
        """Of what was written the last lines alone can still be had."""
        run = self.runs[pod][-1]
        run.lines = run.lines[len(run.lines) - kept :]

    def _tell(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def told(self, pod: str, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        """The answer's body, in small pieces."""
        self.asked.append((pod, query.get("sinceTime", "")))
        runs = self.runs[pod]
        run = runs[-2] if "previous" in query else runs[-1]
        since = datetime.fromisoformat(query["sinceTime"]) if "sinceTime" in query else datetime.fromtimestamp(0, UTC)
        after_ns = int(since.timestamp()) * _NS
        at = 0
        while True:
            for at_ns, text in run.lines[at:]:
                if at_ns >= after_ns:
                    data = f"{_stamped(at_ns)} {text}\n".encode()
                    yield data[:20]
                    yield data[20:]
            at = len(run.lines)
            if "follow" not in query or run.over:
                return
            await self.changed.wait()


def _stamped(at_ns: int) -> str:
    """As kubelets write it: nanoseconds without the zeros at their end."""
    text = datetime.fromtimestamp(at_ns // _NS, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f"{at_ns % _NS:09}".rstrip("0")
    return f"{text}.{fraction}Z" if fraction else f"{text}Z"
