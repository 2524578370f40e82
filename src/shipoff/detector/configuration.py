"""shipoff.toml: what a repository itself says of how it is built and run. A project's settings come before it.

[build] takes the names of a project's build settings, [run] a health path, [processes] a command for each process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from shipoff.detector.domain import Problem, Settings, Snapshot
from shipoff.detector.manifests import table_at, toml_table

PATH = "shipoff.toml"
_BUILD = frozenset(item.name for item in fields(Settings))
_TABLES = frozenset({"project", "build", "run", "processes"})
_RUN = frozenset({"health_path"})
_MAX_CHARACTERS = 4096
_MAX_PROCESSES = 20


@dataclass(frozen=True)
class Written:
    """What the files say; `settings` holds what the project's own settings leave open."""

    settings: Settings
    # The settings that come from a file.
    named: frozenset[str] = frozenset()
    processes: Mapping[str, str] = field(default_factory=dict)
    health_path: str = ""
    warnings: tuple[str, ...] = ()


def written(snapshot: Snapshot, settings: Settings) -> Written | Problem:
    """The project's settings, completed from a folder's shipoff.toml; a Problem when a value there is of the wrong kind."""
    reading = toml_table(snapshot, PATH)
    if reading.unreadable:
        return Problem(f"{reading.unreadable}. Mend it and deploy again.", field=PATH)
    build, run, processes = (table_at(reading.table, name) for name in ("build", "run", "processes"))
    unknown = [*sorted(set(reading.table) - _TABLES)]
    unknown += [f"build.{key}" for key in sorted(set(build) - _BUILD)] + [f"run.{key}" for key in sorted(set(run) - _RUN)]
    given = {key: "off" if key == "dockerfile" and value is False else value for key, value in build.items() if key in _BUILD}
    named = {f"build.{key}": value for key, value in given.items()} | {
        f"processes.{key}": value for key, value in processes.items()
    }
    for key, value in (named | {f"run.{key}": run[key] for key in _RUN & set(run)}).items():
        if not isinstance(value, str) or len(value) > _MAX_CHARACTERS:
            return Problem(f"{PATH}: {key[:80]} has to be a text of at most {_MAX_CHARACTERS} characters.", field=PATH)
    health = str(run.get("health_path", ""))
    if health and not health.startswith("/"):
        return Problem(f"{PATH}: run.health_path has to begin with a slash.", field=PATH)
    open_ = {key: str(value) for key, value in given.items() if not getattr(settings, key).strip()}
    return Written(
        settings=replace(settings, **open_),
        named=frozenset(key for key, value in open_.items() if value.strip()),
        processes={str(name)[:63]: str(command) for name, command in sorted(processes.items())[:_MAX_PROCESSES]},
        health_path=health,
        warnings=tuple(f"{PATH}: {key[:80]} is not known and was left out" for key in unknown[:3]),
    )
