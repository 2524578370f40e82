"""Turns buildx's `--progress=rawjson` into log lines, and knows what failed. Pure but for what it remembers.

The stream is BuildKit's SolveStatus, one JSON object a line (github.com/moby/buildkit, client/graph.go): vertexes with their
state, and logs in base64 by vertex.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shipoff.builder.lines import LineSplitter
from shipoff.builder.masking import Masker

_CHANNELS = {1: "stdout", 2: "stderr"}
_STAGE = re.compile(r"\[(?:(linux/\S+) )?(?:([\w.-]+) )?\s*(\d+)/\d+\] (.*)", re.DOTALL)
_EXIT = re.compile(r"did not complete successfully: exit code: (\d+)")
# What BuildKit does to bring an image here.
_QUIET = ("[internal]", "resolve ", "docker-image://", "importing ", "[auth]")
_SHOWN = 400


@dataclass(frozen=True)
class Line:
    """A line for the log; without a channel it is the platform's own."""

    text: str
    channel: str = ""


@dataclass(frozen=True)
class Failure:
    """What went wrong: the stage, the command as a person would type it, its exit code (None: another kind of error)."""

    stage: str
    shown: str
    code: int | None
    message: str
    # It is an instruction of the file, and nothing that BuildKit does by itself.
    instruction: bool = False


@dataclass
class _Vertex:
    stage: str
    shown: str
    hidden: bool
    instruction: bool = False
    announced: bool = False
    cached: bool = False


class Progress:
    """One build's progress."""

    def __init__(self, masker: Masker, steps: Mapping[str, str], shown: Mapping[tuple[str, int], str] | None) -> None:
        self._masker = masker
        self._steps = steps
        self._shown = shown
        self._vertexes: dict[str, _Vertex] = {}
        self._splitters: dict[tuple[str, str], LineSplitter] = {}
        self._words: list[str] = []
        self.failure: Failure | None = None
        # The plan's step that runs, or the stage.
        self.step = ""

    @property
    def words(self) -> str:
        """What buildx said outside its progress: an error's last lines."""
        return self._masker.mask(" ".join(self._words[-5:]))

    @property
    def said(self) -> list[str]:
        """Everything that buildx said outside its progress, line by line."""
        return [self._masker.mask(line) for line in self._words]

    def feed(self, raw: bytes) -> list[Line]:
        """The log's lines that a line of the stream makes."""
        try:
            status: Any = json.loads(raw)
        except ValueError:
            status = None
        if not isinstance(status, dict):
            if text := raw.decode(errors="replace").strip():
                self._words.append(text[:2000])
            return []
        lines = [line for vertex in status.get("vertexes") or () for line in self._see(vertex)]
        return lines + [line for log in status.get("logs") or () for line in self._read(log)]

    def end(self) -> list[Line]:
        """What is left when the stream ends within a line."""
        return [Line(text, channel) for (_, channel), splitter in self._splitters.items() for text in splitter.end()]

    def _see(self, status: Mapping[str, Any]) -> Iterator[Line]:
        digest, error = str(status.get("digest", "")), str(status.get("error") or "")
        vertex = self._vertexes.setdefault(digest, _vertex(str(status.get("name", "")), self._shown))
        if status.get("cached") and not vertex.cached and not vertex.hidden:
            vertex.cached = vertex.announced = True
            yield self._own(f"  cached: {vertex.shown}")
        elif status.get("started") and not vertex.announced and not vertex.hidden:
            vertex.announced = True
            self.step = self._steps.get(vertex.stage, vertex.stage) or "image"
            yield self._own(f"▸ {self.step}: {vertex.shown}")
        # Everything that was under way is cancelled when one fails.
        if error and self.failure is None and "context canceled" not in error:
            code = _EXIT.search(error)
            number = int(code[1]) if code else None
            message = self._masker.mask(error[-_SHOWN:])
            self.failure = Failure(vertex.stage, vertex.shown, number, message, instruction=vertex.instruction)

    def _own(self, text: str) -> Line:
        return Line(self._masker.mask(text))

    def _read(self, log: Mapping[str, Any]) -> Iterator[Line]:
        channel = _CHANNELS.get(log.get("stream", 1), "stdout")
        splitter = self._splitters.setdefault((str(log.get("vertex", "")), channel), LineSplitter(self._masker))
        try:
            data = base64.b64decode(log.get("data") or "")
        except (binascii.Error, TypeError):
            return
        yield from (Line(text, channel) for text in splitter.feed(data))


def _vertex(name: str, shown: Mapping[tuple[str, int], str] | None) -> _Vertex:
    """`shown`: the commands of a generated Dockerfile, of which nothing else is worth a line; None: the file is the user's."""
    match = _STAGE.fullmatch(name)
    if not match:
        quiet = not name or name.startswith("[internal]" if shown is None else _QUIET)
        return _Vertex("", name[:_SHOWN], hidden=quiet)
    platform, stage, number, instruction = match[1], match[2] or "", int(match[3]), match[4]
    known = (shown or {}).get((stage, number))
    command = (known or instruction)[:_SHOWN]
    hidden = instruction.startswith("WORKDIR") if shown is None else known is None
    return _Vertex(stage, f"{command} ({platform})" if platform else command, hidden=hidden, instruction=True)
