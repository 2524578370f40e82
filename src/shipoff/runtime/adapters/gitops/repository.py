"""Commits to the GitOps repository: a folder as it is, a change of it, and a commit that nobody else's is lost by. Blocking."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

import pygit2

from shipoff.common.errors import Contended, Unavailable
from shipoff.runtime.adapters.gitops.origins import Origin
from shipoff.runtime.adapters.gitops.trees import files_of, with_folder
from shipoff.runtime.manifests.folder import Change, Files

# Somebody else's commit comes between at most so many times in a row.
_TRIES = 40
_LONGEST_PAUSE_S = 0.5


@dataclass(frozen=True)
class Author:
    """Under whose name commits are made."""

    name: str
    email: str


@dataclass(frozen=True)
class Outcome:
    """What came of a change: the commit before, the branch's now (the same: nothing had to change), and the folder's files."""

    commit: str
    before: str
    files: Files


class Repository:
    """One branch; each call opens it anew, so that several threads and processes may."""

    def __init__(self, origin: Origin, author: Author) -> None:
        self._origin = origin
        self._author = author

    def refresh(self) -> str:
        """The branch's commit as it is now; empty: none. Raises Unavailable."""
        with self._origin.exclusive():
            return _text(self._origin.refresh(self._origin.open()))

    def read(self, folder: str) -> tuple[str, Files]:
        """The branch's commit as last seen, and the files of a folder in it. Raises Unavailable."""
        repository = self._origin.open()
        head = self._origin.known(repository)
        return _text(head), files_of(repository, head, folder)

    def commit(self, folder: str, change: Change, message: str) -> Outcome:
        """Commits the folder changed; no new commit where the change changes nothing.

        `change` is called again on what somebody else committed in the meantime. Raises Unavailable, and Contended when others
        were faster all the time.
        """
        for attempt in range(_TRIES):
            with self._origin.exclusive():
                repository = self._origin.open()
                head = self._origin.refresh(repository)
                before = files_of(repository, head, folder)
                after = dict(change(before))
                if after == before:
                    return Outcome(_text(head), _text(head), after)
                made = self._made(repository, head, folder, after, message)
                if self._origin.publish(repository, made, on=head):
                    return Outcome(str(made), _text(head), after)
            time.sleep(random.uniform(0, min(0.01 * 2**attempt, _LONGEST_PAUSE_S)))  # noqa: S311 - spreads writers, no secret
        raise Contended("the GitOps repository has other writers that were faster all the time, or one left a lock file in it")

    def _made(
        self, repository: pygit2.Repository, head: pygit2.Oid | None, folder: str, files: Files, message: str
    ) -> pygit2.Oid:
        try:
            tree = with_folder(repository, head, folder, files)
            who = pygit2.Signature(self._author.name, self._author.email)
            return repository.create_commit(None, who, who, message, tree, [head] if head is not None else [])
        except (pygit2.GitError, OSError) as error:
            raise Unavailable(f"the GitOps repository in {repository.path} cannot be written: {error}") from error


def _text(commit: pygit2.Oid | None) -> str:
    return "" if commit is None else str(commit)
