"""Deployments a second from an accepted webhook to PRODUCTION, with a build that does nothing, beside Celery.

Ours: the real project and orchestrator services; build, runtime and cdn answer at once and durably (_neighbours.py).
The other: four chained Celery tasks with one commit each (_celery_app.py), on the same PostgreSQL and the same Valkey.
Each round sends a burst for the throughput, then deliveries at a fixed rate for the latency.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import asyncpg
from _measure import Line, Round, check_seen, compare, enough, percentile, record, show
from _parts import Control, Servers, child, cpu_s, data_folder, servers, together

from shipoff.common import config
from shipoff.common.errors import TemporaryError
from shipoff.common.ids import new_id
from shipoff.common.rpc import channel
from shipoff.contracts.project.v1 import project_pb2
from shipoff.contracts.project.v1.project_pb2_grpc import ProjectServiceStub
from shipoff.embedded.services import serves

_HERE = Path(__file__).resolve().parent
_START_S = 180.0
_END_S = 120.0
_CALL_S = 60.0
_POLL_S = 0.05
_CREATED_AT_ONCE = 16
# A build that does nothing needs nothing: so many may run at once, or the figure would be the wait for one of two slots.
_SLOTS = 64
# The slots are cut out of the memory, beside which the apps that stay, which are none, take up next to nothing.
_ROOM = {
    "BUDGET_CPU_MILLIS": 1 << 30,
    "BUILD_CPU_MILLIS": 1,
    "BUILD_LEAST_CPU_MILLIS": 1,
    "APP_CPU_MILLIS": 1,
    "BUDGET_MEMORY_BYTES": _SLOTS << 30 | 1 << 29,
    "BUILD_MEMORY_BYTES": 1 << 30,
    "APP_MEMORY_BYTES": 1,
}


@dataclass(frozen=True)
class Delivery:
    """A signed push to a repository of its own."""

    id: str
    repository: str
    body: bytes
    signature: str


def delivery(secret: str) -> Delivery:
    """A push that nobody has sent before."""
    number = new_id()
    repository = f"https://github.com/bench/{number}"
    commit = hashlib.sha1(number.encode(), usedforsecurity=False).hexdigest()
    now = datetime.now(UTC)
    payload = {
        "ref": "refs/heads/main",
        "before": "0" * 40,
        "after": commit,
        "repository": {"clone_url": f"{repository}.git", "default_branch": "main", "pushed_at": int(now.timestamp())},
        "head_commit": {"message": "one line changed", "timestamp": now.isoformat()},
        "sender": {"login": "bench"},
    }
    return signed(number, repository, json.dumps(payload).encode(), secret)


def signed(number: str, repository: str, body: bytes, secret: str) -> Delivery:
    """With the signature that GitHub would send."""
    return Delivery(number, repository, body, "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest())


@dataclass(frozen=True)
class Ledger:
    """The recorded state changes of one side: both keep a table of them."""

    database: asyncpg.Connection
    # The column that names the state a deployment came to, and how many changes a whole way has.
    column: str
    changes: int

    async def reached(self, ids: Sequence[str]) -> dict[str, float]:
        """When each of these reached PRODUCTION, as far as they have: seconds since 1970 by the database's clock."""
        query = f"SELECT deployment_id::text AS id, time FROM transitions WHERE {self.column} = 'production'"  # noqa: S608
        rows = await self.database.fetch(f"{query} AND deployment_id = ANY($1)", ids)
        return {row["id"]: row["time"].timestamp() for row in rows}

    async def check(self, ids: Sequence[str]) -> None:
        """Raises AssertionError unless all of these came to PRODUCTION by every step, each once."""
        check_seen(ids, list(await self.reached(ids)))
        recorded = await self.database.fetchval("SELECT count(*) FROM transitions WHERE deployment_id = ANY($1)", ids)
        assert recorded == self.changes * len(ids), f"{recorded} changes for {len(ids)} deployments"


