"""From `shipoff deploy` to the live page, beside the same steps in a plain shell script.

A static site and a small Flask app; cold (a new project, empty caches), warm (one line changed), unchanged. Ours is the whole
platform as `shipoff up` starts it, and the CLI as a process of its own. The scripts are _push_static.sh and _push_dynamic.sh.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
from _measure import Comparison, Line, Round, compare, enough, record, show
from _parts import child, data_folder, free_port, together

from shipoff.embedded import binaries
from shipoff.embedded.layout import Layout

_HERE = Path(__file__).resolve().parent
_EXAMPLES = _HERE.parent / "examples"
_START_S = 180.0
_PUSH_S = 120.0
# The system's python3 and the platform's uv: what a build of the platform's finds, too.
_PATH = f"/usr/local/bin:/usr/bin:/bin:{Path(sys.executable).parent}"
_STATES = ("cold", "warm", "unchanged")
_FSYNCS, _SPAWNS = 100, 10
# The platform may add so much, in seconds, and take so many times as long.
_ADDED_S = {"static": 0.5, "dynamic": 1.5}
_TIMES = 1.2


@dataclass(frozen=True)
class Sample:
    """An example, and the line that a push changes."""

    kind: str
    folder: str
    file: str
    line: str

    def write(self, target: Path, marker: str) -> None:
        """Writes the example with the marker on its page."""
        shutil.copytree(_EXAMPLES / self.folder, target, dirs_exist_ok=True)
        text = (target / self.file).read_text()
        assert self.line in text, f"{self.folder}/{self.file} has no {self.line}"
        (target / self.file).write_text(text.replace(self.line, f"{self.line} {marker}", 1))


SAMPLES = (
    Sample("static", "static-site", "index.html", "<h1>"),
    Sample("dynamic", "hello-python", "app.py", "<h1>Hello from"),
)


@dataclass(frozen=True)
class Push:
    """How long ours took, in seconds: until it was live, until the CLI had said so, and each state by the platform's clock."""

    live_s: float
    returned_s: float
    states_s: dict[str, float]


@dataclass
class Ours:
    """The platform, and the CLI that reaches it."""

    port: int
    seen: list[str] = field(default_factory=list)

    def cli(self, *arguments: str) -> str:
        """Runs the CLI; what it prints for machines."""
        argv = [sys.executable, "-m", "shipoff", *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_PUSH_S, check=False)
        if done.returncode:
            raise SystemExit(f"shipoff {' '.join(arguments)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    def push(self, folder: Path, project: str, marker: str) -> Push:
        """Deploys the folder; its page has to show the marker then, and the deployment has to be a new one."""
        began, started = time.time(), time.perf_counter()
        printed = self.cli("deploy", str(folder), "--project", project, "--json")
        returned_s = time.perf_counter() - started
        result = json.loads(printed.splitlines()[-1])["deployment"]
        assert result["state"] == "production", result
        assert result["id"] not in self.seen, "no new deployment was made"
        self.seen.append(result["id"])
        assert marker in self.page(project), f"the page of {project} does not show {marker}"
        moments = [("accepted", result["created_at"]), *((step["to"], step["time"]) for step in result["transitions"])]
        times = {name: datetime.fromisoformat(moment).timestamp() for name, moment in moments}
        ends = [began, *times.values(), began + returned_s]
        names = ("until accepted", "queued", "building", "provisioning", "after it was live")
        states_s = {name: end - begin for name, begin, end in zip(names, ends, ends[1:], strict=False)}
        return Push(times["production"] - began, returned_s, states_s)

    def page(self, project: str) -> str:
        """What a browser gets."""
        headers = {"Host": f"{project}.localhost:{self.port}"}
        return httpx2.get(f"http://127.0.0.1:{self.port}/", headers=headers, timeout=10).raise_for_status().text


@dataclass
class Script:
    """The shell scripts, each with a work folder that is empty when it starts cold."""

    work: Path
    static_port: int

    def push(self, sample: Sample, folder: Path, marker: str, *, cold: bool) -> float:
        """Runs the script until its page shows the marker; seconds."""
        work = self.work / sample.kind
        if cold:
            self.end()
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
        where = f"http://127.0.0.1:{self.static_port}/" if sample.kind == "static" else str(free_port())
        argv = [str(_HERE / f"_push_{sample.kind}.sh"), str(folder), str(work), where, marker]
        started = time.perf_counter()
        with (self.work / f"{sample.kind}.log").open("ab") as log:
            subprocess.run(argv, check=True, timeout=_PUSH_S, stdout=log, stderr=log, env=os.environ | {"PATH": _PATH})
        return time.perf_counter() - started

    def end(self) -> None:
        """Ends the app that the last script left running."""
        file = self.work / "dynamic" / "pid"
        if file.exists():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(file.read_text()), 15)
            file.unlink()


@contextmanager
def our_side(home: Path, stack: ExitStack) -> Iterator[Ours]:
    """The platform as a person starts it."""
    os.environ |= {"XDG_CONFIG_HOME": str(home / "client"), "NO_COLOR": "1"}
    port = int(os.environ["SHIPOFF_HTTP_PORT"])
    os.environ["SHIPOFF_URL"] = f"http://localhost:{port}"
    log = home.with_name(f"{home.name}.log")
    stack.callback(log.unlink, missing_ok=True)
    with child([sys.executable, "-m", "shipoff", "up", "--no-sample"], log=log):
        deadline = time.monotonic() + _START_S
        while "Live:" not in (log.read_text() if log.exists() else ""):
            if time.monotonic() > deadline:
                raise SystemExit(f"the platform did not start:\n{log.read_text()}")
            time.sleep(0.05)
        yield Ours(port)


