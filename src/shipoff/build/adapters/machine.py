"""What this machine offers to builds: programs that a tenant's account can reach, and processes told apart for good."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil

from shipoff.build.domain import Process
from shipoff.common.errors import PreconditionFailed

_OLDEST = (3, 11)
_NEWEST = 20
_USUAL = ("/usr/local/bin", "/usr/bin", "/bin")
_WANTED = ("node", "npm", "pnpm", "yarn", "bun", "git")
# What may be installed somewhere else than where PATH finds it.
PROGRAMS = (*_WANTED, "python3", "uv")
_ASK_S = 10


@dataclass(frozen=True)
class Tools:
    """Where programs are found, in the form of PATH."""

    path: str
    python: str


def find_tools(folder: Path, *, tenants: bool) -> Tools:
    """PATH for builds: uv, an interpreter for apps, and what else there is. `folder` is for links and copies of ours.

    `tenants`: builds run under accounts of their own, which have to be able to reach all of it. Raises PreconditionFailed
    without a usable Python.
    """
    python = _python(tenants=tenants)
    uv = _uv()
    if python is None:
        raise PreconditionFailed(
            "no Python that builds can use",
            remedy="install Python 3.11 or newer where every account can read it, e.g. Debian's python3 package",
        )
    if uv is not None:
        _offer(uv, folder, tenants=tenants)
    found = (shutil.which(name) for name in _WANTED)
    places = [str(Path(place).parent) for place in found if place and (not tenants or reachable(Path(place)))]
    ordered = [str(folder), str(python.parent), *places, *_USUAL]
    return Tools(os.pathsep.join(dict.fromkeys(ordered)), str(python))


def _python(*, tenants: bool) -> Path | None:
    """The interpreter for apps: this one's base where that will do, else the system's."""
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    names = ["python3", *(f"python3.{minor}" for minor in range(_NEWEST, _OLDEST[1] - 1, -1))]
    system = [Path(folder) / name for folder in _USUAL for name in names]
    for candidate in [base, *system]:
        usable = candidate.exists() and (not tenants or reachable(candidate.resolve()))
        # Steps say python3: the folder has to have that name too.
        if usable and (candidate.parent / "python3").exists() and _version(candidate.parent / "python3") >= _OLDEST:
            return candidate
    return None


def _version(python: Path) -> tuple[int, ...]:
    try:
        program = "import sys, venv; print(*sys.version_info[:2])"
        answer = subprocess.run([python, "-I", "-c", program], capture_output=True, timeout=_ASK_S, check=True, text=True)
    except (OSError, subprocess.SubprocessError):
        return (0,)
    return tuple(int(part) for part in answer.stdout.split())


def _uv() -> Path | None:
    """uv beside this interpreter, where the platform's own dependencies are, else on PATH."""
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.exists() else shutil.which("uv")
    return Path(found) if found else None


def _offer(program: Path, folder: Path, *, tenants: bool) -> None:
    """Puts a program into the folder: a link, or a copy where a tenant could not follow the link."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in folder, folder.parent:
        name.chmod(0o755 if name == folder else 0o711)
    target = folder / program.name
    made = folder / f".{program.name}.{os.getpid()}"
    made.unlink(missing_ok=True)
    if tenants and not reachable(program.resolve()):
        status = program.stat()
        if target.is_file() and not target.is_symlink() and target.stat().st_mtime_ns == status.st_mtime_ns:
            return
        shutil.copy2(program, made)
        made.chmod(0o755)
    else:
        made.symlink_to(program.resolve())
    made.replace(target)


def reachable(program: Path) -> bool:
    """Whether any account can run it: every folder on the way is open to others, and so is the file."""
    try:
        return bool(program.stat().st_mode & 0o005 == 0o005) and all(
            folder.stat().st_mode & 0o001 for folder in program.parents
        )
    except OSError:
        return False


def started_at(pid: int) -> str:
    """When a process was started, in a form that no other process of this id ever has; empty when there is none.

    Linux counts ticks since the boot (proc_pid_stat(5), field 22), which no change of the clock alters.
    """
    try:
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}:{ticks}"
    except OSError:
        pass
    if sys.platform == "linux":
        return ""
    with contextlib.suppress(psutil.Error):
        return repr(psutil.Process(pid).create_time())
    return ""


def is_alive(process: Process) -> bool:
    """Whether it is there, and no other that was given its id; one that has ended and waits to be reaped is not."""
    if started_at(process.pid) != process.started:
        return False
    with contextlib.suppress(psutil.Error):
        return bool(psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE)
    return False


@dataclass(frozen=True)
class Marks:
    """How to know a process of an attempt when its builder is gone: by a variable, or by where it works."""

    name: str
    value: str
    folder: Path
    uid: int


def look_as(uid: int) -> ThreadPoolExecutor:
    """A thread that may look into this account's processes.

    Where root has not every right, in a container without CAP_SYS_PTRACE, the environment of a process is readable to
    its own account only (ptrace(2), PTRACE_MODE_READ_FSCREDS).
    """

    def take_account() -> None:
        if sys.platform == "linux" and os.geteuid() == 0:
            libc = ctypes.CDLL(None)
            libc.setfsgid(uid)
            libc.setfsuid(uid)

    return ThreadPoolExecutor(1, "look", initializer=take_account)


def came_of(process: Process | None, marks: Marks) -> tuple[psutil.Process | None, list[psutil.Process]]:
    """The builder, if it lives, and every process that came of it: descendants, and orphans that carry its marks."""
    root = None
    found: dict[int, psutil.Process] = {}
    if process is not None and is_alive(process):
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(process.pid)
            found = {child.pid: child for child in root.children(recursive=True) if not _is_zombie(child)}
    for other in psutil.process_iter():
        if other.pid not in found and (root is None or other.pid != root.pid) and _is_marked(other, marks):
            found[other.pid] = other
    return root, list(found.values())


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return True


def _is_marked(process: psutil.Process, marks: Marks) -> bool:
    try:
        if process.uids().real != marks.uid or process.pid == os.getpid() or _is_zombie(process):
            return False
        if process.environ().get(marks.name) == marks.value:
            return True
        return Path(process.cwd()).is_relative_to(marks.folder)
    except (psutil.Error, OSError):
        return False
