"""Builders as child processes of this machine, each with a work folder under $SHIPOFF_HOME/builds."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import secrets
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import psutil

from shipoff.build.adapters.assignment import MARK, Assignment, Images, Limits
from shipoff.build.adapters.machine import PROGRAMS, Marks, Tools, came_of, find_tools, is_alive, look_as, started_at
from shipoff.build.domain import ALIVE, GONE, Order, Process, Ref, Sight
from shipoff.common.accounts import tenant_uid
from shipoff.common.errors import Exhausted
from shipoff.common.processes import moves
from shipoff.common.sandbox import Sandbox, hidden_folders, shown_folders

_KILL_ROUNDS = 100
_KILL_PAUSE_S = 0.02
# So many turns of stopping come before one of killing.
_STOP_TURNS = 20
_FOLDER = re.compile(r"([0-9a-f-]{36})-(\d+)")
_NPM_SETTINGS = "NPM_CONFIG_USERCONFIG"


@dataclass(frozen=True)
class Workplace:
    """Where builders work, where they report, and what they are given."""

    folder: Path
    address: str
    environment: Mapping[str, str]
    allow_hosts: tuple[str, ...]
    patience_s: float
    limits: Limits
    # bubblewrap; empty: steps run without.
    sandbox: str = ""
    # Folders of the platform's that no step sees, besides `folder`.
    private: tuple[Path, ...] = ()
    images: Images | None = None
    # As Assignment's.
    authority: str = ""


class ChildProcessLauncher:
    """Implements ports.BuilderLauncher."""

    def __init__(self, workplace: Workplace) -> None:
        self._place = workplace
        self._tools: Tools | None = None
        # Kept to be reaped; never waited for, since builders may outlive this process.
        self._children: dict[int, Popen[bytes]] = {}

    async def launch(self, ref: Ref, order: Order, recorded: Callable[[Process, bytes], Awaitable[bool]]) -> None:
        """Starts a builder that waits, has its process and its token's hash recorded, and lets it go on.

        Raises PreconditionFailed when this machine cannot run builders, Exhausted when it has no room for one now.
        """
        token = secrets.token_urlsafe(32)
        try:
            assignment = await asyncio.to_thread(self._prepare, ref, order.project_id, token)
            child = await asyncio.to_thread(self._spawn, ref, assignment)
        except OSError as error:
            raise Exhausted(f"a builder cannot be started: {error}", retry_after_s=2.0) from error
        self._children[child.pid] = child
        process = Process(child.pid, started_at(child.pid))
        going = False
        try:
            going = await recorded(process, hashlib.sha256(token.encode()).digest())
        finally:
            await asyncio.to_thread(_hand_over, child, assignment.to_json() if going else "")

    def _prepare(self, ref: Ref, project_id: str, token: str) -> Assignment:
        """Makes the folders. The attempt's own is the platform's, with the tenant's inside."""
        if self._tools is None:
            tenants = tenant_uid(project_id) is not None
            self._tools = find_tools(self._place.folder / "tools" / "bin", tenants=tenants)
        uid = tenant_uid(project_id)
        for folder in (self._place.folder, self._place.folder / "work", self._place.folder / "caches", self._folder(ref)):
            folder.mkdir(mode=0o711, parents=True, exist_ok=True)
            folder.chmod(0o711)
        work = _owned(self._folder(ref) / "tree", uid)
        caches = _owned(self._place.folder / "caches" / project_id, uid)
        environment = self._environment(tenants=uid is not None)
        return Assignment(
            address=self._place.address,
            token=token,
            mark=str(ref),
            work=str(work),
            caches=str(caches),
            uid=uid,
            path=self._tools.path,
            environment=environment,
            allow_hosts=self._place.allow_hosts,
            patience_s=self._place.patience_s,
            limits=self._place.limits,
            authority=self._place.authority,
            sandbox=self._sandbox(self._tools.path, environment),
            images=self._place.images,
        )

    def _sandbox(self, path: str, environment: Mapping[str, str]) -> Sandbox | None:
        """Nothing of the platform's or of anybody's home is there but the tools that steps need."""
        if not self._place.sandbox:
            return None
        private = (self._place.folder, *self._place.private)
        hidden = hidden_folders(private)
        shown = shown_folders(hidden, path, programs=PROGRAMS, more=environment.values(), private=private)
        return Sandbox(self._place.sandbox, hidden, shown)

    def _environment(self, *, tenants: bool) -> dict[str, str]:
        """What is passed on, and the operator's npm settings where builds can read them."""
        environment = dict(self._place.environment)
        settings = Path.home() / ".npmrc"
        readable = reachable_file(settings) if tenants else os.access(settings, os.R_OK)
        if readable and _NPM_SETTINGS not in environment:
            environment[_NPM_SETTINGS] = str(settings)
        return environment

    def _spawn(self, ref: Ref, assignment: Assignment) -> Popen[bytes]:
        with (self._folder(ref) / "builder.log").open("ab") as log:
            return Popen(
                # The last argument is for whoever reads a list of processes.
                [sys.executable, "-I", "-m", "shipoff.builder", str(ref)],
                stdin=PIPE,
                stdout=log,
                stderr=log,
                cwd="/",
                # Without gRPC's handlers around fork: they crash children that change their account before exec.
                env={"PATH": assignment.path, "LANG": "C.UTF-8", "GRPC_ENABLE_FORK_SUPPORT": "0"},
                start_new_session=True,
            )

    def look(self, process: Process) -> Sight:
        """Whether the builder's process exists."""
        self._reap()
        return ALIVE if is_alive(process) else GONE

    def _reap(self) -> None:
        for pid, child in list(self._children.items()):
            if child.poll() is not None:
                del self._children[pid]

    async def terminate(self, process: Process) -> None:
        """Asks it to stop."""
        if self.look(process).alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)

    async def stop(self, ref: Ref, process: Process | None) -> None:
        """Ends the builder and everything that came of it, also what outlived it. Raises Exhausted when that takes too long."""
        marks = self._marks(ref)
        with look_as(marks.uid) as thread:
            for turn in range(_KILL_ROUNDS):
                root, others = await asyncio.get_running_loop().run_in_executor(thread, came_of, process, marks)
                if root is None and not others:
                    self._reap()
                    return
                # Nobody is killed before all are stopped: who is stopped forks no more and keeps its place within the account's
                # limit. The builder goes last: as long as it is there, everything hangs together.
                moving = [one for one in [root, *others] if one and moves(one)] if turn % _STOP_TURNS else []
                _signal_all(moving or others or ([root] if root else []), signal.SIGSTOP if moving else signal.SIGKILL)
                await asyncio.sleep(0 if moving else _KILL_PAUSE_S)
        raise Exhausted(f"processes of {ref} are still there", retry_after_s=1.0)

    def _marks(self, ref: Ref) -> Marks:
        project_uid = _owner(self._folder(ref) / "tree")
        return Marks(MARK, str(ref), self._folder(ref), os.geteuid() if project_uid is None else project_uid)

    async def clean_up(self, ref: Ref) -> None:
        """Removes its work folder."""
        await asyncio.to_thread(_remove, self._folder(ref))

    async def leftovers(self) -> Sequence[Ref]:
        """Attempts whose work folders are there."""
        work = self._place.folder / "work"
        names = await asyncio.to_thread(lambda: [path.name for path in work.iterdir()] if work.is_dir() else [])
        matches = (_FOLDER.fullmatch(name) for name in names)
        return [Ref(match[1], int(match[2])) for match in matches if match]

    def last_words(self, ref: Ref) -> str:
        """The end of what the builder said on standard error."""
        with contextlib.suppress(OSError):
            return (self._folder(ref) / "builder.log").read_text(errors="replace")[-2000:]
        return ""

    def _folder(self, ref: Ref) -> Path:
        return self._place.folder / "work" / f"{ref.deployment_id}-{ref.attempt}"


