"""Rebuild: what the platform adds to a build, and what builds do to everybody else, through `shipoff deploy`.

Three figures: a rebuild after a changed line beside the plan's own commands in a shell, both with a warm cache of the package
manager; the platform's own part of a build (unpack, plan, pack, upload) of 300 files that need no step, beside tar; and the API
read at a fixed rate while twenty builds are queued.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from _measure import Line, Round, compare, percentile, record, show
from _parts import data_folder
from push_to_live import Ours, our_side

_EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
_PROBE = Path(__file__).resolve().parent / "_probe.py"
_FILES = 300
_BUILDS = 20
_READS_PER_S = 30.0
_REST_S = 10.0
_DRAIN_S = 600.0
_GOALS = {"rebuild": 1.3, "own part": 0.5, "API p99": 0.2}
_TOOLS = "/usr/local/bin:/usr/bin:/bin"


@dataclass
class Samples:
    """The rounds of each figure."""

    rounds: dict[str, list[Round]] = field(default_factory=dict)

    def add(self, figure: str, ours: float, peer: float) -> None:
        """One round."""
        self.rounds.setdefault(figure, []).append(Round(ours, peer))
        print(f"{figure}: ours {ours:.3f}, beside {peer:.3f}", flush=True)


def app(target: Path, marker: str) -> Path:
    """A page of React that is built by Vite, with the marker in it."""
    shutil.copytree(_EXAMPLES / "vite-react", target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules", "dist"))
    page = target / "index.html"
    page.write_text(page.read_text().replace("</head>", f"<!-- {marker} --></head>"))
    return target


def site(target: Path, marker: str) -> Path:
    """300 files of 8 KiB that are served as they are."""
    target.mkdir(parents=True, exist_ok=True)
    for number in range(_FILES - 1):
        (target / f"page-{number}.html").write_text(f"<p>{number} " + "lorem ipsum dolor " * 450)
    (target / "index.html").write_text(f"<h1>{marker}</h1>")
    return target


def steps(folder: Path) -> list[tuple[list[str], dict[str, str]]]:
    """The commands of the plan with their environment."""
    argv = [sys.executable, "-m", "shipoff", "plan", str(folder), "--json"]
    plan = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    found: Any = plan.get("plan", plan)
    return [(command, step.get("env") or {}) for step in found["steps"] for command in step["commands"]]


def alone(commands: Sequence[tuple[list[str], dict[str, str]]], folder: Path, cache: Path) -> float:
    """Runs the plan's commands as they are; seconds."""
    environment = {"PATH": _TOOLS, "HOME": str(cache), "npm_config_cache": str(cache / "npm")}
    began = time.perf_counter()
    for command, more in commands:
        argv = command["argv"] if isinstance(command, dict) else command
        subprocess.run(argv, cwd=folder, env=environment | more, check=True, capture_output=True)
    return time.perf_counter() - began


def packed_alone(folder: Path, work: Path) -> float:
    """Unpacks and packs the same files with tar; seconds."""
    archive = work / "in.tar.gz"
    subprocess.run(["tar", "-C", str(folder), "-czf", str(archive), "."], check=True)
    began = time.perf_counter()
    (work / "out").mkdir()
    subprocess.run(["tar", "-C", str(work / "out"), "-xzf", str(archive)], check=True)
    subprocess.run(["tar", "-C", str(work / "out"), "-czf", str(work / "out.tar.gz"), "."], check=True)
    taken_s = time.perf_counter() - began
    shutil.rmtree(work)
    return taken_s


def rebuilds(ours: Ours, home: Path, rounds: int, samples: Samples) -> None:
    """The first round of each side fills its caches, and does not count."""
    cache = home / "alone"
    cache.mkdir()
    for number in range(rounds + 1):
        marker = f"round-{number}"
        folder = app(home / "app", marker)
        pushed = ours.push(folder, "rebuilt", marker)
        copy = app(home / f"copy-{number}", marker)
        taken_s = alone(steps(copy), copy, cache)
        shutil.rmtree(copy)
        if number:
            samples.add("rebuild", pushed.states_s["building"], taken_s)


