"""Row 35 of the faults: every service is told to end under load, one pair after the other, and then all at once."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any
from uuid import uuid4

import httpx2
import psutil
import pytest
from e2e.harness import SERVER, Platform, wait_until
from neighbours.build import archive_of

from shipoff.embedded.process import leftover
from shipoff.embedded.services import SERVICES

LINES = 8
SOURCE = {"build.sh": f"for n in $(seq {LINES}); do echo line $n; sleep 0.2; done\n", "server.py": SERVER}
# Two that do not speak to each other end at the same time, to save it.
PAIRS = [SERVICES[number::5] for number in range(5)]
ENDS = {"production", "failed", "inactive"}


def insisted(platform: Platform, method: str, path: str, **options: Any) -> dict[str, Any]:
    """Asks again while a service is away, as any client of the API may; its answer."""

    def answer() -> httpx2.Response | None:
        try:
            got = platform.api(method, path, **options)
        except httpx2.TransportError:
            return None
        return None if got.status_code >= 500 or got.status_code == 429 else got

    got = wait_until(answer, timeout_s=90, what=f"{method} {path} is not answered")
    assert got.status_code < 300, got.text
    found: dict[str, Any] = got.json()
    return found


class Load:
    """A project that is deployed again as soon as it rests, until it is enough."""

    def __init__(self, platform: Platform, name: str) -> None:
        self.platform, self.name = platform, name
        self.deployments: list[str] = []
        self.failures: list[BaseException] = []
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run)
        build = {"build_command": "sh build.sh", "start_command": "python3 server.py"}
        insisted(platform, "POST", "/v1/projects", json={"name": name, "build": build, "run": {"memory_bytes": 64 << 20}})
        body = {"content": archive_of(SOURCE), "headers": {"Content-Type": "application/gzip"}}
        self._digest = insisted(platform, "POST", f"/v1/projects/{name}/sources", **body)["digest"]
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._enough.is_set():
                key = {"Idempotency-Key": str(uuid4())}
                body = {"source": {"archive": {"digest": self._digest}}}
                made = insisted(self.platform, "POST", f"/v1/projects/{self.name}/deployments", json=body, headers=key)
                self.deployments.append(made["id"])
                wait_until(lambda: self.deployment(self.deployments[-1])["state"] in ENDS, timeout_s=180, what="it never ended")
        except BaseException as error:  # of a thread: the test raises it
            self.failures.append(error)

    def deployment(self, deployment_id: str) -> dict[str, Any]:
        return insisted(self.platform, "GET", f"/v1/deployments/{deployment_id}")

    def builds(self) -> bool:
        """Whether one of its builds is under way."""
        return bool(self.deployments) and self.deployment(self.deployments[-1])["state"] == "building"

    def end(self) -> None:
        self._enough.set()
        self._thread.join(240)
        assert not self._thread.is_alive(), "the load does not come to its end"
        assert self.failures == []


def process(platform: Platform, service: str) -> psutil.Process:
    found = leftover(platform.home / "run" / f"{service}.pid")
    assert found is not None, f"{service} does not run"
    return found


def told_to_end(platform: Platform, *services: str) -> None:
    """SIGTERM; returns when each has ended by itself, and its successor runs."""
    before = {service: process(platform, service) for service in services}
    for one in before.values():
        os.kill(one.pid, signal.SIGTERM)
    _, alive = psutil.wait_procs(list(before.values()), timeout=40)
    assert alive == [], f"not drained: {alive}"
    for service, one in before.items():
        wait_until(
            lambda service=service, one=one: _succeeded(platform, service, one), timeout_s=60, what=f"{service} stays away"
        )


def _succeeded(platform: Platform, service: str, before: psutil.Process) -> bool:
    now = leftover(platform.home / "run" / f"{service}.pid")
    return now is not None and now != before


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "platform", [pytest.param("ten processes", marks=pytest.mark.xdist_group("ten processes"))], indirect=True, scope="session"
)
def test_no_deployment_fails_when_each_service_and_then_all_of_them_are_told_to_end(platform: Platform):
    loads = [Load(platform, f"upgraded-{number}") for number in range(2)]
    try:
        for pair in PAIRS:
            told_to_end(platform, *pair)
        wait_until(lambda: any(load.builds() for load in loads), timeout_s=60, what="nothing is built")
        told_to_end(platform, *SERVICES)
    finally:
        for load in loads:
            load.end()
    for load in loads:
        assert load.deployments
        for deployment_id in load.deployments:
            check(load, load.deployment(deployment_id))
        assert "server.py" in platform.page(load.name)


def check(load: Load, deployment: dict[str, Any]) -> None:
    """It served, and each line of its build is there once; once for each attempt, where a builder ended with its service."""
    passed = [step["to"] for step in deployment["transitions"]]
    assert passed[:3] == ["building", "provisioning", "production"], f"{passed}: {deployment['reason']}"
    assert passed[3:] in ([], ["inactive"])
    said = load.platform.logs(load.name, "--deployment", str(deployment["number"]), "--build")
    lines = [int(line.removeprefix("line ")) for line in said if line.startswith("line ")]
    starts = [place for place, line in enumerate(lines) if line == 1]
    attempts = [lines[begin:end] for begin, end in zip(starts, [*starts[1:], None], strict=True)]
    assert attempts[-1] == list(range(1, LINES + 1)), said
    assert all(attempt == list(range(1, len(attempt) + 1)) for attempt in attempts), said
