"""Running and stopping the platform, as the verbs serve, up and down do it.

What starts services is loaded only where they are started: `down` and the watcher of a detached start do without.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer
from rich.console import Console

from shipoff.cli import output
from shipoff.cli.errors import Failure
from shipoff.common import config
from shipoff.common.errors import PermissionDenied, ShipoffError
from shipoff.embedded.layout import Layout, backing_account, prepare
from shipoff.embedded.lock import holder
from shipoff.embedded.options import Options
from shipoff.embedded.process import opened_log, tail
from shipoff.embedded.progress import Event, JsonLines, Report, Sink, Terminal, events, explained, failure_of, relayed

_STOP_S = 90.0
_POLL_S = 0.1


@contextmanager
def _told(console: Console, *, as_json: bool) -> Iterator[None]:
    """Ends the program with a clear line instead of a trace for what is not a defect."""
    try:
        yield
    except ShipoffError as error:
        failure = failure_of(error)
        if as_json:
            output.report(failure, as_json=True)
        else:
            console.print(explained(error), style="bold red", highlight=False, soft_wrap=True, markup=False)
        raise typer.Exit(int(failure.code)) from error


def serve(names: Sequence[str], *, as_json: bool) -> None:
    """Runs services until the process is asked to stop."""
    import uvloop

    from shipoff.common.lifecycle import until_signal
    from shipoff.common.telemetry import configure_logging
    from shipoff.embedded import services

    async def run(chosen: Sequence[str]) -> None:
        async with services.running(chosen):
            told.data({"type": "serving", "services": list(chosen)})
            await until_signal()
        told.data({"type": "stopped"})

    configure_logging()
    told = output.Output(as_json=as_json)
    with _told(Console(stderr=True), as_json=as_json):
        uvloop.run(run(services.chosen(names)))


def migrate(names: Sequence[str], *, wait_s: float, as_json: bool) -> None:
    """Brings databases to the newest schema."""
    import asyncio

    from shipoff.common.telemetry import configure_logging
    from shipoff.embedded import backing

    configure_logging()
    told = output.Output(as_json=as_json)
    with _told(Console(stderr=True), as_json=as_json):
        migrated = asyncio.run(backing.migrate(names, wait_s=wait_s))
        told.data({"migrated": migrated})


def backing(name: str, *, as_json: bool) -> None:
    """Becomes a server, or does something beside one."""
    from shipoff.common.telemetry import configure_logging
    from shipoff.embedded import backing as servers

    configure_logging()
    with _told(Console(stderr=True), as_json=as_json):
        servers.perform(name)


def up(*, separate: bool, sample: bool, detach: bool, report_fd: int | None, as_json: bool) -> None:
    """Runs the platform here, or starts one that outlives this process; `report_fd` is where that one tells its steps."""
    layout, console = Layout(config.home()), Console()
    shown: Sink = JsonLines() if as_json else Terminal(console)
    with _told(console, as_json=as_json):
        # Its log folder is needed before its own step.
        prepare(layout, backing_account())
        if detach:
            _detached(layout, shown, [*(["--separate"] if separate else []), *([] if sample else ["--no-sample"])])
            return
        sink = shown if report_fd is None else _relay(report_fd)
        _foreground(layout, Options(separate=separate, sample=sample, detached=report_fd is not None), Report(sink))


def _relay(report_fd: int) -> Sink:
    # It was inherited to get here; the servers must not keep it open.
    os.set_inheritable(report_fd, False)
    return relayed(os.fdopen(report_fd, "w"))


def _foreground(layout: Layout, options: Options, report: Report) -> None:
    """Runs until it is stopped. The services' log goes to a file: the terminal is the person's."""
    with opened_log(layout.log / "platform.log") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())
    import uvloop

    from shipoff.common.telemetry import configure_logging
    from shipoff.embedded import up

    configure_logging()
    try:
        uvloop.run(up.up(options, report))
    except ShipoffError as error:
        failure = failure_of(error)
        report.refused(failure)
        raise typer.Exit(int(failure.code)) from error
    except OSError as error:
        # A disk that is full, a folder that is read-only: the system's own words name it.
        report.refused(Failure(str(error), remedy=f"the log is {layout.log / 'platform.log'}"))
        raise typer.Exit(1) from error


def _detached(layout: Layout, shown: Sink, options: list[str]) -> None:
    """Starts a platform that outlives this process; shows its steps until it is live or has failed."""
    reading, writing = os.pipe()
    argv = [sys.executable, "-m", "shipoff", "up", "--report-fd", str(writing), *options]
    path = layout.log / "platform.log"
    with opened_log(path) as log:
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[writing], start_new_session=True
        )
    os.close(writing)
    last = ""
    try:
        with os.fdopen(reading) as pipe:
            for event in events(pipe):
                shown(event)
                last = event.kind
                if last in ("live", "refused"):
                    break
    except KeyboardInterrupt:
        child.terminate()
        child.wait()
        raise typer.Exit(130) from None
    if last != "live":
        code = child.wait()
        if last != "refused":
            shown(
                Event("refused", f"the platform ended before it was live:\n{tail(path, lines=15)}", note=f"the log is {path}")
            )
        raise typer.Exit(code or 1)


def down(*, as_json: bool) -> None:
    """Stops the platform of this data folder, and waits until it has stopped."""
    layout, console = Layout(config.home()), Console(quiet=as_json)
    told = output.Output(as_json=as_json)
    with _told(Console(), as_json=as_json):
        pid = holder(layout)
        if pid is None:
            told.data({"stopped": False, "pid": None, "ended": False, "took_s": 0.0})
            console.print(f"Nothing runs in {layout.home}.", highlight=False)
            return
        started = time.monotonic()
        with console.status(f"Stopping process {pid} …"):
            stopped = _stop(layout, pid)
        took_s = time.monotonic() - started
        told.data({"stopped": True, "pid": pid, "ended": not stopped, "took_s": round(took_s, 3)})
        how = "Stopped" if stopped else f"It did not stop within {_STOP_S:g} s and was ended"
        console.print(f"{how} ({took_s:.1f} s).", highlight=False)


def _stop(layout: Layout, pid: int) -> bool:
    """Asks and waits; after a long while ends it, and its servers with it. Whether it stopped by itself."""
    _signal(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_S
    while holder(layout) == pid:
        if time.monotonic() > deadline:
            _signal(pid, signal.SIGKILL)
            return False
        time.sleep(_POLL_S)
    return True


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    except PermissionError as error:
        raise PermissionDenied(f"process {pid} belongs to another account", remedy="run it as that account") from error