def _hand_over(child: Popen[bytes], text: str) -> None:
    """Writes the assignment; without one the builder leaves."""
    if child.stdin is None:
        return
    # It may have died already: the reconciler finds out.
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(text.encode())
    with contextlib.suppress(BrokenPipeError):
        child.stdin.close()


def _owned(folder: Path, uid: int | None) -> Path:
    """A folder that only its owner can enter."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if uid is not None:
        os.chown(folder, uid, uid)
    return folder


def _owner(folder: Path) -> int | None:
    try:
        return folder.stat().st_uid
    except OSError:
        return None


def reachable_file(path: Path) -> bool:
    """Whether any account can read it."""
    try:
        return bool(path.stat().st_mode & 0o004) and all(folder.stat().st_mode & 0o001 for folder in path.parents)
    except OSError:
        return False


def _signal_all(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def _remove(folder: Path) -> None:
    """Removes a folder whose modes somebody else has set. Links are not followed."""

    def open_up(function: Callable[..., Any], path: str, _error: object) -> None:
        parent = Path(path).parent
        with contextlib.suppress(OSError):
            parent.chmod(0o700)
            if not Path(path).is_symlink():
                Path(path).chmod(0o700)
            shutil.rmtree(path) if Path(path).is_dir() and not Path(path).is_symlink() else function(path)

    if folder.exists():
        shutil.rmtree(folder, onerror=open_up)
