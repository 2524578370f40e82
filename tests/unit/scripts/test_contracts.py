"""What `make check` compares the contracts with, in each kind of clone, and what it lets pass."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
NOW = 'syntax = "proto3";\npackage shipoff.toy.v1;\nmessage Toy {\n  string name = 1;\n}\n'
BROKEN = NOW.replace("string name = 1", "int32 name = 1")


@pytest.fixture
def contracts(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import contracts  # type: ignore[import-not-found]  # a script

    yield contracts
    for name in ("contracts", "proto"):
        sys.modules.pop(name, None)


class Repository:
    """A repository with one contract."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def git(self, *arguments: str) -> str:
        options = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *options, *arguments], cwd=self.root, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self, message: str, text: str = NOW) -> str:
        file = self.root / "proto" / "shipoff" / "toy" / "v1" / "toy.proto"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        self.git("add", ".")
        self.git("commit", "--quiet", "--allow-empty", "--no-verify", "-m", message)
        return self.git("rev-parse", "HEAD")

    def cloned(self, into: Path, *options: str) -> Repository:
        subprocess.run(["git", "clone", "--quiet", *options, f"file://{self.root}", str(into)], check=True)
        return Repository(into)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "origin")
    made.root.mkdir()
    made.git("init", "--quiet", "--initial-branch=main")
    made.commit("the first")
    return made


def test_a_branch_is_compared_with_where_it_left_main(contracts, repository):
    left = repository.commit("the second")
    repository.git("checkout", "--quiet", "-b", "work")
    repository.commit("one")
    repository.commit("two")
    repository.git("checkout", "--quiet", "main")
    repository.commit("main goes on")
    repository.git("checkout", "--quiet", "work")
    assert contracts.find_base(repository.root).commit == left


def test_main_is_compared_with_the_commit_before_and_never_with_itself(contracts, repository, tmp_path):
    before = repository.git("rev-parse", "HEAD")
    repository.commit("the second")
    clone = repository.cloned(tmp_path / "whole")
    for root in (repository.root, clone.root):
        assert contracts.find_base(root).commit == before


@pytest.mark.parametrize("options", [["--depth=1"], ["--single-branch", "--branch=work"], ["--depth=1", "--branch=work"]])
def test_a_clone_of_one_commit_or_one_branch_finds_what_was_before(contracts, repository, tmp_path, options):
    before = repository.commit("the second")
    last = repository.commit("the third")
    repository.git("checkout", "--quiet", "-b", "work")
    if "--branch=work" in options:
        before, last = last, repository.commit("the fourth")
    repository.git("checkout", "--quiet", "main")
    clone = repository.cloned(tmp_path / "part", *options)
    base = contracts.find_base(clone.root)
    assert (base.commit, clone.git("rev-parse", "HEAD")) == (before, last)
    assert before[:10] in base.note


def test_a_single_commit_has_nothing_to_be_compared_with_and_says_so(contracts, repository, tmp_path, capsys):
    assert contracts.find_base(repository.root) is None
    assert contracts.compatible(repository.root, tmp_path / "unread", tmp_path)
    assert "NOT compared" in capsys.readouterr().out


Compatible = Callable[[Repository], bool]


@pytest.fixture
def compatible(contracts, tmp_path) -> Compatible:
    def check(repository: Repository) -> bool:
        now = tmp_path / "now.binpb"
        contracts.proto.write_image(repository.root / "proto", now)
        return bool(contracts.compatible(repository.root, now, tmp_path / "scratch"))

    (tmp_path / "scratch").mkdir()
    return check


def test_a_break_is_refused_unless_a_commit_says_why(compatible, repository, capfd):
    repository.commit("the second", BROKEN)
    assert not compatible(repository)
    assert "compared with the commit before this one" in capfd.readouterr().out
    repository.git("commit", "--quiet", "--amend", "--no-verify", "-m", "the second\n\nBreaks-contract: a name is a number")
    assert compatible(repository)
    assert "nothing has been released: a name is a number" in capfd.readouterr().out


def test_what_was_released_is_not_broken_whatever_a_commit_says(compatible, repository, capfd):
    repository.git("tag", "v1.0.0")
    repository.commit("the second\n\nBreaks-contract: a name is a number", BROKEN)
    repository.commit("the third", BROKEN)
    assert not compatible(repository)
    assert "compared with the last release, v1.0.0" in capfd.readouterr().out
