"""Which project a verb is about."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from pathlib import Path

from shipoff.cli.errors import UsageFailure

PROJECT_FILE = "shipoff.toml"
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def as_label(text: str) -> str:
    """A DNS label (RFC 1035) that resembles the text: "My App_2" gives "my-app-2"; empty when nothing of it is left."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:50].rstrip("-")


def is_label(text: str) -> bool:
    """Whether the text can be a project's name."""
    return _LABEL.fullmatch(text) is not None


def written_name(folder: Path) -> str | None:
    """The project's name in the folder's shipoff.toml; None without one. Raises UsageFailure when the file is wrong."""
    file = folder / PROJECT_FILE
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageFailure(f"{file} cannot be read: {error}", field=PROJECT_FILE) from error
    name = content.get("project")
    if name is None:
        return None
    if not isinstance(name, str) or not is_label(name):
        raise UsageFailure(
            f"{file} names the project {name!r}", field="project", remedy="small letters, digits and hyphens, at most 63"
        )
    return name


def choose(option: str | None, folder: Path) -> str:
    """The project: the option, else the folder's shipoff.toml, else the folder's own name. Raises UsageFailure."""
    if option:
        return option
    name = written_name(folder) or as_label(folder.resolve().name)
    if not name:
        raise UsageFailure(
            f"the folder's name {folder.resolve().name!r} gives no project name",
            field="--project",
            remedy="name it: --project NAME",
        )
    return name


def repository_label(url: str) -> str:
    """A project's name for a repository: "https://host/team/my-app.git" gives "my-app"; empty when there is none."""
    last = re.split(r"[/:]", url.rstrip("/"))[-1]
    return as_label(last.removesuffix(".git"))


def write_project_file(folder: Path, name: str) -> Path:
    """Writes shipoff.toml with the project's name; an existing one keeps everything else. Returns the file."""
    file = folder / PROJECT_FILE
    line = f'project = "{name}"\n'
    old = file.read_text(encoding="utf-8") if file.exists() else ""
    new, replaced = re.subn(r"(?m)^project\s*=.*\n?", line, old, count=1)
    file.write_text(new if replaced else line + old, encoding="utf-8")
    return file
