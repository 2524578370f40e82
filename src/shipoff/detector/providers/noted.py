"""What is seen but not used yet: a Dockerfile, and languages without a provider. It makes the answer helpful."""

from __future__ import annotations

import posixpath

from shipoff.detector.domain import Snapshot

_DOCKERFILES = ("Dockerfile", "Containerfile")
_LANGUAGES = {
    "go.mod": "Go",
    "Cargo.toml": "Rust",
    "Gemfile": "Ruby",
    "composer.json": "PHP",
    "pom.xml": "Java",
    "build.gradle": "Java",
    "build.gradle.kts": "Java",
    "mix.exs": "Elixir",
    "deno.json": "Deno",
    "Pipfile": "Pipenv",
}
_MANIFESTS = frozenset({"package.json", "requirements.txt", "pyproject.toml", "manage.py", "Procfile", "index.html"})
_SHOWN = 3


def dockerfile(snapshot: Snapshot) -> str:
    """The path of a Dockerfile in the root; empty: none."""
    return snapshot.first(*_DOCKERFILES)


def languages(snapshot: Snapshot) -> list[tuple[str, str]]:
    """(file, language) of what no provider builds."""
    return [(file, language) for file, language in _LANGUAGES.items() if snapshot.has(file)]


def folders_with_apps(snapshot: Snapshot) -> list[str]:
    """The first folders, at most two levels down, that hold a manifest of their own."""
    found: dict[str, None] = {}
    for path in snapshot.names():
        folder, name = posixpath.split(path)
        if folder and folder.count("/") < 2 and name in _MANIFESTS and not {"node_modules", ".venv"} & set(folder.split("/")):
            found.setdefault(folder)
    return sorted(found, key=lambda folder: (folder.count("/"), folder))[:_SHOWN]