class Side(Protocol):
    """One of the two that are compared."""

    ledger: Ledger
    # Its processes and the servers', by name.
    pids: Mapping[str, int]

    async def prepare(self, count: int) -> Sequence[Delivery]:
        """Everything that has to be there before the deliveries arrive; not measured."""

    async def send(self, one: Delivery) -> str:
        """Sends it; the deployment's id."""


@dataclass
class Ours:
    """The services."""

    stub: ProjectServiceStub
    ledger: Ledger
    pids: Mapping[str, int]
    secret: str
    team: str = field(default_factory=new_id)
    # Deliveries that were told to come again: the pool was busy.
    sent_again: int = 0

    async def prepare(self, count: int) -> Sequence[Delivery]:
        made = [delivery(self.secret) for _ in range(count)]
        room = asyncio.Semaphore(_CREATED_AT_ONCE)

        async def create(one: Delivery) -> None:
            request = project_pb2.CreateProjectRequest(
                team_id=self.team, name=f"p-{one.id}", repository=project_pb2.Repository(url=one.repository)
            )
            async with room:
                await self.stub.CreateProject(request, timeout=_CALL_S)

        await asyncio.gather(*(create(one) for one in made))
        return made

    async def send(self, one: Delivery) -> str:
        request = project_pb2.ReceiveWebhookRequest(
            provider="github", delivery_id=one.id, event="push", signature=one.signature, body=one.body
        )
        while True:
            try:
                answer = await self.stub.ReceiveWebhook(request, timeout=_CALL_S)
            except TemporaryError as error:
                self.sent_again += 1
                await asyncio.sleep(error.retry_after_s)
                continue
            (deployment_id,) = answer.deployment_ids
            return deployment_id


@dataclass
class Peer:
    """Celery."""

    ledger: Ledger
    pids: Mapping[str, int]
    secret: str
    start: Callable[[str, bytes, str], None]

    async def prepare(self, count: int) -> Sequence[Delivery]:
        return [delivery(self.secret) for _ in range(count)]

    async def send(self, one: Delivery) -> str:
        self.start(one.id, one.body, one.signature)
        return one.id


async def until_reached(side: Side, ids: Sequence[str]) -> dict[str, float]:
    """When each reached PRODUCTION. Raises AssertionError when one was lost or took another way, SystemExit after a time."""
    deadline = time.monotonic() + _END_S
    while True:
        reached = await side.ledger.reached(ids)
        if len(reached) == len(ids):
            await side.ledger.check(ids)
            return reached
        if time.monotonic() > deadline:
            raise SystemExit(f"only {len(reached)} of {len(ids)} reached PRODUCTION within {_END_S:g} s")
        await asyncio.sleep(_POLL_S)


@dataclass(frozen=True)
class Burst:
    """Deployments a second from the first delivery to the last PRODUCTION, and the CPU time of each, in milliseconds, by who
    spent it."""

    per_s: float
    cpu_ms: Mapping[str, float]


async def burst(side: Side, count: int) -> Burst:
    """Sends them all at once."""
    deliveries = await side.prepare(count)
    before = {name: cpu_s(pid) for name, pid in side.pids.items()}
    started = time.time()
    ids = await asyncio.gather(*(side.send(one) for one in deliveries))
    reached = await until_reached(side, ids)
    cpu_ms = {name: 1000 * (cpu_s(pid) - before[name]) / count for name, pid in side.pids.items()}
    return Burst(count / (max(reached.values()) - started), cpu_ms)


async def at_rate(side: Side, count: int, per_s: float) -> list[float]:
    """Sends one after the other at a fixed rate, whatever comes back; the latencies in seconds.

    A latency begins when the delivery was due, so that a sender that is held up does not make it look shorter.
    """
    deliveries = await side.prepare(count)
    began = time.time()

    async def send(number: int) -> tuple[str, float]:
        due = began + number / per_s
        await asyncio.sleep(max(0.0, due - time.time()))
        return await side.send(deliveries[number]), due

    sent = dict(await asyncio.gather(*(send(number) for number in range(count))))
    reached = await until_reached(side, list(sent))
    return [reached[deployment_id] - due for deployment_id, due in sent.items()]