def own_parts(ours: Ours, home: Path, rounds: int, samples: Samples) -> None:
    """A build that has nothing to do but what the platform does itself."""
    for number in range(rounds + 1):
        marker = f"round-{number}"
        folder = site(home / "site", marker)
        pushed = ours.push(folder, "files", marker)
        (home / "packing").mkdir()
        taken_s = packed_alone(folder, home / "packing")
        if number:
            samples.add("own part", pushed.states_s["building"], taken_s)


def token_of(home: Path) -> str:
    """The CLI's own."""
    written = (home / "client" / "shipoff" / "credentials.json").read_text()
    found = re.search(r"shp_[A-Za-z0-9_-]+", written)
    assert found is not None, "the client has no token"
    return found[0]


async def read(home: Path, path: str, work: asyncio.Future[None]) -> list[float]:
    """How long readings took that were due at a fixed rate while the work lasted."""
    argv = [sys.executable, str(_PROBE), str(home / "run" / "edge" / "gateway.sock"), path, token_of(home), str(_READS_PER_S)]
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
    probe = await asyncio.create_subprocess_exec(*argv, **pipes)
    try:
        await work
    finally:
        written, _ = await probe.communicate(b"")
    found = json.loads(written)
    assert not found["bad"], f"{found['bad']} readings were no 200"
    return list(found["took_s"])


async def queued(ours: Ours, home: Path) -> None:
    """Twenty builds of their own projects, each a few seconds of work, until all of them are live."""

    def send(number: int) -> None:
        folder = site(home / "queued" / str(number), "queued")
        work = "import hashlib\nfor n in range(4_000_000): hashlib.sha256(b'%d' % n)\n"
        (folder / "work.py").write_text(work)
        (folder / "shipoff.toml").write_text('[build]\nbuild_command = "python3 work.py"\noutput_directory = "."\n')
        ours.cli("deploy", str(folder), "--project", f"queued-{number}", "--detach", "--json")

    for number in range(_BUILDS):
        await asyncio.to_thread(send, number)
    headers = {"Host": f"api.localhost:{ours.port}", "Authorization": f"Bearer {token_of(home)}"}
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{ours.port}", headers=headers) as http, asyncio.timeout(_DRAIN_S):
        for number in range(_BUILDS):
            state = ""
            while state != "production":
                await asyncio.sleep(0.5)
                answer = (await http.get(f"/v1/projects/queued-{number}/deployments?limit=1")).raise_for_status()
                state = answer.json()["items"][0]["state"]
                assert state not in ("failed", "inactive"), f"queued-{number} is {state}"


async def api(ours: Ours, home: Path, samples: Samples) -> None:
    """The API at rest, then while builds wait and run."""
    path = "/v1/projects/rebuilt/deployments?limit=1"
    at_rest = await read(home, path, asyncio.ensure_future(asyncio.sleep(_REST_S)))
    busy = await read(home, path, asyncio.ensure_future(queued(ours, home)))
    samples.add("API p99", percentile(busy, 99), percentile(at_rest, 99))


def main(options: argparse.Namespace) -> None:
    """The whole figure."""
    samples = Samples()
    with ExitStack() as stack:
        home = stack.enter_context(data_folder())
        os.environ.setdefault("SHIPOFF_GATEWAY_REQUESTS_PER_MINUTE", "100000")
        ours = stack.enter_context(our_side(home, stack))
        own_parts(ours, home, options.rounds, samples)
        rebuilds(ours, home, options.rounds, samples)
        asyncio.run(api(ours, home, samples))
    figures = {name: compare(rounds) for name, rounds in samples.rounds.items()}
    rebuild, own, p99 = figures["rebuild"], figures["own part"], figures["API p99"]
    lines = [
        Line("rebuild after a changed line", rebuild, "s", f"≤ {_GOALS['rebuild']} ×", rebuild.ratio <= _GOALS["rebuild"]),
        Line(f"own part, {_FILES} files", own, "s", f"≤ {_GOALS['own part']} s", own.ours <= _GOALS["own part"]),
        Line(f"API p99, {_BUILDS} builds queued", p99, "s", f"≤ {_GOALS['API p99']} s", p99.ours <= _GOALS["API p99"]),
    ]
    show("Builds", "beside", lines)
    record("rebuild", figures, unit=dict.fromkeys(figures, "s"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    main(parser.parse_args())
