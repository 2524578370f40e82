"""Commits to real repositories, in a folder and over smart HTTP: none is lost, and trouble is said in words."""

from __future__ import annotations

import multiprocessing
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from neighbours.git_server import GitServer, git_serving
from neighbours.gitops import AUTHOR, Desired, adding, journal, write_many

from shipoff.common.errors import Contended, TemporaryError, Unavailable
from shipoff.runtime.adapters.gitops.origins import Access, Folder, Origin, Server
from shipoff.runtime.adapters.gitops.repository import Repository
from shipoff.runtime.manifests.folder import Files

MANY = 60


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    (tmp_path / "served").mkdir()
    with git_serving(tmp_path / "served") as made:
        subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", "gitops.git"], cwd=made.root, check=True)
        subprocess.run(["git", "config", "http.receivepack", "true"], cwd=made.root / "gitops.git", check=True)
        yield made


def on_server(server: GitServer, copies: Path, *, timeout_s: float = 20.0) -> Server:
    return Server(server.url("gitops"), "main", Access(timeout_s=timeout_s), copies)


def test_a_repository_is_made_where_there_is_none_and_git_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "gitops.git"
    made = Repository(Folder(path, "main"), AUTHOR).commit("apps/app-shop", adding("production/a.yaml"), "First\n\nWhy: so\n")
    desired = Desired(path)
    assert desired.git("rev-parse", "main") == made.commit
    assert desired.git("symbolic-ref", "HEAD") == "refs/heads/main"
    assert desired.git("show", "main:apps/app-shop/production/a.yaml") == "x"
    assert desired.git("fsck", "--strict") == ""


def test_what_changes_nothing_is_no_commit(tmp_path: Path) -> None:
    repository = Repository(Folder(tmp_path / "r.git", "main"), AUTHOR)
    first = repository.commit("apps/a", adding("b/c.yaml"), "one")
    again = repository.commit("apps/a", adding("b/c.yaml"), "two")
    assert again.commit == again.before == first.commit
    assert Desired(tmp_path / "r.git").subjects() == ["one"]


def test_the_folders_of_others_are_left_alone_and_an_empty_one_goes(tmp_path: Path) -> None:
    repository = Repository(Folder(tmp_path / "r.git", "main"), AUTHOR)
    repository.commit("docs", adding("README.md"), "a person's")
    repository.commit("apps/a", adding("b/c.yaml"), "ours")
    repository.commit("apps/a", lambda _: {}, "gone")
    assert Desired(tmp_path / "r.git").git("ls-tree", "-r", "--name-only", "main") == "docs/README.md"
    repository.commit("docs", lambda _: {}, "all gone")
    assert Desired(tmp_path / "r.git").git("ls-tree", "-r", "main") == ""


def test_two_processes_that_commit_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "gitops.git"
    # Not forked: what other tests left running in this process holds locks that a copy of it would wait for.
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=write_many, args=(path, who, MANY)) for who in ("one", "two")]
    for one in writers:
        one.start()
    for one in writers:
        one.join(240)
    assert [one.exitcode for one in writers] == [0, 0]
    desired = Desired(path)
    assert sorted(desired.subjects()) == sorted(f"{who} {number}" for who in ("one", "two") for number in range(MANY))
    assert len(desired.git("ls-tree", "-r", "--name-only", "main").splitlines()) == 2 * MANY
    # One line of history: each was made on the one before.
    assert desired.git("rev-list", "--min-parents=2", "main") == ""


def test_a_folder_s_branch_that_moved_is_never_written_over(tmp_path: Path) -> None:
    origin = Folder(tmp_path / "r.git", "main")
    mine, theirs = Repository(origin, AUTHOR), Repository(Folder(tmp_path / "r.git", "main"), AUTHOR)
    calls = []

    def change(files: Files) -> Files:
        calls.append(dict(files))
        if len(calls) == 1:
            theirs.commit("apps/a", adding("theirs.yaml"), "theirs")
        return {**files, "mine.yaml": b""}

    made = mine.commit("apps/a", change, "mine")
    assert set(made.files) == {"mine.yaml", "theirs.yaml"}
    assert Desired(tmp_path / "r.git").subjects() == ["theirs", "mine"]


def test_a_push_that_is_rejected_is_made_anew_on_what_came_between(server: GitServer, tmp_path: Path) -> None:
    mine = Repository(on_server(server, tmp_path / "mine"), AUTHOR)
    theirs = Repository(on_server(server, tmp_path / "theirs"), AUTHOR)
    mine.commit("apps/a", adding("first.yaml"), "first")
    calls = 0

    def change(files: Files) -> Files:
        nonlocal calls
        calls += 1
        if calls == 1:
            theirs.commit("apps/a", adding("theirs.yaml"), "theirs")
        return {**files, "mine.yaml": b""}

    mine.commit("apps/a", change, "mine")
    desired = Desired(server.root / "gitops.git")
    assert desired.subjects() == ["first", "theirs", "mine"]
    assert calls == 2
    assert len(desired.git("ls-tree", "-r", "main").splitlines()) == 3