@dataclass(frozen=True)
class Turn:
    """What one side did in one round."""

    burst: Burst
    latencies: list[float]


async def turn(side: Side, options: argparse.Namespace, rate: float) -> Turn:
    """A burst, then the fixed rate."""
    return Turn(await burst(side, options.burst), await at_rate(side, options.paced, rate))


async def _ready(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + _START_S
    while not await condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} did not start within {_START_S:g} s")
        await asyncio.sleep(_POLL_S)


@asynccontextmanager
async def our_side(
    made: Servers, options: argparse.Namespace, services: Sequence[str] = ("project", "orchestrator")
) -> AsyncIterator[Ours]:
    """Starts the services and their neighbours."""
    log = made.platform.layout.log
    room = {f"SHIPOFF_ORCHESTRATOR_{name}": str(value) for name, value in _ROOM.items()}
    together_or_not = [[name] for name in services] if options.separate else [list(services)]
    async with AsyncExitStack() as stack:
        pids = made.pids() | {"sender": os.getpid()}
        pids["neighbours"] = stack.enter_context(
            child([sys.executable, str(_HERE / "_neighbours.py")], log=log / "neighbours.log")
        )
        for names in together_or_not:
            argv = [sys.executable, "-m", "shipoff", "serve", *names]
            name = " and ".join(names)
            pids[name] = stack.enter_context(child(argv, log=log / f"{'-'.join(names)}.log", env=room))
            print(f"{name}: process {pids[name]}", flush=True)
        for name in (*services, "build", "runtime", "cdn"):
            await _ready(lambda name=name: serves(name), name)
        stub = ProjectServiceStub(await stack.enter_async_context(channel(config.address("project"))))
        database = await stack.enter_async_context(made.postgres.superuser("orchestrator"))
        secret = (made.platform.layout.secrets / "github-webhook-secret").read_text().strip()
        # Queued is no change of its own: the row is made in that state.
        yield Ours(stub, Ledger(database, "to_state", 3), pids, secret)


@asynccontextmanager
async def peer_side(made: Servers) -> AsyncIterator[Peer]:
    """Starts Celery's workers: as many as there are cores."""
    import _celery_app

    async with made.postgres.superuser() as connection:
        await connection.execute(f"CREATE DATABASE {_celery_app.DATABASE}")
    password = made.platform.passwords["valkey"]
    broker = f"redis+socket://:{password}@{made.valkey_socket}"
    secret = "the-other-side's-secret"  # noqa: S105 - of this run only
    env = {"BENCH_BROKER": broker, "BENCH_DATABASE": made.postgres_url(_celery_app.DATABASE), "BENCH_SECRET": secret}
    _celery_app.app.conf.broker_url = broker
    argv = [sys.executable, "-m", "celery", "--app", "_celery_app", "worker", "--pool", "prefork"]
    argv += ["--concurrency", str(os.cpu_count() or 1), "--loglevel", "WARNING"]
    argv += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(made.postgres.superuser(_celery_app.DATABASE))
        await database.execute(_celery_app.DDL)
        pids = made.pids() | {"sender": os.getpid()}
        pids["workers"] = stack.enter_context(child(argv, log=made.platform.layout.log / "celery.log", env=env, cwd=_HERE))
        yield Peer(Ledger(database, "state", 4), pids, secret, _celery_app.start)


