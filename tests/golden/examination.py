"""Compares plans with another project's labels: `python tests/golden/examination.py LABELS.jsonl FOLDER_OF_EXAMPLES`.

A row holds `name` (a folder of the examples), `provider`, `package_manager` and `is_static`; null says nothing. Ends with 1
below 95 per cent. The labels and the apps are not ours, and so not here: railwayapp/railpack has the apps in `examples/`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from snapshots import snapshot_of

from shipoff.detector.domain import Plan, Problem, Settings
from shipoff.detector.handlers import detect

_PASS = 0.95
# Their words for what we name otherwise.
_PROVIDERS = {"golang": "go", "staticfile": "static"}
_MANAGERS = {"yarn1": "yarn", "yarnberry": "yarn", "dotnet": "nuget"}


def disagreements(row: dict[str, object], outcome: Plan | Problem) -> list[str]:
    """What our answer says otherwise, each as "field: theirs → ours"."""
    if isinstance(outcome, Problem):
        return [f"a question: {outcome.message}"] if row["provider"] else []
    provider, manager = str(row["provider"] or ""), str(row["package_manager"] or "")
    pairs = [
        ("provider", _PROVIDERS.get(provider, provider), outcome.provider),
        ("package manager", _MANAGERS.get(manager, manager), outcome.package_manager.name),
        ("static", str(row["is_static"]), str(outcome.mode.files_only)),
    ]
    return [f"{name}: {theirs} → {ours}" for name, theirs, ours in pairs if theirs and theirs != ours]


def main(labels: Path, examples: Path) -> int:
    """Prints each disagreement and the share of rows that agree."""
    rows = [json.loads(line) for line in labels.read_text().splitlines()]
    wrong = 0
    for row in rows:
        found = disagreements(row, detect(snapshot_of(examples / row["name"]), Settings()))
        wrong += bool(found)
        for line in found:
            print(f"{row['name']}: {line}")
    share = (len(rows) - wrong) / len(rows)
    print(f"{len(rows) - wrong} of {len(rows)} rows agree ({share:.1%})")
    return 0 if share >= _PASS else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
