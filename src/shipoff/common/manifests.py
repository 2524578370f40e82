"""Which files of a source detection reads: manifests, lock files, configurations, and the files an app may start from.

Used by whoever takes a snapshot: the builder of what it fetched, the command line of a folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

FILE_BYTES = 256 << 10
TOTAL_BYTES = 4 << 20
# The platform's own bookkeeping is never looked at.
SKIPPED = frozenset({".git", ".hg", ".svn"})
# Installed or built: thousands of paths that say nothing about the source.
NOT_DESCENDED = frozenset({"node_modules", "__pycache__", ".venv", "venv"})
_MANIFESTS = re.compile(
    r"""
    package\.json5? | package-lock\.json | npm-shrinkwrap\.json | yarn\.lock | \.yarnrc\.yml | \.npmrc
    | pnpm-lock\.yaml | pnpm-workspace\.yaml | bun\.lock | bunfig\.toml | turbo\.json | nx\.json | project\.json | lerna\.json
    | deno\.jsonc? | deno\.lock
    | requirements[\w.-]*\.txt | pyproject\.toml | uv\.lock | uv\.toml | poetry\.lock | pdm\.lock | Pipfile | Pipfile\.lock
    | setup\.py | setup\.cfg | environment\.ya?ml
    | Procfile | Dockerfile | Containerfile | shipoff\.toml | app\.json | Staticfile
    | (vite|next|svelte|astro|nuxt|remix|gatsby|react-router|vue|webpack|rsbuild|sanity|brunch)[\w-]*[.-]config\.\w+
    | angular\.json | \.angular-cli\.json | ember-cli-build\.js | \.dojorc | sanity\.json
    | index\.html | \.nvmrc | \.node-version | \.python-version | runtime\.txt | \.tool-versions | \.?mise\.toml
    | \.(ruby|go|java|php|bun|deno)-version | \.dvmrc | rust-toolchain(\.toml)? | global\.json
    | composer\.(json|lock) | go\.(mod|work|sum) | Gemfile(\.lock)? | config\.ru | Cargo\.(toml|lock)
    | pom\.xml | build\.gradle(\.kts)? | settings\.gradle(\.kts)? | [\w.-]+\.([cfv]sproj|sln)
    | mix\.exs | mix\.lock | artisan | start\.sh | config\.(toml|ya?ml|json|rb) | hugo\.(toml|ya?ml|json) | _config\.yml
    | tsconfig\.json | (server|index|main|app)\.([cm]?js|ts|php|go)
    """,
    re.VERBOSE,
)
_MANIFEST_DEPTH = 4
_PYTHON_DEPTH = 2
_PYTHON_MANIFESTS = frozenset({"requirements.txt", "pyproject.toml", "Pipfile", "manage.py"})
# A lock file tells what matters (its format's version, and the few packages one looks for) near its head.
_LOCKS = re.compile(r".*(\.lock|-lock\.json|-lock\.yaml|shrinkwrap\.json|go\.sum)")


@dataclass(frozen=True)
class SourceFile:
    """A regular file by its path from the source's root, with slashes."""

    path: str
    size_bytes: int


def selected(files: Iterable[SourceFile], root_directory: str) -> Iterator[tuple[str, int]]:
    """What to read: path and number of bytes; manifests first, the shallowest first, until there is enough."""
    base = root_directory.strip("/").removeprefix("./")
    known = {file.path: file for file in files}
    others = {folder for path in known for folder, name in [_split(path)] if name in _PYTHON_MANIFESTS}
    ranked = [(rank, path.count("/"), path) for path in known if (rank := _rank(path, base, others)) is not None]
    total = 0
    for _, _, path in sorted(ranked):
        size = known[path].size_bytes
        if size > FILE_BYTES and not _LOCKS.fullmatch(path):
            continue
        total += min(size, FILE_BYTES)
        if total > TOTAL_BYTES:
            return
        yield path, FILE_BYTES


def _split(path: str) -> tuple[str, str]:
    folder, _, name = path.rpartition("/")
    return folder, name


def _rank(path: str, base: str, others: set[str]) -> int | None:
    """How much it is wanted: 0 most; None: not at all. `others`: folders of Python apps besides the one at the base."""
    depth = path.count("/")
    inside = not base or path.startswith(f"{base}/")
    near = depth - (len(base.split("/")) if base and inside else 0)
    folder, name = _split(path)
    if _MANIFESTS.fullmatch(name) and depth <= _MANIFEST_DEPTH:
        return (2 if _LOCKS.fullmatch(name) else 0) + (0 if inside else 3)
    relative = path[len(base) + 1 :] if base and inside else path
    if not name.endswith(".py"):
        return None
    if inside and (near <= 1 or (near == _PYTHON_DEPTH and relative.startswith("src/"))):
        return 1
    # An app further down: shipoff.toml, or a workspace, may choose it.
    return 6 if depth <= _MANIFEST_DEPTH and {folder, _split(folder)[0]} & others else None
