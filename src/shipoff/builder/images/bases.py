"""Which images a build stands on: the operator's map, the mirrors, the version that the plan asks for. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from shipoff.contracts.types.v1 import types_pb2

_PINNED = re.compile(r"[v=~^]*\s*(\d{1,4})(?:\.(\d{1,4}))?(?:\.(?:\d+|x|\*))*")
# Provider → image to build in, image to run in, the version where the source names none, and how much of one tags tell.
_DEFAULTS = {
    "python": (
        "ghcr.io/astral-sh/uv:python{version}-bookworm-slim",
        "docker.io/library/python:{version}-slim-bookworm",
        "3.13",
        2,
    ),
    "node": ("docker.io/library/node:{version}-bookworm-slim", "", "22", 1),
    "go": ("docker.io/library/golang:{version}-bookworm", "docker.io/library/debian:bookworm-slim", "1.25", 2),
    "rust": ("docker.io/library/rust:{version}-bookworm", "docker.io/library/debian:bookworm-slim", "1", 2),
    "ruby": ("docker.io/library/ruby:{version}-bookworm", "docker.io/library/ruby:{version}-slim-bookworm", "3.4", 2),
    "shell": ("docker.io/library/debian:bookworm-slim", "", "", 0),
}
# A plan of these is built by the tools of another.
_AS = {"static": "node", "procfile": "shell"}
_RUN = "-run"
_HUB = "docker.io"


@dataclass(frozen=True)
class Base:
    """References as they were written: not by digest yet."""

    build: str
    runtime: str


def base_of(plan: types_pb2.Plan, overrides: Mapping[str, str]) -> Base | None:
    """The images for a plan; None where nobody named any. `overrides`: "<provider>" to build, "<provider>-run" to run."""
    provider = _AS.get(plan.provider, plan.provider)
    build, runtime, version, parts = _DEFAULTS.get(provider, ("", "", "", 2))
    own = overrides.get(provider, "")
    build = own or build
    runtime = overrides.get(f"{provider}{_RUN}", "") or (own or runtime or build)
    if not build:
        return None
    version = _version(plan, provider, parts) or version
    return Base(build.replace("{version}", version), runtime.replace("{version}", version))


def _version(plan: types_pb2.Plan, provider: str, parts: int) -> str:
    """As much of the version that the source pins as tags tell; empty for a range, which the default may well be in."""
    for runtime in plan.runtimes:
        match = _PINNED.fullmatch((runtime.resolved or runtime.requested).strip())
        if runtime.name == provider and match:
            return ".".join(part for part in match.groups()[:parts] if part)
    return ""


def canonical(reference: str) -> str:
    """The reference with its registry and, on Docker Hub, its namespace (distribution's reference.ParseNormalizedNamed)."""
    first, slash, rest = reference.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        first, rest = _HUB, reference
    if first in (_HUB, "index.docker.io"):
        first, rest = _HUB, rest if "/" in rest else f"library/{rest}"
    return f"{first}/{rest}"


def mirrored(reference: str, mirrors: Mapping[str, str]) -> str:
    """The reference where it is fetched from: the longest prefix that a mirror is named for gives way to the mirror."""
    whole = canonical(reference)
    for prefix in sorted(mirrors, key=len, reverse=True):
        if whole == prefix or whole.startswith((f"{prefix}/", f"{prefix}:", f"{prefix}@")):
            return mirrors[prefix] + whole[len(prefix) :]
    return whole


def by_digest(reference: str, digest: str) -> str:
    """The reference with its digest in the place of a tag."""
    name = reference.partition("@")[0]
    repository, colon, tag = name.rpartition(":")
    return f"{repository if colon and '/' not in tag else name}@{digest}"