async def measure(ours: Ours, peer: Peer, control: Control, options: argparse.Namespace) -> list[tuple[Turn, Turn, Round]]:
    """A B A B …, after a round that warms both up and finds the rate that both keep up with."""
    await asyncio.gather(burst(ours, 20), burst(peer, 20))
    slower = min([(await burst(side, options.burst // 2)).per_s for side in (ours, peer)])
    rate = options.rate or max(1.0, round(slower * 0.4))
    options.rate = rate
    print(f"fixed rate: {rate:g}/s, 0.4 of what the slower side can do", flush=True)
    rounds: list[tuple[Turn, Turn, Round]] = []
    while not enough([raw for _, _, raw in rounds], options.rounds):
        readings = [await control.read()]
        mine = await turn(ours, options, rate)
        readings.append(await control.read())
        theirs = await turn(peer, options, rate)
        readings.append(await control.read())
        rounds.append((mine, theirs, Round(mine.burst.per_s, theirs.burst.per_s, together(readings))))
        print(
            f"round {len(rounds)}: ours {mine.burst.per_s:.1f}/s, Celery {theirs.burst.per_s:.1f}/s, "
            f"controls moved {rounds[-1][2].movement:.2f}",
            flush=True,
        )
    return rounds


def latency_rounds(rounds: Sequence[tuple[Turn, Turn, Round]], percent: float) -> list[Round]:
    """Each round's percentile of the latencies, beside that round's controls."""
    return [
        Round(percentile(mine.latencies, percent), percentile(theirs.latencies, percent), raw.controls)
        for mine, theirs, raw in rounds
    ]


def report(rounds: Sequence[tuple[Turn, Turn, Round]], options: argparse.Namespace, **facts: object) -> None:
    """The table and the file."""
    throughput = compare([raw for _, _, raw in rounds])
    p50, p99 = (compare(latency_rounds(rounds, percent)) for percent in (50, 99))
    layout = "a process each" if options.separate else "one process"
    show(
        f"Webhook to PRODUCTION, build that does nothing (project and orchestrator: {layout})",
        "Celery",
        [
            Line("throughput", throughput, "deployments/s", "≥ 1.5 × Celery", throughput.ratio >= 1.5),
            Line(f"p50 at {options.rate:g}/s", p50, "s"),
            Line(f"p99 at {options.rate:g}/s", p99, "s", "≤ Celery's", p99.ratio <= 1),
        ],
    )
    controls = {
        name: statistics.median(reading for _, _, raw in rounds for reading in raw.controls[name])
        for name in ("commit", "xadd")
    }
    cpu = {"ours": _cpu_ms([mine for mine, _, _ in rounds]), "peer": _cpu_ms([theirs for _, theirs, _ in rounds])}
    for side, spent in cpu.items():
        parts = ", ".join(f"{name} {ms:.1f}" for name, ms in spent.items())
        print(f"CPU for a deployment, {side}: {sum(spent.values()):.1f} ms ({parts})")
    file = record(
        "pipeline",
        {"throughput": throughput, "p50": p50, "p99": p99},
        unit={"throughput": "deployments/s", "p50": "s", "p99": "s"},
        control_s=controls,
        cpu_ms=cpu,
        options=vars(options) | {"slots": _SLOTS},
        **facts,
    )
    print(f"Controls, median: commit {controls['commit'] * 1e3:.2f} ms, XADD {controls['xadd'] * 1e3:.2f} ms. {file}")


def _cpu_ms(turns: Sequence[Turn]) -> dict[str, float]:
    """The medians of the bursts."""
    return {name: statistics.median(one.burst.cpu_ms[name] for one in turns) for name in turns[0].burst.cpu_ms}


async def main(options: argparse.Namespace) -> None:
    """The whole figure."""
    with data_folder() as home:
        async with servers(home) as made, our_side(made, options) as ours, peer_side(made) as peer:
            async with Control.open(made) as control:
                rounds = await measure(ours, peer, control, options)
            report(rounds, options, sent_again=ours.sent_again)


def arguments() -> argparse.Namespace:
    """What may be changed; the defaults are the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="steady ones; at most twice as many are tried")
    parser.add_argument("--burst", type=int, default=200)
    parser.add_argument("--paced", type=int, default=60)
    parser.add_argument("--rate", type=float, default=0.0, help="deliveries a second; else what both keep up with")
    parser.add_argument("--separate", action="store_true", help="project and orchestrator in a process each")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main(arguments()))
