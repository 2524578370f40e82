"""What is seen beside what is used: a Dockerfile, and languages without a provider. It makes the answer helpful."""

from __future__ import annotations

import posixpath

from shipoff.detector.domain import Snapshot, folder_of

_DOCKERFILES = ("Dockerfile", "Containerfile")
_LANGUAGES = {
    "CMakeLists.txt": "C++ (CMake)",
    "meson.build": "C++ (Meson)",
    "gleam.toml": "Gleam",
    "Package.swift": "Swift",
    "dune-project": "OCaml",
    "stack.yaml": "Haskell",
    "build.sbt": "Scala",
    "project.clj": "Clojure",
    "shard.yml": "Crystal",
    "pubspec.yaml": "Dart",
}
_MANIFESTS = frozenset(
    {
        "package.json",
        "requirements.txt",
        "pyproject.toml",
        "manage.py",
        "Procfile",
        "index.html",
        "go.mod",
        "Gemfile",
        "mix.exs",
    }
    | {"composer.json", "Cargo.toml", "pom.xml", "build.gradle", "build.gradle.kts", "deno.json", "mix.exs", "index.php"}
)
_SHOWN = 3


def dockerfile(snapshot: Snapshot, setting: str) -> str:
    """The path of the Dockerfile that the setting names, or of one in the root; empty: none."""
    if setting.strip() not in ("", "off"):
        path = folder_of(setting) or ""
        return path if snapshot.has(path) else ""
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
