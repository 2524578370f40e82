"""Where the GitOps repository is: a bare one in a folder, or one on a server with a copy of its branch here.

Both publish by compare-and-set: a commit becomes the branch's only where the branch is still what the commit was made on.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pygit2
from pygit2.enums import CredentialType

from shipoff.common.errors import Unavailable

_HEAD = "refs/shipoff/head"
_NEXT = "refs/shipoff/next"


@dataclass(frozen=True)
class Access:
    """How to reach a server. Files are read anew each time, so that a renewed token is used at once."""

    username: str = "git"
    token_file: str = ""
    ssh_key_file: str = ""
    timeout_s: float = 20.0


class Origin(Protocol):
    """One branch of one repository."""

    def open(self) -> pygit2.Repository:
        """Where its commits are read and made."""
        ...

    def known(self, repository: pygit2.Repository) -> pygit2.Oid | None:
        """The branch's commit as last seen; None: it has none."""
        ...

    def refresh(self, repository: pygit2.Repository) -> pygit2.Oid | None:
        """The branch's commit as it is now. Raises Unavailable."""
        ...

    def publish(self, repository: pygit2.Repository, commit: pygit2.Oid, *, on: pygit2.Oid | None) -> bool:
        """Makes the commit the branch's; False where somebody else was faster. Raises Unavailable."""
        ...

    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        """Keeps other writers of the same copy out, for a moment."""
        ...


class Folder:
    """A bare repository of this machine, made where there is none."""

    def __init__(self, path: Path, branch: str) -> None:
        self._path = path
        self._ref = f"refs/heads/{branch}"

    def open(self) -> pygit2.Repository:
        try:
            if not self._path.exists():
                self._make()
            return pygit2.Repository(str(self._path))
        except (pygit2.GitError, OSError) as error:
            raise Unavailable(f"the GitOps repository {self._path} cannot be opened: {error}") from error

    def _make(self) -> None:
        """In another place first: whoever finds it finds it whole."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._path.parent) as place:
            made = Path(place) / "new.git"
            pygit2.init_repository(str(made), bare=True, initial_head=self._ref.removeprefix("refs/heads/"))
            try:
                made.rename(self._path)
            except OSError:
                # Somebody else has made it.
                if not self._path.exists():
                    raise

    def known(self, repository: pygit2.Repository) -> pygit2.Oid | None:
        return _target(repository, self._ref)

    def refresh(self, repository: pygit2.Repository) -> pygit2.Oid | None:
        return _target(repository, self._ref)

    def publish(self, repository: pygit2.Repository, commit: pygit2.Oid, *, on: pygit2.Oid | None) -> bool:
        try:
            if on is None:
                repository.references.create(self._ref, commit, force=False)
                return True
            reference = repository.references[self._ref]
            if reference.target != on:
                return False
            # Writes only over what it has just read, else it fails: git_reference_set_target (libgit2), GIT_EMODIFIED.
            reference.set_target(commit)
        except (pygit2.GitError, OSError, KeyError, ValueError) as error:
            # Another writer was faster, or has its lock file at this instant.
            if _target(repository, self._ref) == on and not _is_locked(error):
                raise Unavailable(f"the GitOps repository {self._path} cannot be written: {error}") from error
            return False
        return True

    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class Server:
    """A repository on a server. The copy here holds one branch, and is made anew where it is missing."""

    def __init__(self, url: str, branch: str, access: Access, copies: Path) -> None:
        self._url = url
        self._branch = branch
        self._access = access
        self._copy = copies / f"{hashlib.sha256(f'{url} {branch}'.encode()).hexdigest()[:16]}.git"
        pygit2.settings.server_connect_timeout = pygit2.settings.server_timeout = int(access.timeout_s * 1000)

    def open(self) -> pygit2.Repository:
        try:
            self._copy.parent.mkdir(parents=True, exist_ok=True)
            if not (self._copy / "HEAD").exists():
                pygit2.init_repository(str(self._copy), bare=True)
            return pygit2.Repository(str(self._copy))
        except (pygit2.GitError, OSError) as error:
            raise Unavailable(f"the copy of the GitOps repository in {self._copy} cannot be opened: {error}") from error

    def known(self, repository: pygit2.Repository) -> pygit2.Oid | None:
        return _target(repository, _HEAD)

    def refresh(self, repository: pygit2.Repository) -> pygit2.Oid | None:
        remote = repository.remotes.create_anonymous(self._url)
        branch = f"refs/heads/{self._branch}"
        with self._translated():
            heads = {head.name: head.oid for head in remote.list_heads(callbacks=_Callbacks(self._access))}
            if branch not in heads:
                if _HEAD in repository.references:
                    repository.references.delete(_HEAD)
                return None
            if heads[branch] != _target(repository, _HEAD):
                remote.fetch([f"+{branch}:{_HEAD}"], callbacks=_Callbacks(self._access))
        return _target(repository, _HEAD)

    def publish(self, repository: pygit2.Repository, commit: pygit2.Oid, *, on: pygit2.Oid | None) -> bool:
        repository.references.create(_NEXT, commit, force=True)
        callbacks = _Callbacks(self._access)
        try:
            # Without a "+" it never goes over a commit that it is not made on.
            specs = [f"{_NEXT}:refs/heads/{self._branch}"]
            repository.remotes.create_anonymous(self._url).push(specs, callbacks=callbacks)
        except (pygit2.GitError, OSError, ValueError) as error:
            callbacks.refusal = str(error)
        if not callbacks.refusal:
            repository.references.create(_HEAD, commit, force=True)
            return True
        now = self.refresh(repository)
        if now == on:
            raise Unavailable(f"the GitOps repository {self._url} refused the commit: {callbacks.refusal}", retry_after_s=5.0)
        # Its own is the branch's where only the answer was lost.
        return now == commit

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        self._copy.parent.mkdir(parents=True, exist_ok=True)
        with self._copy.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (pygit2.GitError, OSError, KeyError, ValueError) as error:
            raise Unavailable(f"the GitOps repository {self._url} cannot be reached: {error}", retry_after_s=5.0) from error


def _is_locked(error: Exception) -> bool:
    """Whether a reference's lock file was in the way; libgit2 tells what kept it from making one by its text only."""
    text = str(error)
    return "lock" in text and not any(words in text for words in ("denied", "No space", "Read-only"))


