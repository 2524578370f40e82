"""A request's ids at every station of its deployment: in what the services log, and on the streams between them."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import redis
from dotenv import dotenv_values
from e2e.harness import SERVER, Platform, wait_until
from neighbours.build import archive_of

from shipoff.common.streams import DEPLOYMENT_PROGRESS, PAYLOAD, RUNTIME_EVENTS, Event, decode
from shipoff.common.telemetry import Context, new_traceparent, trace_id

# One event that each service writes about a deployment: build twice, by itself and for its builder.
LOGGED = {"builder launched", "build ended", "instance started", "workload changed", "route switched"}
TOLD = Counter(
    {
        (DEPLOYMENT_PROGRESS, "BuildStarted"): 1,
        (DEPLOYMENT_PROGRESS, "BuildSucceeded"): 1,
        (DEPLOYMENT_PROGRESS, "DeploymentStateChanged"): 3,
        (RUNTIME_EVENTS, "WorkloadReady"): 1,
    }
)


@contextmanager
def listening(platform: Platform) -> Iterator[list[tuple[str, Event]]]:
    """What is published beside the block. Read as it comes: what every group has acknowledged is gone."""
    heard: list[tuple[str, Event]] = []
    over = threading.Event()
    client = redis.Redis.from_url(str(dotenv_values(platform.home / "platform.env", interpolate=False)["SHIPOFF_REDIS_URL"]))
    last: dict[Any, Any] = dict.fromkeys((DEPLOYMENT_PROGRESS, RUNTIME_EVENTS), "0")

    def listen() -> None:
        while not over.is_set():
            for name, entries in client.xread(last, block=100) or []:
                stream = name.decode()
                last[stream] = entries[-1][0]
                heard.extend((stream, decode(fields[PAYLOAD])) for _, fields in entries)

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield heard
    finally:
        over.set()
        thread.join()
        client.close()


def deployed(platform: Platform, project: str, ids: dict[str, str]) -> dict[str, Any]:
    """The accepted deployment; its request alone comes with these headers."""
    build, run = {"start_command": "python3 server.py"}, {"memory_bytes": 64 << 20}
    made = platform.api("POST", "/v1/projects", json={"name": project, "build": build, "run": run}).json()
    path, gzip = f"/v1/projects/{project}", {"Content-Type": "application/gzip"}
    digest = platform.api("POST", f"{path}/sources", content=archive_of({"server.py": SERVER}), headers=gzip).json()["digest"]
    body = {"source": {"archive": {"digest": digest}}}
    answer = platform.api("POST", f"{path}/deployments", json=body, headers=ids)
    assert answer.status_code == 202, answer.text
    return {"team_id": made["team_id"], **answer.json()}


def logged(platform: Platform, deployment_id: str) -> list[dict[str, Any]]:
    """The events of LOGGED that are about it."""
    lines = [
        line for line in platform.log().splitlines() if deployment_id in line and line.startswith("{") and line.endswith("}")
    ]
    return [one for one in map(json.loads, lines) if one["event"] in LOGGED]


def test_a_requests_ids_are_in_every_services_log_and_on_every_stream(platform: Platform):
    ids = {"X-Request-Id": f"asked-{uuid4().hex}", "traceparent": new_traceparent()}
    with listening(platform) as heard:
        deployment = deployed(platform, "followed", ids)

        def told() -> list[tuple[str, Event]]:
            return [(stream, event) for stream, event in list(heard) if event.message.deployment_id == deployment["id"]]

        def kinds() -> Counter[tuple[str, str]]:
            return Counter((stream, event.type.rpartition(".")[2]) for stream, event in told())

        wait_until(lambda: kinds() >= TOLD, timeout_s=60, what=lambda: f"only {kinds()} is told")

    def events() -> set[str]:
        return {one["event"] for one in logged(platform, deployment["id"])}

    wait_until(lambda: events() == LOGGED, what=lambda: f"only {events()} is logged")
    asked = Context(ids["X-Request-Id"], deployment["team_id"], ids["traceparent"])
    for _, event in told():
        assert event.context == asked, event.type
    for one in logged(platform, deployment["id"]):
        found = (one.get("request_id"), one.get("tenant_id"), one.get("trace_id"))
        assert found == (asked.request_id, asked.tenant_id, trace_id(asked.traceparent)), one