@contextmanager
def script_side(home: Path) -> Iterator[Script]:
    """A bare Caddy that serves the static script's `current` folder, and nothing else."""
    work = home / "script"
    (work / "static").mkdir(parents=True)
    port = free_port()
    files = {"handler": "file_server", "root": str(work / "static" / "current"), "index_names": ["index.html"]}
    server = {"listen": [f"127.0.0.1:{port}"], "routes": [{"handle": [files]}], "automatic_https": {"disable": True}}
    config = {"admin": {"disabled": True}, "apps": {"http": {"servers": {"bare": server}}}}
    (work / "caddy.json").write_text(json.dumps(config))
    argv = [str(binaries.caddy(Layout(home), None)), "run", "--config", str(work / "caddy.json")]
    script = Script(work, port)
    with child(argv, log=work / "caddy.log", env={"HOME": str(work)}):
        try:
            yield script
        finally:
            script.end()


def control(folder: Path) -> dict[str, float]:
    """The raw cost of a fsync and of starting a process just now: medians in seconds."""
    fsyncs, spawns = [], []
    with (folder / "control").open("wb") as file:
        for _ in range(_FSYNCS):
            started = time.perf_counter()
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
            fsyncs.append(time.perf_counter() - started)
    for _ in range(_SPAWNS):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], check=True)
        spawns.append(time.perf_counter() - started)
    return {"fsync": statistics.median(fsyncs), "spawn": statistics.median(spawns)}


@dataclass
class Tally:
    """The rounds by case: until it was live, and until the CLI had returned."""

    live: dict[str, list[Round]] = field(default_factory=lambda: defaultdict(list))
    returned: dict[str, list[Round]] = field(default_factory=lambda: defaultdict(list))
    states: dict[str, list[dict[str, float]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, case: str, push: Push, script_s: float, readings: Sequence[dict[str, float]]) -> None:
        """Adds one round of a case."""
        controls = together(readings)
        self.live[case].append(Round(push.live_s, script_s, controls))
        self.returned[case].append(Round(push.returned_s, script_s, controls))
        self.states[case].append(push.states_s)

    def enough(self, wanted: int) -> bool:
        """Whether every case has its steady rounds."""
        return bool(self.live) and all(enough(rounds, wanted) for rounds in self.live.values())

    def medians(self) -> dict[str, dict[str, float]]:
        """What each state of ours took, by case."""
        return {
            case: {name: statistics.median(push[name] for push in pushes) for name in pushes[0]}
            for case, pushes in self.states.items()
        }


def one_round(number: int, home: Path, ours: Ours, script: Script, tally: Tally) -> None:
    """Each case once: ours, then the script's. The unchanged push shows the warm one's marker again."""
    for sample in SAMPLES:
        project, folder = f"{sample.kind}-{number}", home / "source" / f"{sample.kind}-{number}"
        for state in _STATES:
            marker = f"{'warm' if state == 'unchanged' else state}-{number}"
            sample.write(folder, marker)
            readings = [control(home)]
            pushed = ours.push(folder, project, marker)
            readings.append(control(home))
            script_s = script.push(sample, folder, marker, cold=state == "cold")
            readings.append(control(home))
            tally.add(f"{sample.kind}, {state}", pushed, script_s, readings)
            moved = tally.live[f"{sample.kind}, {state}"][-1].movement
            print(
                f"round {number}, {sample.kind}, {state}: live after {pushed.live_s:.2f} s, CLI returned after "
                f"{pushed.returned_s:.2f} s, script {script_s:.2f} s, controls moved {moved:.2f}",
                flush=True,
            )
        # So that the apps of old rounds do not take the machine from the next.
        ours.cli("destroy", "--project", project, "--yes", "--json")


def lines(tally: Tally) -> list[Line]:
    """The table's lines: until live first, then until the CLI has returned."""
    made = []
    for what, rounds in (("live", tally.live), ("CLI returned", tally.returned)):
        for case, of_case in rounds.items():
            limit_s = _ADDED_S[case.partition(",")[0]]
            comparison = compare(of_case)
            goal = f"adds {comparison.added:.2f} (≤ {limit_s:g}), ≤ {_TIMES:g} ×"
            made.append(Line(f"{case}: {what}", comparison, "s", goal, meets(comparison, limit_s)))
    return made


def meets(comparison: Comparison, limit_s: float) -> bool:
    """Whether the platform adds no more than it may, and takes no more times as long."""
    return comparison.added <= limit_s and comparison.ratio <= _TIMES


def report(tally: Tally, options: argparse.Namespace) -> None:
    """The table and the file."""
    table = lines(tally)
    show("Push to live: `shipoff deploy` beside a shell script with the same steps", "script", table)
    more: dict[str, Any] = {"added": {line.case: line.comparison.added for line in table}, "states_s": tally.medians()}
    comparisons = {line.case: line.comparison for line in table}
    file = record("push-to-live", comparisons, unit=dict.fromkeys(comparisons, "s"), options=vars(options), **more)
    for case, states in tally.medians().items():
        print(f"{case}: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in states.items()))
    print(file)


def main(options: argparse.Namespace) -> None:
    """The whole figure."""
    tally = Tally()
    with ExitStack() as stack:
        home = stack.enter_context(data_folder())
        ours = stack.enter_context(our_side(home, stack))
        script = stack.enter_context(script_side(home))
        # Once each for what is only ever read from the disk once.
        one_round(0, home, ours, script, Tally())
        number = 0
        while not tally.enough(options.rounds):
            number += 1
            one_round(number, home, ours, script, tally)
    report(tally, options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="steady ones; at most twice as many are tried")
    main(parser.parse_args())
