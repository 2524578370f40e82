"""Hostile repositories: nothing of them is run, nothing but the checked address is reached, none fills the machine."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from neighbours.build import marked, plan_of

from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.types.v1 import types_pb2

MIB = 1 << 20


@pytest.fixture
def build_settings():
    return {"disk_bytes": 6 * MIB, "source_files": 200}


def git_source(url: str, ref: str = "") -> types_pb2.Source:
    return types_pb2.Source(git=types_pb2.GitSource(url=url, ref=ref))


@pytest.mark.parametrize("ref", ["main;curl${IFS}x|sh", "a'b\"c`id`$(id)"])
async def test_a_branch_with_a_legal_but_strange_name_is_inert(yard, git_server, ref):
    git_server.push("app", {"app.json": plan_of("env")}, branch=ref)
    deployment = await yard.start(git_source(git_server.url("app"), ref))
    assert isinstance(await yard.result(deployment), events_pb2.BuildSucceeded)
    text = await yard.text(deployment)
    assert ref in text
    assert "uid=" not in text


@pytest.fixture
def redirecting(git_server) -> Iterator[tuple[str, list[str]]]:
    """The URL of a server that sends everybody on to the repositories' server, and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(302)
            self.send_header("Location", f"http://{git_server.host}{self.path}")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_address[1]}", asked
    http.shutdown()
    http.server_close()
    thread.join()


async def cloned(work: Path, url: str, allowed: str, address: str = "") -> str:
    """The commit, or why there is none; a builder's clone in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    script = [sys.executable, "-m", "neighbours.cloner", str(work), url, allowed, *([address] if address else [])]
    child = await asyncio.create_subprocess_exec(*script, env=environment, stdout=asyncio.subprocess.PIPE)
    said, _ = await child.communicate()
    return said.decode().strip()


async def test_a_redirect_is_not_followed_to_an_address_that_nobody_checked(tmp_path, git_server, redirecting):
    git_server.push("app", {"app.json": plan_of()})
    url, asked = redirecting
    refusal = await cloned(tmp_path / "work", f"{url}/app.git", url.removeprefix("http://"))
    assert "redirects are not followed" in refusal
    assert asked
    assert not git_server.requests


async def test_the_connection_goes_to_the_address_that_was_checked(tmp_path, git_server):
    git_server.push("app", {"app.json": plan_of()})
    # Nobody else knows this name: git gets there only by the address that was found when it was checked.
    url = f"http://rebinding.invalid:{git_server.port}/app.git"
    assert len(await cloned(tmp_path / "work", url, "rebinding.invalid", "127.0.0.1")) == 40
    assert git_server.requests


async def test_submodules_hooks_and_filters_are_not_run(tmp_path, git_server):
    git_server.push("inner", {"evil": "x"})
    git_server.push(
        "app",
        {
            "app.json": plan_of(),
            "payload": "as it is",
            ".gitattributes": "* filter=evil diff=evil merge=evil\n",
            ".gitmodules": f'[submodule "../../evil"]\n\tpath = sub\n\turl = {git_server.url("inner")}\n',
            ".githooks/post-checkout": "#!/bin/sh\ntouch ran\n",
        },
    )
    work = git_server.root / "app.work"
    head = git_server.git("rev-parse", "HEAD", folder=git_server.root / "inner.work")
    git_server.git("update-index", "--add", "--cacheinfo", f"160000,{head},sub", folder=work)
    git_server.git("commit", "--quiet", "-m", "a submodule", folder=work)
    git_server.git("push", "--quiet", str(git_server.root / "app.git"), "HEAD:refs/heads/main", folder=work)
    # Whatever gave a person's git hooks and filters does not reach this one.
    home = tmp_path / "work" / "home"
    home.mkdir(parents=True)
    ran = tmp_path / "ran"
    hook = tmp_path / "template" / "hooks" / "post-checkout"
    hook.parent.mkdir(parents=True)
    hook.write_text(f"#!/bin/sh\ntouch {ran}\n")
    hook.chmod(0o755)
    (home / ".gitconfig").write_text(
        f'[filter "evil"]\n\tsmudge = touch {ran} && cat\n\trequired = true\n[init]\n\ttemplateDir = {tmp_path}/template\n'
        f"[core]\n\thooksPath = {hook.parent}\n\tfsmonitor = touch {ran}\n[submodule]\n\trecurse = true\n"
    )
    assert len(await cloned(tmp_path / "work", git_server.url("app"), git_server.host)) == 40
    folder = tmp_path / "work" / "source"
    assert (folder / "payload").read_text() == "as it is"
    assert not ran.exists()
    assert not any("inner" in request for request in git_server.requests)
    assert not list((folder / "sub").iterdir())


async def test_a_repository_larger_than_the_quota_is_refused_with_that_reason(yard, git_server, eventually):
    git_server.push("app", {"app.json": plan_of(), **{f"noise{n}": os.urandom(3 * MIB) for n in range(4)}})
    deployment = await yard.start(git_source(git_server.url("app")))
    result = await yard.result(deployment, timeout_s=60)
    assert result.failure == events_pb2.BUILD_FAILURE_DISK, result
    assert "clone" in result.reason
    await eventually(lambda: not marked(deployment) and not yard.leftovers())


async def test_a_small_repository_of_a_million_files_is_ended_by_the_quota(yard, git_server, eventually):
    git_server.push("app", {"app.json": plan_of()})
    work = git_server.root / "app.work"
    (work / "one").write_text("x" * 100)
    tree = f"100644 blob {git_server.git('hash-object', '-w', 'one', folder=work)}"
    listing = "\n".join(f"{tree}\tf{n}" for n in range(100))
    for _ in range(2):
        made = git_server.git("mktree", folder=work, stdin=listing)
        listing = "\n".join(f"040000 tree {made}\td{n}" for n in range(100))
    root = git_server.git("mktree", folder=work, stdin=listing)
    commit = git_server.git("commit-tree", root, "-m", "a bomb", folder=work)
    git_server.git("push", "--quiet", "--force", str(git_server.root / "app.git"), f"{commit}:refs/heads/main", folder=work)
    deployment = await yard.start(git_source(git_server.url("app")))
    result = await yard.result(deployment, timeout_s=90)
    assert result.failure == events_pb2.BUILD_FAILURE_DISK, result
    await eventually(lambda: not marked(deployment) and not yard.leftovers(), timeout_s=60)


async def test_a_repository_of_more_files_than_a_source_may_have_is_refused(yard, git_server):
    git_server.push("app", {"app.json": plan_of(), **{f"f{n}": "x" for n in range(250)}})
    result = await yard.result(await yard.start(git_source(git_server.url("app"))), timeout_s=60)
    assert result.failure == events_pb2.BUILD_FAILURE_SOURCE
    assert "more than 200 files" in result.reason
