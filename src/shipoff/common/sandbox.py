"""Builds and apps inside bubblewrap (bwrap(1)): own mounts, own process numbers, nothing of the platform's in sight.

Known to the build service, the builder, the runtime's process driver and `shipoff up`. It needs Linux and unprivileged user
namespaces: bubblewrap is started under the tenant's account, never as root.
"""

from __future__ import annotations

import functools
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from shipoff.common.accounts import tenant_uid
from shipoff.common.errors import PreconditionFailed

# SHIPOFF_SANDBOX: where it works, never, or not without.
Mode = Literal["auto", "off", "required"]
REMEDY = "install bubblewrap (apt-get install bubblewrap), and let accounts make user namespaces (see docs/guide/security.md)"
_PROBE_S = 20
_SHARED_MEMORY_BYTES = 64 << 20
# Replaced by the tenant's own folder for scratch files.
_SCRATCH = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - hidden, not used
# People's files, and the sockets of the machine's services (Docker's among them).
_HIDDEN = (Path("/home"), Path("/root"), Path("/run"))
_HOMES = Path("/home")
_SIGNALS = 64


@dataclass(frozen=True)
class Sandbox:
    """A bubblewrap that works, the folders that are empty inside, and what is there all the same: read only, or as it is."""

    program: str
    hidden: tuple[str, ...]
    shown: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inside:
    """One tenant's view: the folders it writes to, its scratch folder, where its program starts and what it sees."""

    writable: Sequence[Path]
    tmp: Path
    folder: Path
    environment: Mapping[str, str]
    # Ends with whoever started it.
    tied: bool


@contextmanager
def entered(sandbox: Sandbox, inside: Inside, argv: Sequence[str]) -> Iterator[tuple[list[str], int]]:
    """The command that runs `argv` inside, and the descriptor that it has to inherit.

    The tenant's variables travel through the descriptor: in a list of arguments every account could read them, and among
    bubblewrap's own they could change what it does.
    """
    descriptor = os.memfd_create("sandbox")
    try:
        text = "".join(f"{argument}\0" for argument in arguments(sandbox, inside))
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(os.fsencode(text))
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield [sandbox.program, "--args", str(descriptor), "--", *argv], descriptor
    finally:
        os.close(descriptor)


def arguments(sandbox: Sandbox, inside: Inside) -> list[str]:
    """bubblewrap's own arguments, in the order in which it mounts."""
    made = ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--new-session"]
    if inside.tied:
        made.append("--die-with-parent")
    made += ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    made += ["--perms", "1777", "--size", str(_SHARED_MEMORY_BYTES), "--tmpfs", "/dev/shm"]  # noqa: S108 - its own
    for folder in _SCRATCH:
        made += ["--bind", str(inside.tmp), str(folder)]
    for hidden in sandbox.hidden:
        made += ["--tmpfs", hidden]
    for shown in sandbox.shown:
        made += ["--ro-bind-try", shown, shown]
    for own in (*sandbox.shared, *map(str, inside.writable)):
        made += ["--bind", own, own]
    # An empty folder that can be written would be memory that nobody counts.
    for hidden in ("/dev", *sandbox.hidden):
        made += ["--remount-ro", hidden]
    made.append("--clearenv")
    for name, value in inside.environment.items():
        made += ["--setenv", name, value]
    return [*made, "--chdir", str(inside.folder)]


def exit_code(code: int) -> int:
    """What a program inside ended with, as subprocess has it: bubblewrap tells a signal as 128 and its number."""
    return 128 - code if 128 < code <= 128 + _SIGNALS else code


def hidden_folders(private: Iterable[Path]) -> tuple[str, ...]:
    """What is empty inside: homes, the machine's sockets, and the platform's own folders; the outermost only."""
    # An account without a home has /, which would cover all the others.
    wanted = {folder.resolve() for folder in (*_HIDDEN, Path.home(), *private) if folder.is_dir()} - {Path("/")}
    covers = wanted | set(_SCRATCH)
    outermost = [one for one in wanted if not any(one.is_relative_to(other) for other in covers - {one})]
    return tuple(str(folder) for folder in sorted(outermost))


