"""What a person sees of a start: each step with what it took, on this terminal or relayed from a detached process."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import IO

from rich.console import Console
from rich.status import Status

from shipoff.cli.errors import ExitCode, Failure
from shipoff.cli.output import Output, error_line
from shipoff.common.errors import InvalidInput, ShipoffError

_STDERR = 2


@dataclass(frozen=True)
class Event:
    """`kind`: begun, done, skipped or failed for a step; said; at the end live or refused."""

    kind: str
    text: str
    # Of a step; of what was refused, the remedy.
    note: str = ""
    took_s: float = 0.0
    # Of what is live: the platform's, and the sample app's where it serves.
    url: str = ""
    app_url: str = ""
    # Of what was refused: what was wrong, and what the program ends with.
    field: str = ""
    code: int = ExitCode.REFUSED


Sink = Callable[[Event], None]


class Step:
    """A step under way; `note` is shown behind it, a skipped one did not work but is not needed."""

    def __init__(self) -> None:
        self.note = ""
        self.skipped = False


class Report:
    """Tells a sink what happens."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._started = time.monotonic()

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Shows the step while it lasts, then that it is done; what the block raises passes."""
        started, step = time.monotonic(), Step()
        self._sink(Event("begun", title))
        try:
            yield step
        except BaseException:
            self._sink(Event("failed", title, took_s=time.monotonic() - started))
            raise
        self._sink(Event("skipped" if step.skipped else "done", title, step.note, time.monotonic() - started))

    def say(self, text: str) -> None:
        """A line for the person."""
        self._sink(Event("said", text))

    def refused(self, failure: Failure) -> None:
        """The start is over: why it failed, and what to do."""
        self._sink(Event("refused", failure.message, note=failure.remedy, field=failure.field, code=int(failure.code)))

    def live(self, text: str, *, url: str, app_url: str) -> None:
        """The start is over: everything runs."""
        self._sink(Event("live", text, took_s=time.monotonic() - self._started, url=url, app_url=app_url))


class Terminal:
    """Draws events; a spinner where the terminal can."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None

    def __call__(self, event: Event) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None
        if event.kind == "begun":
            if self._console.is_terminal:
                self._status = self._console.status(f" {event.text} …", spinner="dots")
                self._status.start()
            return
        self._console.print(*self._line(event), highlight=False, soft_wrap=True, markup=False)

    @staticmethod
    def _line(event: Event) -> tuple[str, ...]:
        if event.kind in ("done", "skipped", "failed"):
            mark = {"done": "✓", "skipped": "-", "failed": "✗"}[event.kind]
            return (f"{mark} {event.text:<16} {event.took_s:6.1f} s  {event.note}".rstrip(),)
        if event.kind == "refused":
            return (f"\n{event.text}\n→ {event.note}" if event.note else f"\n{event.text}",)
        if event.kind == "live":
            return (f"\n{event.text}\n\nStarted in {event.took_s:.1f} s.",)
        return (event.text,)


class JsonLines:
    """Writes events for programs, one a line; an error to standard error, as the client's verbs do."""

    def __init__(self) -> None:
        # Its own: a platform in the foreground has its log where standard error was.
        self._errors = os.fdopen(os.dup(_STDERR), "w", encoding="utf-8")

    def __call__(self, event: Event) -> None:
        if event.kind == "refused":
            self._errors.write(error_line(_failure(event)) + "\n")
            self._errors.flush()
            return
        Output(as_json=True).data(_message(event))


def _failure(event: Event) -> Failure:
    return Failure(event.text, code=ExitCode(event.code), field=event.field, remedy=event.note)


def _message(event: Event) -> dict[str, object]:
    """The event as docs/guide/cli.md tells it."""
    took_s = round(event.took_s, 3)
    if event.kind == "said":
        return {"type": "message", "text": event.text}
    if event.kind == "live":
        return {"type": "live", "url": event.url, "app_url": event.app_url or None, "took_s": took_s}
    step: dict[str, object] = {"type": "step", "step": event.text, "state": event.kind}
    return step if event.kind == "begun" else {**step, "note": event.note, "took_s": took_s}


def relayed(pipe: IO[str]) -> Sink:
    """A sink that writes events for `events` on the other end; a reader that has gone is not missed."""

    def sink(event: Event) -> None:
        try:
            pipe.write(json.dumps(asdict(event)) + "\n")
            pipe.flush()
        except (BrokenPipeError, ValueError):
            return
        if event.kind == "live":
            pipe.close()

    return sink


def events(pipe: IO[str]) -> Iterator[Event]:
    """What was written to `relayed`, until the writer closes or ends."""
    for line in pipe:
        yield Event(**json.loads(line))


def failure_of(error: ShipoffError) -> Failure:
    """What the program ends with, as docs/guide/cli.md tells it."""
    code = ExitCode.USAGE if isinstance(error, InvalidInput) else ExitCode.REFUSED
    return Failure(error.message, code=code, field=error.field, remedy=error.remedy)


def explained(error: BaseException) -> str:
    """What to tell about a failure: what happened and what to do."""
    if isinstance(error, ShipoffError):
        return f"{error.message}\n→ {error.remedy}" if error.remedy else error.message
    return f"{type(error).__name__}: {error}"