class _Callbacks(pygit2.RemoteCallbacks):
    """Answers what a server asks for, once: it asks again where it does not like the answer."""

    def __init__(self, access: Access) -> None:
        super().__init__()
        self._access = access
        self._asked = False
        self.refusal = ""

    def credentials(
        self, url: str, username_from_url: str | None, allowed_types: CredentialType
    ) -> pygit2.Username | pygit2.UserPass | pygit2.Keypair:
        username = username_from_url or self._access.username
        if allowed_types & CredentialType.USERNAME:
            return pygit2.Username(username)
        if self._asked:
            raise ValueError("it does not accept the credentials")
        self._asked = True
        if allowed_types & CredentialType.SSH_KEY and self._access.ssh_key_file:
            return pygit2.Keypair(username, None, self._access.ssh_key_file, "")
        if allowed_types & CredentialType.USERPASS_PLAINTEXT and self._access.token_file:
            return pygit2.UserPass(username, Path(self._access.token_file).read_text().strip())
        raise ValueError("it asks for credentials: set SHIPOFF_GITOPS_TOKEN_FILE or SHIPOFF_GITOPS_SSH_KEY_FILE")

    def push_update_reference(self, refname: str, message: str | None) -> None:
        if message:
            self.refusal = message


def _target(repository: pygit2.Repository, name: str) -> pygit2.Oid | None:
    reference = repository.references.get(name)
    return None if reference is None else reference.resolve().peel(pygit2.Commit).id