def test_writers_on_a_server_lose_nothing_from_the_first_commit_on(server: GitServer, tmp_path: Path) -> None:
    def write(who: int) -> None:
        repository = Repository(on_server(server, tmp_path / f"copy-{who % 2}"), AUTHOR)
        for number in range(3):
            repository.commit(f"apps/p{who}", adding(f"{number}.yaml"), f"{who} {number}")

    threads = [threading.Thread(target=write, args=(who,)) for who in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    desired = Desired(server.root / "gitops.git")
    assert sorted(desired.subjects()) == sorted(f"{who} {number}" for who in range(3) for number in range(3))
    assert len(desired.git("ls-tree", "-r", "main").splitlines()) == 9


def test_a_copy_that_was_lost_is_made_anew(server: GitServer, tmp_path: Path) -> None:
    Repository(on_server(server, tmp_path / "one"), AUTHOR).commit("apps/a", adding("a.yaml"), "one")
    fresh = Repository(on_server(server, tmp_path / "two"), AUTHOR)
    assert fresh.read("apps/a") == ("", {})
    fresh.refresh()
    assert set(fresh.read("apps/a")[1]) == {"a.yaml"}


def test_a_server_that_refuses_says_why(server: GitServer, tmp_path: Path) -> None:
    hook = server.root / "gitops.git/hooks/update"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(hook.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(Unavailable, match=r"refused the commit: .*hook declined"):
        Repository(on_server(server, tmp_path / "copy"), AUTHOR).commit("apps/a", adding("a.yaml"), "one")


def test_a_server_that_is_away_or_silent_is_named(server: GitServer, tmp_path: Path) -> None:
    silent = Repository(on_server(server, tmp_path / "copy", timeout_s=0.5), AUTHOR)
    server.hold.set()
    try:
        with pytest.raises(Unavailable, match=f"the GitOps repository {server.url('gitops')} cannot be reached"):
            silent.commit("apps/a", adding("a.yaml"), "one")
    finally:
        server.hold.clear()
    nobody = Server("http://127.0.0.1:9/gitops.git", "main", Access(), tmp_path / "other")
    with pytest.raises(Unavailable, match=r"http://127.0.0.1:9/gitops.git cannot be reached"):
        Repository(nobody, AUTHOR).commit("apps/a", adding("a.yaml"), "one")


def test_a_token_is_read_from_its_file_and_asked_for_where_there_is_none(server: GitServer, tmp_path: Path) -> None:
    server.token = "ada:t0p"
    with pytest.raises(Unavailable, match="set SHIPOFF_GITOPS_TOKEN_FILE"):
        Repository(on_server(server, tmp_path / "copy"), AUTHOR).refresh()
    (tmp_path / "token").write_text("wrong\n")
    access = Access(username="ada", token_file=str(tmp_path / "token"))
    repository = Repository(Server(server.url("gitops"), "main", access, tmp_path / "copy"), AUTHOR)
    with pytest.raises(Unavailable, match="does not accept the credentials"):
        repository.refresh()
    (tmp_path / "token").write_text("t0p\n")
    assert repository.commit("apps/a", adding("a.yaml"), "one").commit


class _Busy:
    """A branch that somebody else moves each time."""

    def __init__(self, inner: Origin) -> None:
        self._inner = inner
        self.open, self.known, self.refresh, self.exclusive = inner.open, inner.known, inner.refresh, inner.exclusive
        self.published = 0

    def publish(self, *_: object, **__: object) -> bool:
        self.published += 1
        return False


def test_trying_again_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    busy = _Busy(Folder(tmp_path / "r.git", "main"))
    with pytest.raises(Contended, match="other writers that were faster"):
        Repository(busy, AUTHOR).commit("apps/a", adding("a.yaml"), "one")  # type: ignore[arg-type]
    assert 10 < busy.published < 100


async def test_while_it_is_away_nobody_waits_for_it_twice(tmp_path: Path) -> None:
    (tmp_path / "r.git").write_text("no repository")
    book = journal(Folder(tmp_path / "r.git", "main"))
    for _ in range(2):
        with pytest.raises(TemporaryError, match="cannot be opened"):
            await book.commit("app-shop", adding("a.yaml"), "one")
    assert await book.held("app-shop") is None
    (tmp_path / "r.git").unlink()
    # Not before the pause is over.
    with pytest.raises(TemporaryError) as refused:
        await book.commit("app-shop", adding("a.yaml"), "one")
    assert 0 < refused.value.retry_after_s <= 1.0


async def test_what_others_commit_is_noticed(tmp_path: Path) -> None:
    book = journal(Folder(tmp_path / "r.git", "main"))
    async with book.following():
        await book.commit("app-shop", adding("production/a.yaml"), "one")
        assert set(await book.held("app-shop") or {}) == {"production/a.yaml"}
        Repository(Folder(tmp_path / "r.git", "main"), AUTHOR).commit("apps/app-shop", lambda _: {}, "a person's")
        await book.commit("other", adding("production/a.yaml"), "two")
        assert await book.held("app-shop") == {}
