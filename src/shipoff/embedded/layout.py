"""Where everything lives in the data folder, and who may read it.

As root the folder itself can be traversed by everybody (apps and builds run under accounts of their own below it), and
each folder inside is as closed as its readers allow.
"""

from __future__ import annotations

import os
import pwd
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from shipoff.common.errors import PreconditionFailed

# A Unix socket's path has 104 bytes on macOS, 108 on Linux, with the closing zero; the longest of ours below the
# folder is /run/postgres/.s.PGSQL.5432.
_SOCKET_PATH_BYTES = 103
_LONGEST_SOCKET = "/run/postgres/.s.PGSQL.5432"


@dataclass(frozen=True)
class Account:
    """Who a backing server runs as."""

    name: str
    uid: int
    gid: int


def backing_account() -> Account | None:
    """`nobody` when this process is root; None otherwise, the servers then run as whoever started them."""
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam("nobody")
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


@dataclass(frozen=True)
class Layout:
    """The paths below a data folder."""

    home: Path

    @property
    def settings(self) -> Path:
        """Every SHIPOFF_ setting of the services."""
        return self.home / "platform.env"

    @property
    def secrets(self) -> Path:
        return self.home / "secrets"

    @property
    def log(self) -> Path:
        return self.home / "log"

    @property
    def run(self) -> Path:
        """Sockets, pid files and the lock."""
        return self.home / "run"

    @property
    def lock(self) -> Path:
        return self.run / "platform.lock"

    def sockets(self, server: str) -> Path:
        """The folder of a server's sockets."""
        return self.run / server

    def server(self, name: str) -> Path:
        """The folder of a server's configuration; its data is below."""
        return self.home / name


def check_length(home: Path) -> None:
    """Raises PreconditionFailed when sockets below this folder would have too long a path."""
    longest = _SOCKET_PATH_BYTES - len(_LONGEST_SOCKET)
    if len(os.fsencode(home)) > longest:
        raise PreconditionFailed(
            f"SHIPOFF_HOME={home} is too long: Unix sockets below it allow {longest} characters",
            field="SHIPOFF_HOME",
            remedy="choose a shorter one: SHIPOFF_HOME=/srv/shipoff make up",
        )


def blocked_at(path: Path, account: Account) -> Path | None:
    """The first folder on the way to `path` that the account cannot pass; None when it gets there."""
    for folder in [*reversed(path.parents), path]:
        if not folder.is_dir():
            continue
        status = folder.stat()
        if status.st_uid == account.uid:
            allowed = status.st_mode & stat.S_IXUSR
        elif status.st_gid == account.gid:
            allowed = status.st_mode & stat.S_IXGRP
        else:
            allowed = status.st_mode & stat.S_IXOTH
        if not allowed:
            return folder
    return None


def _folder(path: Path, mode: int, *, uid: int = -1, gid: int = -1) -> None:
    path.mkdir(exist_ok=True)
    if os.geteuid() == 0:
        os.chown(path, uid if uid >= 0 else 0, gid if gid >= 0 else 0)
    path.chmod(mode)


def prepare(layout: Layout, account: Account | None) -> None:
    """Makes every folder, with its owner and mode. Raises PreconditionFailed when the place cannot be used."""
    check_length(layout.home)
    try:
        layout.home.mkdir(parents=True, exist_ok=True)
        _prepare(layout, account)
    except PermissionError as error:
        raise PreconditionFailed(
            f"the data folder cannot be written: {error}",
            field="SHIPOFF_HOME",
            remedy="was it made by another account? choose another: SHIPOFF_HOME=… make up",
        ) from error


def _prepare(layout: Layout, account: Account | None) -> None:
    layout.home.chmod(0o711)
    if account is not None and (folder := blocked_at(layout.home, account)):
        raise PreconditionFailed(
            f"SHIPOFF_HOME={layout.home}: {folder} is closed to the account {account.name!r} that the databases run as",
            field="SHIPOFF_HOME",
            remedy=f"choose another: SHIPOFF_HOME=/var/lib/shipoff make up (or chmod o+x {folder})",
        )
    uid, gid = (account.uid, account.gid) if account else (-1, -1)
    for name in ("secrets", "log", "objects"):
        _folder(layout.home / name, 0o700)
    for name in ("run", "apps", "builds"):
        _folder(layout.home / name, 0o711)
    for name in ("cdn", "cdn/releases"):
        _folder(layout.home / name, 0o750, gid=gid)
    _folder(layout.run / "grpc", 0o700)
    # Builders under accounts of their own connect here; the session's token decides.
    _folder(layout.run / "builder", 0o711)
    _folder(layout.run / "edge", 0o700, uid=uid, gid=gid)
    for name in ("postgres", "valkey", "caddy"):
        _folder(layout.server(name), 0o750, gid=gid)
        _folder(layout.sockets(name), 0o700, uid=uid, gid=gid)


def make_data_folder(path: Path, account: Account | None) -> None:
    """Makes a folder that only the servers' account can read."""
    _folder(path, 0o700, uid=account.uid if account else -1, gid=account.gid if account else -1)


def write_private(path: Path, text: str, account: Account | None = None) -> None:
    """Replaces a file at once; only its owner, and the account if one is given, can read it."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(text)
        if account is not None:
            os.chown(file.name, 0, account.gid)
            Path(file.name).chmod(0o640)
    Path(file.name).replace(path)
