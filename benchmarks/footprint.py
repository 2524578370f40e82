"""Memory and CPU of the whole platform at rest with one app, beside the sum of its parts started bare.

Ours is everything that `shipoff up` starts: the ten services in one process, PostgreSQL, Valkey, Caddy, and the sample app. The
other is PostgreSQL, Valkey and Caddy alone, with the platform's own configuration, which nobody talks to. Both are never there
at once, because processes share the pages of the programs that they have in common.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psutil
from _measure import Comparison, Line, Round, compare, enough, record, show
from _parts import child, data_folder, free_port, servers

from shipoff.embedded.caddy import Caddy
from shipoff.embedded.layout import Layout, backing_account

_START_S = 240.0
_SPIN = 2_000_000
# The platform at rest may have so much.
_MOST_BYTES = 600e6
_MOST_SHARE = 0.02
_PAGE = "hello-python.localhost"
# What a process is part of, by what its command line holds; the first that fits.
_PARTS = {"postgres": "postgres", "valkey": "valkey", "caddy": "caddy", "shipoff": "services"}


@dataclass(frozen=True)
class Reading:
    """What a set of processes had: proportional memory in bytes, by part, and its share of one core while it was watched."""

    memory: dict[str, int]
    share: float
    controls: dict[str, list[float]]

    @property
    def memory_bytes(self) -> int:
        """All of it."""
        return sum(self.memory.values())


@dataclass
class Tally:
    """The rounds of both cases, and what each part of ours had."""

    memory: list[Round] = field(default_factory=list)
    share: list[Round] = field(default_factory=list)
    parts: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def add(self, ours: Reading, bare: Reading) -> None:
        """Adds a round. Memory does not depend on how busy the machine is, so that it has no control."""
        self.memory.append(Round(ours.memory_bytes / 1e6, bare.memory_bytes / 1e6))
        spins = [*ours.controls["spin"], *bare.controls["spin"]]
        self.share.append(Round(ours.share * 100, bare.share * 100, {"spin": spins}))
        for part, size in ours.memory.items():
            self.parts[part].append(size)


def family(roots: set[int]) -> list[psutil.Process]:
    """These processes and everything that came of them."""
    found: dict[int, psutil.Process] = {}
    for pid in roots:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            found |= {one.pid: one for one in (process, *process.children(recursive=True))}
    return list(found.values())


def of_home(home: Path) -> set[int]:
    """Processes that name the data folder: apps go on by themselves when the platform is started again."""
    named = set()
    for process in psutil.process_iter():
        try:
            if str(home) in " ".join([*process.cmdline(), *process.environ().values()]):
                named.add(process.pid)
        except psutil.Error:
            continue
    return named - {os.getpid()}


def part_of(process: psutil.Process) -> str:
    """Which part a process belongs to; what is none of the platform's own is the app's."""
    line = " ".join([process.name(), *process.cmdline()[:4]])
    return next((part for word, part in _PARTS.items() if word in line), "app")


def pss_bytes(process: psutil.Process) -> int:
    """Its memory, shared pages divided among those who share them (proc_pid_smaps(5))."""
    # One that has ended in the meantime has none.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0


def cpu_s(processes: list[psutil.Process]) -> float:
    """CPU seconds so far, of those who were waited for too."""
    spent = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            spent += sum(process.cpu_times()[:4])
    return spent


def spin_s() -> float:
    """The CPU that a loop of always the same length takes just now: how fast the core is."""
    started = time.process_time()
    for _ in range(_SPIN):
        pass
    return time.process_time() - started


def watch(roots: set[int], options: argparse.Namespace) -> Reading:
    """Waits until it is at rest, then reads for a while."""
    time.sleep(options.settle_s)
    spins = [spin_s()]
    before, started = cpu_s(family(roots)), time.monotonic()
    time.sleep(options.watch_s)
    after = family(roots)
    share = (cpu_s(after) - before) / (time.monotonic() - started)
    memory: dict[str, int] = defaultdict(int)
    for process in after:
        memory[part_of(process)] += pss_bytes(process)
    return Reading(dict(memory), share, {"spin": [*spins, spin_s()]})


@contextmanager
def platform(home: Path) -> Iterator[None]:
    """As a person starts it, with the sample app live."""
    os.environ |= {"XDG_CONFIG_HOME": str(home / "client"), "NO_COLOR": "1"}
    port = os.environ["SHIPOFF_HTTP_PORT"]
    os.environ["SHIPOFF_URL"] = f"http://localhost:{port}"
    log = home / "up.log"
    log.unlink(missing_ok=True)
    with child([sys.executable, "-m", "shipoff", "up"], log=log):
        deadline = time.monotonic() + _START_S
        while "Live:" not in log.read_text() or not _answers(port):
            if time.monotonic() > deadline:
                raise SystemExit(f"the platform did not start:\n{log.read_text()}")
            time.sleep(0.2)
        yield


def _answers(port: str) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/", headers={"Host": f"{_PAGE}:{port}"}, timeout=5).status_code == 200
    except httpx2.HTTPError:
        return False


@asynccontextmanager
async def bare_parts(home: Path) -> AsyncIterator[set[int]]:
    """The three servers alone; their pids."""
    async with servers(home) as made:
        caddy = Caddy(Layout(home), backing_account(), free_port())
        await caddy.start()
        try:
            yield {one.child.pid for one in (made.postgres, made.valkey, caddy) if one.child is not None}
        finally:
            await caddy.stop()


async def bare(home: Path, options: argparse.Namespace) -> Reading:
    """One reading of the parts."""
    async with bare_parts(home) as pids:
        return await asyncio.to_thread(watch, pids, options)


def one_round(number: int, home: Path, other: Path, options: argparse.Namespace, tally: Tally) -> None:
    """Ours, then the parts."""
    with platform(home):
        ours = watch(of_home(home), options)
    theirs = asyncio.run(bare(other, options))
    assert {"services", "postgres", "valkey", "caddy", "app"} <= set(ours.memory), f"something was not there: {ours.memory}"
    assert {"postgres", "valkey", "caddy"} == set(theirs.memory), f"something else was there: {theirs.memory}"
    tally.add(ours, theirs)
    print(
        f"round {number}: {ours.memory_bytes / 1e6:.0f} MB and {ours.share * 100:.2f} % of a core, "
        f"bare {theirs.memory_bytes / 1e6:.0f} MB and {theirs.share * 100:.2f} %",
        flush=True,
    )


def report(tally: Tally, options: argparse.Namespace) -> None:
    """The table and the file."""
    memory, share = compare(tally.memory), compare(tally.share)
    table = [
        Line("memory (PSS)", memory, "MB", f"≤ {_MOST_BYTES / 1e6:.0f} MB", memory.ours * 1e6 <= _MOST_BYTES),
        Line("CPU", share, "% of a core", f"≤ {_MOST_SHARE:.0%}", share.ours <= _MOST_SHARE * 100),
    ]
    show("Footprint: the whole platform at rest with one app, beside its parts started bare", "bare parts", table)
    parts = {part: statistics.median(sizes) for part, sizes in tally.parts.items()}
    print("of it: " + ", ".join(f"{part} {size / 1e6:.0f} MB" for part, size in sorted(parts.items(), key=lambda one: -one[1])))
    comparisons: dict[str, Comparison] = {line.case: line.comparison for line in table}
    units = {line.case: line.unit for line in table}
    print(record("footprint", comparisons, unit=units, options=vars(options), parts_bytes=parts))


def main(options: argparse.Namespace) -> None:
    """The whole figure."""
    if not Path("/proc/self/smaps_rollup").exists():
        raise SystemExit("only Linux tells proportional memory: measure there")
    tally, number = Tally(), 0
    with data_folder() as other, data_folder() as home:
        while not enough(tally.share, options.rounds):
            number += 1
            one_round(number, home, other, options, tally)
    report(tally, options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="steady ones; at most twice as many are tried")
    parser.add_argument("--settle-s", type=float, default=20.0, help="from the start to the first look")
    parser.add_argument("--watch-s", type=float, default=30.0, help="how long the CPU is watched")
    main(parser.parse_args())
