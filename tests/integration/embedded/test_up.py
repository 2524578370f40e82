"""The whole platform by its one command: live, stopped, killed, and back."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from shipoff.common.errors import InvalidInput
from shipoff.embedded import services
from shipoff.embedded.layout import Layout
from shipoff.embedded.lock import holder
from shipoff.embedded.supervisor import supervised

Eventually = Callable[..., Awaitable[Any]]


def _shipoff(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "shipoff", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=150, check=False)


@pytest.fixture
def stopped_after(home: Path) -> Iterator[Layout]:
    """The data folder; whatever runs in it afterwards is stopped."""
    yield Layout(home)
    _shipoff("down")


def _of(layout: Layout) -> list[psutil.Process]:
    """Every process that works for this data folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and str(layout.home) in " ".join((*process.cmdline(), process.cwd())):
                found.append(process)
    return found


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.timeout(400)
def test_it_goes_live_signs_in_stops_and_survives_a_kill(stopped_after: Layout, free_port: int) -> None:
    layout = stopped_after
    first = _shipoff("up", "--detach", "--no-sample")
    assert first.returncode == 0, first.stdout + first.stderr
    # Kept apart, or told that they are not.
    assert re.search(
        r"^(✓ Sandbox .* bubblewrap: |- Sandbox .* none \(.*\): deploy trusted code only)", first.stdout, re.MULTILINE
    )
    for step in ("Data folder", "PostgreSQL", "Valkey", "Caddy", "Migrations", "Services", "Sign-in"):
        assert f"✓ {step}" in first.stdout
    assert f"Live: http://localhost:{free_port}" in first.stdout
    pid = holder(layout)
    assert pid is not None
    assert json.loads(_shipoff("whoami", "--json").stdout)["url"] == f"http://localhost:{free_port}"
    # Another account of the same person, or a lost file: signed in again from the data folder.
    credentials = next((layout.home / "config").rglob("credentials.json"))
    credentials.unlink()

    os.kill(pid, signal.SIGKILL)
    _until(lambda: holder(layout) is None and not _listening(free_port))
    second = _shipoff("up", "--detach", "--no-sample", "--json")
    assert second.returncode == 0, second.stdout + second.stderr
    events = [json.loads(line) for line in second.stdout.splitlines()]
    done = [event["step"] for event in events if event["type"] == "step" and event["state"] == "done"]
    # Where bubblewrap does not work the sandbox is left out.
    assert [step for step in done if step != "Sandbox"][:2] == ["Data folder", "PostgreSQL"]
    assert (events[-1]["type"], events[-1]["url"], events[-1]["app_url"]) == ("live", f"http://localhost:{free_port}", None)
    assert _shipoff("whoami", "--json").returncode == 0
    assert _internal_ports(layout, free_port) == set()
    holding = holder(layout)

    down = _shipoff("down", "--json")
    assert down.returncode == 0
    assert {**json.loads(down.stdout), "took_s": 0} == {"stopped": True, "pid": holding, "ended": False, "took_s": 0}
    assert "Nothing runs" in _shipoff("down").stdout
    assert holder(layout) is None
    assert not _listening(free_port)
    assert _of(layout) == []
    assert "Nothing runs in" in _shipoff("down").stdout


def _until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def _internal_ports(layout: Layout, edge: int) -> set[tuple[str, int]]:
    """What the platform's processes listen on besides the edge."""
    pid = holder(layout)
    assert pid is not None
    platform = psutil.Process(pid)
    connections = [c for process in (platform, *platform.children(recursive=True)) for c in process.net_connections("inet")]
    return {(c.laddr[0], c.laddr[1]) for c in connections if c.status == psutil.CONN_LISTEN and c.laddr[1] != edge}


def test_a_signal_while_starting_stops_what_has_started(stopped_after: Layout) -> None:
    layout = stopped_after
    argv = [sys.executable, "-m", "shipoff", "up", "--no-sample"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = ""
        while "PostgreSQL" not in seen:
            seen = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 0
    assert "Stopped." in rest
    assert _of(layout) == []


async def test_a_service_of_its_own_is_started_again_when_it_dies(layout: Layout, eventually: Eventually) -> None:
    detector = services.ServiceProcess(layout, "detector")
    try:
        await detector.start()
        async with supervised([detector]):
            assert detector.child is not None
            first = detector.child.pid
            os.kill(first, signal.SIGKILL)
            await eventually(lambda: _other_serves(detector, first), timeout_s=60)
    finally:
        await detector.stop()
    assert detector.child.pid not in psutil.pids()


async def _other_serves(detector: services.ServiceProcess, first: int) -> bool:
    assert detector.child is not None
    return detector.child.pid != first and await services.serves("detector")


def test_a_process_with_one_service_loads_no_other(layout: Layout) -> None:
    code = (
        "import asyncio, sys\nfrom shipoff.embedded import services\n"
        "async def main():\n"
        "    async with services.running(['detector']): pass\n"
        "asyncio.run(main())\n"
        "print(*sorted({name.split('.')[1] for name in sys.modules if name.startswith('shipoff.')}))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(ended.stdout.split())
    assert "detector" in loaded
    assert not loaded & (set(services.SERVICES) - {"detector"})


def test_services_are_chosen_by_name_and_entered_in_their_order() -> None:
    assert services.chosen([]) == services.chosen(["all"]) == list(services.SERVICES)
    assert services.chosen(["gateway", "identity"]) == ["identity", "gateway"]
    with pytest.raises(InvalidInput, match="no service 'nginx'"):
        services.chosen(["gateway", "nginx"])