def shown_folders(
    hidden: Sequence[str], search_path: str, *, programs: Iterable[str], more: Iterable[str], private: Iterable[Path]
) -> tuple[str, ...]:
    """What of the hidden folders programs need: where those of PATH are installed, and files that variables name.

    `private` is what `hidden` was made of: nothing is shown that one of these lies in.
    """
    covered = [*map(Path, hidden), *_SCRATCH, *(folder.resolve() for folder in private)]
    folders = [Path(part) for part in search_path.split(os.pathsep) if part]
    found = (shutil.which(name, path=search_path) for name in programs)
    folders += [Path(program).resolve().parent for program in found if program]
    named = [Path(value) for value in more if value.startswith("/")]
    wanted = [place for folder in folders for place in _installed_with(folder, covered)]
    wanted += [*named, Path("/etc/resolv.conf").resolve()]
    kept = {path for path in wanted if _is_hidden(path, hidden) and not _is_broad(path, covered) and _is_open(path)}
    return tuple(str(path) for path in sorted(kept))


def _installed_with(folder: Path, covered: Sequence[Path]) -> list[Path]:
    """What the programs of a folder need: lib and others stand beside bin. Of ~/.local and its like only those."""
    prefix = folder.parent
    if folder.name not in ("bin", "sbin"):
        return [folder]
    if _is_broad(prefix, covered) or (_is_home(prefix.parent) and prefix.name.startswith(".")):
        return [folder, *(prefix / name for name in ("lib", "lib64", "libexec", "include"))]
    return [prefix]


def _is_home(folder: Path) -> bool:
    return folder in (Path.home(), Path("/root")) or folder.parent == _HOMES


def _is_hidden(path: Path, hidden: Sequence[str]) -> bool:
    return any(path.is_relative_to(folder) for folder in (*hidden, *map(str, _SCRATCH)))


def _is_broad(path: Path, covered: Sequence[Path]) -> bool:
    """Whether it, or what it is a link to, would bring back a whole home or all of a covered folder."""
    places = (path, path.resolve())
    return any(_is_home(place) or any(folder.is_relative_to(place) for folder in covered) for place in places)


def _is_open(path: Path) -> bool:
    """Whether it is there, and a tenant's account gets to it."""
    try:
        return path.exists() and (os.geteuid() != 0 or all(folder.stat().st_mode & stat.S_IXOTH for folder in path.parents))
    except OSError:
        return False


@functools.cache
def bubblewrap() -> tuple[str, str]:
    """(program, "") where it works here, ("", why not) elsewhere: found out once, by running it; a refusal is logged."""
    program = shutil.which("bwrap")
    problem = "bubblewrap is not installed" if program is None else _problem_of(program)
    if problem:
        _warn(reason=problem, remedy=REMEDY)
        return "", problem
    return str(program), ""


@functools.cache
def _say_that_it_is_off() -> None:
    _warn(reason="SHIPOFF_SANDBOX=off")


def _warn(**fields: str) -> None:
    # Loading it is a third of a builder's start, and a builder only ever enters a sandbox.
    import structlog

    structlog.get_logger().warning("builds and apps run without a sandbox: deploy trusted code only", **fields)


def _problem_of(program: str) -> str:
    if Path(program).stat().st_mode & stat.S_ISUID:
        return f"{program} is a setuid program, which has no effect where no privileges may be gained"
    uid = tenant_uid("probe")
    account: dict[str, Any] = {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}
    with tempfile.TemporaryDirectory(prefix="shipoff-probe-") as scratch:
        tmp = Path(scratch)
        if uid is not None:
            os.chown(tmp, uid, uid)
        inside = Inside((), tmp, Path("/"), {}, tied=True)
        with entered(Sandbox(program, hidden_folders(())), inside, [shutil.which("true") or "true"]) as (argv, descriptor):
            return _refusal(argv, descriptor, account)


def _refusal(argv: Sequence[str], descriptor: int, account: Mapping[str, Any]) -> str:
    """Why the command does not work; empty where it does."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, env={}, cwd="/", pass_fds=[descriptor], timeout=_PROBE_S,
            check=False, **account,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        return f"bubblewrap cannot be run: {error}"
    if done.returncode == 0:
        return ""
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return f"bubblewrap does not work here: {said[-1] if said else f'exit code {done.returncode}'}"


def usable(mode: Mode) -> str:
    """bubblewrap's path; empty where builds and apps run without. Raises PreconditionFailed where that is not allowed."""
    if mode == "off":
        _say_that_it_is_off()
        return ""
    program, problem = bubblewrap()
    if problem and mode == "required":
        raise PreconditionFailed(f"there is no sandbox: {problem}", field="SHIPOFF_SANDBOX", remedy=REMEDY)
    return program
