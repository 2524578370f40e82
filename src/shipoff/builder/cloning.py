"""Clones a repository with git, as little of it as will do, and with nothing of it run.

git reads no configuration but this module's: no hooks, filters (LFS), submodules or credential helpers; only http and
https; no redirects; the connection goes to the address that was checked (http.curloptResolve, git-config(1)).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shipoff.builder.assignment import source_error
from shipoff.builder.confine import TenantFiles
from shipoff.builder.enclosure import Program
from shipoff.builder.programs import Programs
from shipoff.builder.repository import Repository, addresses, check_ref, parse_url
from shipoff.contracts.types.v1 import types_pb2

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
# Where a server does not give out a commit by its id, it is looked for this far behind its branch.
_DEEPER = 1000
_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "credential.helper=",
    "http.followRedirects=false",
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=60",
    "submodule.recurse=false",
    "fetch.recurseSubmodules=false",
    "protocol.allow=never",
    "protocol.http.allow=always",
    "protocol.https.allow=always",
    "gc.auto=0",
    "maintenance.auto=false",
    "advice.detachedHead=false",
)
_PROXIES = {443: ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"), 80: ("http_proxy", "all_proxy", "ALL_PROXY")}


@dataclass(frozen=True)
class Cloning:
    """Who clones, and how far the network is trusted."""

    programs: Programs
    files: TenantFiles
    environment: Mapping[str, str]
    allow_hosts: Sequence[str]


async def clone(cloning: Cloning, source: types_pb2.GitSource, folder: Path) -> str:
    """Checks the source's commit or ref out into a new folder; the full commit id. Raises BuildError."""
    repository = parse_url(source.url)
    wanted = _refspecs(source)
    environment = _environment(cloning.environment)
    proxied = repository.url.startswith("http") and any(environment.get(name) for name in _proxies_for(repository))
    found = await cloning.files.run(addresses, repository, cloning.allow_hosts, required=not proxied)
    git = _Git(cloning.programs, environment, folder, _pinned(repository, found))
    await cloning.files.run(folder.mkdir)
    await git.must("init", "--quiet", ".")
    await _fetch_any(git, repository, wanted, source)
    await git.must("-c", "core.symlinks=true", "checkout", "--quiet", "--force", "--detach", "FETCH_HEAD", "--")
    return await git.answer("rev-parse", "--verify", "HEAD")


def _refspecs(source: types_pb2.GitSource) -> list[str]:
    """What to ask the server for, in order: full names only, so that nothing a user wrote has a meaning of its own."""
    if source.commit:
        return [source.commit]
    if not source.ref:
        return ["HEAD"]
    if _COMMIT.fullmatch(source.ref):
        return [source.ref]
    ref = check_ref(source.ref)
    return [ref] if ref.startswith("refs/") else [f"refs/heads/{ref}", f"refs/tags/{ref}"]


async def _fetch_any(git: _Git, repository: Repository, wanted: Sequence[str], source: types_pb2.GitSource) -> None:
    for refspec in wanted:
        if await git.fetch(repository.url, refspec, depth=1):
            return
    if source.commit and source.ref and not _COMMIT.fullmatch(source.ref):
        branch = f"refs/heads/{check_ref(source.ref)}"
        if await git.fetch(repository.url, branch, depth=_DEEPER):
            await git.must("update-ref", "--no-deref", "FETCH_HEAD", source.commit)
            return
    what = source.commit or source.ref or "the default branch"
    raise source_error(
        f"cannot fetch {what} of {repository.url}: does it exist, and is the repository public? "
        "(redirects are not followed: give its final address)"
    )


class _Git:
    """git in one folder, with this module's settings only."""

    def __init__(self, programs: Programs, environment: Mapping[str, str], folder: Path, settings: Sequence[str]) -> None:
        self._programs = programs
        self._environment = environment
        self._folder = folder
        self._base = ["git", *(part for setting in (*_SETTINGS, *settings) for part in ("-c", setting))]

    def _program(self, arguments: Sequence[str]) -> Program:
        return Program([*self._base, *arguments], self._folder, self._environment)

    async def run(self, *arguments: str) -> int:
        try:
            return await self._programs.run(self._program(arguments), quiet=True)
        except FileNotFoundError as error:
            raise source_error("there is no git on this machine: the operator has to install it") from error

    async def must(self, *arguments: str) -> None:
        code = await self.run(*arguments)
        if code != 0:
            verb = next(argument for argument in arguments if not argument.startswith("-") and "=" not in argument)
            raise source_error(f"git {verb} failed with code {code}")

    async def answer(self, *arguments: str) -> str:
        return await self._programs.output(self._program(arguments))

    async def fetch(self, url: str, refspec: str, *, depth: int) -> bool:
        """Whether the server had it."""
        options = ("--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-commit-graph", "--update-shallow")
        return await self.run("fetch", *options, f"--depth={depth}", "--", url, refspec) == 0


def _environment(base: Mapping[str, str]) -> dict[str, str]:
    closed = {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        "GIT_ALLOW_PROTOCOL": "http:https",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
    }
    return {**base, **closed}


def _pinned(repository: Repository, found: Sequence[str]) -> list[str]:
    """Settings that make git connect to these addresses, whatever the name resolves to by then."""
    if not found:
        return []
    shown = ",".join(f"[{address}]" if ":" in address else address for address in found)
    host = f"[{repository.host}]" if ":" in repository.host else repository.host
    return [f"http.curloptResolve={host}:{repository.port}:{shown}"]


def _proxies_for(repository: Repository) -> Sequence[str]:
    return _PROXIES[443 if repository.url.startswith("https:") else 80]
