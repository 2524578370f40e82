"""Burst: 1,000 signed webhooks at once through the gateway, each to a deployment in production, while the API is read.

The real gateway, identity, project and orchestrator services; build, runtime and cdn answer at once and durably. Nothing is
lost: each delivery led to exactly one deployment, and each of those to PRODUCTION by every step. Beside it, at a fixed rate,
somebody reads a deployment; the other side of the comparison is the same reading while nothing else happens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from _measure import Line, Round, check_seen, compare, percentile, record, show
from _parts import Servers, data_folder, servers
from _probe import asked
from pipeline import Delivery, Ours, our_side, until_reached

_PROBE = Path(__file__).resolve().parent / "_probe.py"
_SERVICES = ("identity", "project", "orchestrator", "gateway")
_REST_S = 10.0
_GOAL_S = 0.1
# GitHub gives up on a delivery after that, and does not come again by itself.
_PATIENCE_S = 10.0


@dataclass
class Platform:
    """What the figure talks to."""

    ours: Ours
    socket: Path
    token: str
    # A deployment to read.
    deployment_id: str = ""

    async def send(self, one: Delivery) -> tuple[str, float]:
        """Delivers it once, as GitHub does; its deployment, and how long the answer took. Raises AssertionError."""
        headers = ("Host: api.localhost", f"X-Hub-Signature-256: {one.signature}", "X-GitHub-Event: push", "Connection: close")
        more = (f"X-GitHub-Delivery: {one.id}", f"Content-Length: {len(one.body)}", "", "")
        request = "\r\n".join(["POST /webhooks/github HTTP/1.1", *headers, *more]).encode()
        began = time.monotonic()
        head, _, body = (await asked(str(self.socket), request + one.body)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 202 "), f"{head!r} {body!r}"
        (deployment_id,) = json.loads(body)["deployment_ids"]
        return deployment_id, time.monotonic() - began

    @asynccontextmanager
    async def read(self, per_s: float) -> AsyncIterator[list[float]]:
        """Reads the deployment beside the block; how long that took each time is there when the block is left."""
        path = f"/v1/deployments/{self.deployment_id}"
        argv = [sys.executable, str(_PROBE), str(self.socket), path, self.token, str(per_s)]
        pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
        probe = await asyncio.create_subprocess_exec(*argv, **pipes)
        took_s: list[float] = []
        try:
            yield took_s
        finally:
            written, _ = await probe.communicate(b"")
        found = json.loads(written)
        assert not found["bad"], f"{found['bad']} readings were no 200"
        took_s.extend(found["took_s"])


@asynccontextmanager
async def platform(made: Servers, options: argparse.Namespace) -> AsyncIterator[Platform]:
    """The services, an owner, and a deployment that serves."""
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(our_side(made, options, services=_SERVICES))
        socket = made.platform.layout.run / "edge" / "gateway.sock"
        transport = httpx2.AsyncHTTPTransport(uds=str(socket))
        http = await stack.enter_async_context(httpx2.AsyncClient(transport=transport, base_url="http://api.localhost"))
        owner = {"setup_token": made.platform.setup_token, "email": "b@localhost.test", "name": "b", "team": "bench"}
        answer = (await http.post("/v1/setup", json=owner)).raise_for_status().json()
        token = answer["token"]
        me: dict[str, Any] = (await http.get("/v1/me", headers={"Authorization": f"Bearer {token}"})).raise_for_status().json()
        ours.team = me["teams"][0]["id"]
        found = Platform(ours, socket, token)
        (first,) = await ours.prepare(1)
        found.deployment_id, _ = await found.send(first)
        await until_reached(ours, [found.deployment_id])
        yield found


@dataclass(frozen=True)
class Burst:
    """What one did."""

    drained_s: float
    answered_s: Sequence[float]
    read_s: Sequence[float]


async def burst(now: Platform, count: int, per_s: float) -> Burst:
    """All at once; returns when all of it is live. Raises AssertionError when something was lost or is there twice."""
    deliveries = await now.ours.prepare(count)
    async with now.read(per_s) as read_s:
        began = time.monotonic()
        answers = await asyncio.gather(*(now.send(one) for one in deliveries))
        ids = [deployment_id for deployment_id, _ in answers]
        await until_reached(now.ours, ids)
        drained_s = time.monotonic() - began
    assert len(set(ids)) == count, "two deliveries led to the same deployment"
    made = await now.ours.ledger.database.fetch("SELECT id::text FROM deployments WHERE team_id = $1", now.ours.team)
    check_seen(ids, [row["id"] for row in made if row["id"] in set(ids)])
    return Burst(drained_s, [took_s for _, took_s in answers], read_s)


async def measure(now: Platform, options: argparse.Namespace) -> list[tuple[Burst, list[float]]]:
    """Each round: reading at rest, then reading through a burst."""
    await burst(now, options.count // 10, options.rate)
    rounds = []
    for _ in range(options.rounds):
        async with now.read(options.rate) as at_rest:
            await asyncio.sleep(_REST_S)
        one = await burst(now, options.count, options.rate)
        rounds.append((one, at_rest))
        print(
            f"{options.count} drained in {one.drained_s:.1f} s ({options.count / one.drained_s:.0f}/s), answered within"
            f" {max(one.answered_s):.2f} s; API p99 {percentile(one.read_s, 99) * 1e3:.0f} ms of {len(one.read_s)} readings,"
            f" at rest {percentile(at_rest, 99) * 1e3:.0f} ms",
            flush=True,
        )
    return rounds


async def main(options: argparse.Namespace) -> None:
    """The whole figure."""
    with data_folder() as home:
        async with servers(home) as made, platform(made, options) as now:
            rounds = await measure(now, options)
    figures = {
        f"API p{percent}": compare([Round(percentile(one.read_s, percent), percentile(rest, percent)) for one, rest in rounds])
        for percent in (50, 99)
    }
    p99 = figures["API p99"]
    lines = [
        Line("API p50 in a burst", figures["API p50"], "s"),
        Line("API p99 in a burst", p99, "s", f"≤ {_GOAL_S:g} s", p99.ours <= _GOAL_S),
    ]
    show(f"{options.count} webhooks at once, the API read {options.rate:g} times a second", "at rest", lines)
    drains = sorted(one.drained_s for one, _ in rounds)
    facts = {
        "github_waits_s": _PATIENCE_S,
        "drained_s": drains,
        "answered_within_s": max(max(one.answered_s) for one, _ in rounds),
    }
    print(facts)
    print(record("burst", figures, unit=dict.fromkeys(figures, "s"), options=vars(options), **facts))


def arguments() -> argparse.Namespace:
    """What may be changed; the defaults are the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=30.0, help="readings a second")
    parser.add_argument("--separate", action="store_true", help="each service in a process of its own")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main(arguments()))
