"""What the detector sees of a source: every path, and the contents of manifests and likely entry files."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shipoff.builder.assignment import Limits, source_error
from shipoff.contracts.build.v1 import build_pb2

FILE_BYTES = 256 << 10
TOTAL_BYTES = 4 << 20
# Keeps the message below what one call may carry.
_PATHS_BYTES = 8 << 20
_CHUNK_BYTES = 1 << 20
_SKIPPED = frozenset({".git", ".hg", ".svn"})
# Installed or built: thousands of paths that say nothing about the source.
_NOT_DESCENDED = frozenset({"node_modules", "__pycache__", ".venv", "venv"})

_MANIFESTS = re.compile(
    r"""
    package\.json | package-lock\.json | npm-shrinkwrap\.json | yarn\.lock | \.yarnrc\.yml | \.npmrc
    | pnpm-lock\.yaml | pnpm-workspace\.yaml | bun\.lock | bunfig\.toml | turbo\.json | nx\.json | lerna\.json
    | deno\.jsonc? | deno\.lock
    | requirements[\w.-]*\.txt | pyproject\.toml | uv\.lock | uv\.toml | poetry\.lock | pdm\.lock | Pipfile | Pipfile\.lock
    | setup\.py | setup\.cfg | environment\.ya?ml
    | Procfile | Dockerfile | Containerfile | shipoff\.toml | app\.json
    | (vite|next|svelte|astro|nuxt|remix|gatsby|react-router|vue|webpack|rsbuild)[\w-]*\.config\.\w+ | nuxt\.config
    | angular\.json | \.angular-cli\.json | ember-cli-build\.js | gatsby-config\.\w+
    | index\.html | \.nvmrc | \.node-version | \.python-version | runtime\.txt | \.tool-versions | mise\.toml
    | \.ruby-version | \.go-version | rust-toolchain(\.toml)? | global\.json
    | composer\.(json|lock) | go\.(mod|work|sum) | Gemfile(\.lock)? | config\.ru | Cargo\.(toml|lock)
    | pom\.xml | build\.gradle(\.kts)? | settings\.gradle(\.kts)? | [\w.-]+\.(csproj|fsproj|sln)
    | mix\.exs | mix\.lock | artisan | start\.sh
    | tsconfig\.json | (server|index|main|app)\.([cm]?js|ts|php|go)
    """,
    re.VERBOSE,
)
_MANIFEST_DEPTH = 4
_PYTHON_DEPTH = 2
# A lock file tells what matters (its format's version, and the few packages one looks for) near its head.
_LOCKS = re.compile(r".*(\.lock|-lock\.json|-lock\.yaml|shrinkwrap\.json|go\.sum)")


@dataclass(frozen=True)
class _File:
    path: str
    size: int
    depth: int


def take(root: Path, root_directory: str, limits: Limits) -> build_pb2.Snapshot:
    """The snapshot of a source folder. Raises BuildError when it holds too many files or too many bytes."""
    digest = hashlib.sha256()
    snapshot = build_pb2.Snapshot()
    files: list[_File] = []
    size = names = 0
    for path, entry in sorted(_walk(root)):
        status = entry.stat(follow_symlinks=False)
        snapshot.paths.append(path)
        size += status.st_size
        names += len(path)
        if len(snapshot.paths) > limits.source_files or names > _PATHS_BYTES:
            raise source_error(f"the source holds more than {limits.source_files} files: leave out what is generated")
        if size > limits.source_bytes:
            raise source_error(f"the source holds more than {limits.source_bytes >> 20} MiB")
        _digest_entry(digest, path, entry, status)
        if stat.S_ISREG(status.st_mode):
            files.append(_File(path, status.st_size, path.count("/")))
    for name, content in _contents(root, files, root_directory):
        snapshot.contents[name] = content
    snapshot.digest = f"sha256:{digest.hexdigest()}"
    return snapshot


def _walk(root: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Files and links by their path from the root; links are not followed."""
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                path = f"{folder}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in _SKIPPED and entry.name not in _NOT_DESCENDED:
                        waiting.append(f"{path}/")
                elif _is_text(path) and entry.name not in _SKIPPED:
                    yield path, entry


def _is_text(path: str) -> bool:
    """Names that are not UTF-8 cannot travel; they are packed all the same."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _digest_entry(digest: hashlib._Hash, path: str, entry: os.DirEntry[str], status: os.stat_result) -> None:
    """Adds kind, path, size and content: two sources share a digest only if they are the same."""
    kind = "link" if stat.S_ISLNK(status.st_mode) else "exec" if status.st_mode & 0o100 else "file"
    digest.update(f"{kind}\0{path}\0{status.st_size}\0".encode())
    if kind == "link":
        digest.update(os.fsencode(Path(entry.path).readlink()))
    elif stat.S_ISREG(status.st_mode):
        with Path(entry.path).open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)


def _contents(root: Path, files: list[_File], root_directory: str) -> Iterator[tuple[str, bytes]]:
    """Manifests first, the shallowest first, until there is enough."""
    base = root_directory.strip("/").removeprefix("./")
    wanted = [(rank, file.depth, file.path, file) for file in files if (rank := _rank(file, base)) is not None]
    total = 0
    for _, _, path, file in sorted(wanted, key=lambda item: item[:3]):
        if file.size > FILE_BYTES and not _LOCKS.fullmatch(path):
            continue
        if total + min(file.size, FILE_BYTES) > TOTAL_BYTES:
            return
        with (root / path).open("rb") as opened:
            content = opened.read(FILE_BYTES)
        total += len(content)
        yield path, content


def _rank(file: _File, base: str) -> int | None:
    """How much it is wanted: 0 most; None: not at all."""
    inside = not base or file.path.startswith(f"{base}/")
    depth = file.depth - (len(base.split("/")) if base and inside else 0)
    name = file.path.rpartition("/")[2]
    if _MANIFESTS.fullmatch(name) and file.depth <= _MANIFEST_DEPTH:
        return (2 if _LOCKS.fullmatch(name) else 0) + (0 if inside else 3)
    relative = file.path[len(base) + 1 :] if base and inside else file.path
    near = depth <= 1 or (depth == _PYTHON_DEPTH and relative.startswith("src/"))
    if name.endswith(".py") and inside and near:
        return 1
    return None
