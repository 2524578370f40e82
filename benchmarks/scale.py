"""Scale: what one deployment and an idle second cost with 10,000 projects and 100,000 past deployments, beside 100 projects.

Two platforms that differ in their past alone: the real project and orchestrator services on servers of their own, with the
pipeline figure's neighbours. A round deploys the same number of times to each, one after the other. The cost is the CPU time
of PostgreSQL and of the services together, and the pages (buffers) that the two databases touched. Idle, both are watched at
once: little happens, and it is the housekeeping of a whole minute that counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg
from _measure import Comparison, Line, Round, compare, record, show
from _parts import cpu_s, data_folder, servers
from _past import fill
from pipeline import Delivery, Ours, our_side, signed, until_reached

from shipoff.common.ids import new_id

_SPENDERS = ("postgres", "project and orchestrator")
_DATABASES = ("project", "orchestrator")
# A connection reports what it touched at the end of a transaction, or when it has had nothing to do for ten seconds.
_REPORTED_S = 11.0
_GOAL = 1.3


@dataclass(frozen=True)
class Cost:
    """What something took: milliseconds of CPU time, and pages."""

    cpu_ms: float
    buffers: float

    def minus(self, other: Cost) -> Cost:
        return Cost(self.cpu_ms - other.cpu_ms, self.buffers - other.buffers)

    def times(self, factor: float) -> Cost:
        return Cost(self.cpu_ms * factor, self.buffers * factor)


@dataclass
class Side:
    """One of the two platforms."""

    projects: int
    ours: Ours
    statistics: asyncpg.Connection
    # A delivery of each project that is pushed to.
    pushed: Sequence[Delivery] = ()
    pushes: int = 0

    def cpu_ms(self) -> float:
        """So far, of PostgreSQL with everything it has forked, and of the services."""
        return 1000 * sum(cpu_s(self.ours.pids[name]) for name in _SPENDERS)

    async def spent(self) -> Cost:
        """So far. The pages are those of ten seconds ago at the least."""
        query = "SELECT sum(blks_hit + blks_read)::bigint FROM pg_stat_database WHERE datname = ANY($1)"
        return Cost(self.cpu_ms(), await self.statistics.fetchval(query, _DATABASES))

    async def deploy(self, count: int) -> None:
        """Pushes once to each of so many projects, and waits until all of it is live."""
        self.pushes += 1
        ids = await asyncio.gather(*(self.ours.send(again(one, self.ours.secret, self.pushes)) for one in self.pushed[:count]))
        await until_reached(self.ours, ids)


def again(one: Delivery, secret: str, number: int) -> Delivery:
    """Another push to the same repository, later than those before."""
    payload = json.loads(one.body)
    pushed_at = datetime.now(UTC) + timedelta(seconds=number)
    payload["after"] = f"{number:040x}"
    payload["repository"]["pushed_at"] = int(pushed_at.timestamp())
    return signed(new_id(), one.repository, json.dumps(payload).encode(), secret)


@contextmanager
def _environment() -> Iterator[None]:
    """What is set inside is as it was before."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@asynccontextmanager
async def platform(projects: int, options: argparse.Namespace) -> AsyncIterator[Side]:
    """A platform with so many projects that serve."""
    async with AsyncExitStack() as stack:
        with _environment():
            home = stack.enter_context(data_folder())
            made = await stack.enter_async_context(servers(home))
            ours = await stack.enter_async_context(our_side(made, options))
        side = Side(projects, ours, await stack.enter_async_context(made.postgres.superuser()))
        side.pushed = await ours.prepare(options.deployments)
        project = await stack.enter_async_context(made.postgres.superuser("project"))
        await fill(project, ours.ledger.database, projects)
        yield side


async def idle(sides: Sequence[Side], seconds: float) -> list[Cost]:
    """What each costs in a second in which nobody asks for anything."""
    await asyncio.sleep(_REPORTED_S)
    before = [await side.spent() for side in sides]
    await asyncio.sleep(seconds)
    return [(await side.spent()).minus(was).times(1 / seconds) for side, was in zip(sides, before, strict=True)]


async def deploying(sides: Sequence[Side], count: int, resting: Sequence[Cost]) -> list[Cost]:
    """What a deployment costs on each, without what it costs to wait for the statistics."""
    spent, began = [], time.monotonic()
    before = [await side.spent() for side in sides]
    for side in sides:
        cpu_ms = side.cpu_ms()
        await side.deploy(count)
        spent.append(side.cpu_ms() - cpu_ms)
    await asyncio.sleep(_REPORTED_S)
    after, took_s = [await side.spent() for side in sides], time.monotonic() - began
    costs = []
    for cpu_ms, was, now, rest in zip(spent, before, after, resting, strict=True):
        buffers = now.buffers - was.buffers - rest.buffers * took_s
        costs.append(Cost(cpu_ms / count, buffers / count))
    return costs


def _rounds(pairs: Sequence[Sequence[Cost]], field: str) -> list[Round]:
    return [Round(getattr(large, field), getattr(small, field)) for large, small in pairs]


async def measure(sides: Sequence[Side], options: argparse.Namespace) -> dict[str, Comparison]:
    """The rounds, with the large one first in every other of them."""
    await asyncio.gather(*(side.deploy(options.deployments) for side in sides))
    idles, deployments = [], []
    for _ in range(options.idle_rounds):
        idles.append(await idle(sides, options.idle_s))
        print(f"idle second: {idles[-1][0]} with {sides[0].projects}, {idles[-1][1]} with {sides[1].projects}", flush=True)
    resting = idles[-1]
    for number in range(options.rounds):
        order = slice(None, None, -1 if number % 2 else 1)
        found = (await deploying(sides[order], options.deployments, resting[order]))[order]
        deployments.append(found)
        print(f"deployment: {found[0]} with {sides[0].projects}, {found[1]} with {sides[1].projects}", flush=True)
    return {
        f"{name}, {field}": compare(_rounds(pairs, field))
        for name, pairs in (("deployment", deployments), ("idle second", idles))
        for field in ("cpu_ms", "buffers")
    }


async def main(options: argparse.Namespace) -> None:
    """The whole figure."""
    async with platform(options.large, options) as large, platform(options.small, options) as small:
        comparisons = await measure([large, small], options)
    goal = f"≤ {_GOAL:g}"
    lines = [Line(case, one, case.split(", ")[1], goal, one.ratio <= _GOAL) for case, one in comparisons.items()]
    show(f"{options.large} projects with 10 deployments each, beside {options.small}", f"{options.small} projects", lines)
    unit = {case: case.split(", ")[1] for case in comparisons}
    print(record("scale", comparisons, unit=unit, options=vars(options)))


def arguments() -> argparse.Namespace:
    """What may be changed; the defaults are the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--deployments", type=int, default=60, help="on each side in each round")
    parser.add_argument("--large", type=int, default=10_000)
    parser.add_argument("--small", type=int, default=100)
    parser.add_argument("--idle-rounds", type=int, default=3)
    parser.add_argument("--idle-s", type=float, default=60.0, help="a multiple of the housekeeping's minute")
    return argparse.Namespace(**vars(parser.parse_args()), separate=False)


if __name__ == "__main__":
    asyncio.run(main(arguments()))
