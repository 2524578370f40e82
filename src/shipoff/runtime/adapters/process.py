"""The driver `process`: instances are processes of this machine, in a session of their own, under the tenant's account.

They do not depend on the platform's process: they write their output to files, and a mark in their environment lets the
next platform find and adopt them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import structlog

from shipoff.common.accounts import tenant_uid
from shipoff.common.errors import Exhausted, InvalidInput
from shipoff.common.failpoints import crossing
from shipoff.common.lifecycle import looping
from shipoff.common.sandbox import exit_code
from shipoff.runtime.adapters import once, probes, proctable
from shipoff.runtime.adapters.enclosure import group_to_ask, is_monitor
from shipoff.runtime.adapters.logfiles import LogFiles
from shipoff.runtime.adapters.release import Releases
from shipoff.runtime.adapters.sessions import MARK, alone, end, exit_words, send
from shipoff.runtime.adapters.spawning import HOST, Channels, Run, Spawner
from shipoff.runtime.domain import Endpoint, Instance, InstanceKey, InstanceState, Observation, Observed, Probe, Workload
from shipoff.runtime.ports import Capacity

_MEASURE_S = 2.0
_PLACE_TRIES = 200

log = structlog.get_logger()


class ProcessDriver:
    """`ports.Driver` on processes. `on_change` is called with a deployment's id when an instance of it ended."""

    def __init__(
        self,
        spawner: Spawner,
        releases: Releases,
        *,
        on_change: Callable[[str], None],
    ) -> None:
        self._options = spawner.options
        self._releases = releases
        self._spawner = spawner
        self._on_change = on_change
        self._logs = LogFiles(self._options.folder / "logs")
        self._runs: dict[InstanceKey, Run] = {}
        self._watched: set[int] = set()

    @property
    def logs(self) -> LogFiles:
        """The files that instances write."""
        return self._logs

    @asynccontextmanager
    async def running_here(self) -> AsyncIterator[ProcessDriver]:
        """Owns the apps' folder, adopts what runs, and watches over it beside the block. The processes outlive it."""
        self._options.folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        async with alone(self._options.folder / ".lock"):
            await asyncio.to_thread(self._adopt_all)
            for key, run in self._runs.items():
                self._watch(key, run)
            try:
                async with looping("measure instances", self._measure, every_s=_MEASURE_S):
                    yield self
            finally:
                for descriptor in list(self._watched):
                    self._unwatch(descriptor)

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """It owns the folder: nothing changes without it."""
        yield

    def _adopt_all(self) -> None:
        """Finds instances of an earlier life of the platform by their mark; followers without their leader are ended."""
        families: dict[InstanceKey, list[proctable.Entry]] = defaultdict(list)
        for entry, value in proctable.marked(MARK, self._spawner.mark):
            key = _parse_mark(value, self._spawner.mark)
            if key is not None:
                families[key].append(entry)
        for key, family in families.items():
            leader = _leader(family)
            if leader is not None:
                self._runs[key] = Run(leader.pid, leader.started, enclosed=is_monitor(leader.pid))
                continue
            for entry in family:
                send(entry.pid, signal.SIGKILL)

    def is_running(self, key: InstanceKey) -> bool:
        """Whether the run lives."""
        run = self._runs.get(key)
        return run is not None and run.exit is None

    async def running(self) -> Collection[InstanceKey]:
        return [key for key, run in self._runs.items() if run.exit is None and run.ending() is None]

    async def capacity(self) -> Capacity | None:
        return None

    async def place(self, instance: Instance, *, taken: Collection[int]) -> Instance:
        """The port it had, where that is still free: routes to it stay right. Else any free one of the range."""
        if not instance.serves:
            return replace(instance, port=0)
        wish = [instance.port] if self._options.first_port <= instance.port <= self._options.last_port else []
        chance = random.SystemRandom()
        picks = (chance.randint(self._options.first_port, self._options.last_port) for _ in range(_PLACE_TRIES))
        for port in (*wish, *picks):
            if port not in taken and _is_free(port):
                return replace(instance, host=HOST, port=port)
        raise Exhausted("no port is free for another instance", retry_after_s=5.0, remedy="stop what is not needed")

    async def start(self, workload: Workload, instance: Instance) -> None:
        if instance.key in self._runs or (instance.once and once.read(self._record_of(workload))[0]):
            return
        await self._releases.prepare(workload)
        argv = next((p.argv for p in workload.processes if p.name == instance.key.process), ())
        if not argv:
            raise InvalidInput(f"the plan has no command for {instance.key.process}", field="workload.processes")
        crossing("instance spawning")
        run = self._spawn(workload, instance, argv)
        self._runs[instance.key] = run
        crossing("instance spawned")
        self._watch(instance.key, run)
        log.info("instance started", deployment_id=workload.deployment_id, process=instance.key.process,
                 index=instance.key.index, incarnation=instance.key.incarnation, pid=run.pid, port=instance.port)  # fmt: skip

    def _spawn(self, workload: Workload, instance: Instance, argv: Sequence[str]) -> Run:
        stdout, stderr = self._logs.create(workload, instance.key, tenant_uid(workload.project_id))
        channels = Channels(subprocess.DEVNULL, stdout, stderr)
        address = Endpoint(instance.host or HOST, instance.port) if instance.serves else None
        try:
            record = self._record_of(workload) if instance.once else ""
            return self._spawner.spawn(workload, instance.key, argv, channels, address=address, record=record)
        finally:
            os.close(stdout)
            os.close(stderr)

    def _record_of(self, workload: Workload) -> str:
        """Where it is written down how the release command ended: in the platform's folder, not in the tenant's."""
        return str(self._releases.of(workload.deployment_id) / "release-command")

    def _watch(self, key: InstanceKey, run: Run) -> None:
        """Wakes the reconciler when the process ends; where the system cannot tell, the next measuring does."""
        if not hasattr(os, "pidfd_open"):
            return
        try:
            descriptor = os.pidfd_open(run.pid)
        except OSError:
            self._on_change(key.deployment_id)
            return
        self._watched.add(descriptor)

        def ended() -> None:
            self._unwatch(descriptor)
            self._on_change(key.deployment_id)

        asyncio.get_running_loop().add_reader(descriptor, ended)

    def _unwatch(self, descriptor: int) -> None:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
        self._watched.discard(descriptor)

    async def observe(self, workload: Workload, instances: Sequence[Instance], *, probe: Collection[InstanceKey]) -> Observed:
        self._forget_ended(workload.deployment_id, {one.key for one in instances})
        due = [one for one in instances if one.key in probe]
        answers = await asyncio.gather(*(self._probe(workload, one) for one in due))
        probed = dict(zip((one.key for one in due), answers, strict=True))
        seen = {}
        for instance in instances:
            observation = await self._look(workload, instance, probed.get(instance.key))
            if observation is not None:
                seen[instance.key] = observation
        return Observed(seen, residue=self._releases.exists(workload.deployment_id))

    async def _look(self, workload: Workload, instance: Instance, probe: Probe | None) -> Observation | None:
        run = self._runs.get(instance.key)
        if run is None:
            return self._recorded(workload, instance) if instance.once else None
        run.memory_bytes = workload.memory_bytes
        if run.exit is None:
            await self._check(instance.key, run)
        if run.exit is None:
            return Observation(True, run.pid, run.started, probe=probe, excess=run.excess)
        if instance.once and (recorded := self._recorded(workload, instance)):
            return recorded
        return Observation(False, exit=run.exit, last_lines=self._logs.tail(instance.key))

    def _recorded(self, workload: Workload, instance: Instance) -> Observation | None:
        """How a release command ended that does not run, as it was written down; None: it was never begun."""
        begun, code = once.read(self._record_of(workload))
        if not begun:
            return None
        if code is None:
            return Observation(False, lost=True)
        words = exit_words(exit_code(code) if self._options.sandbox is not None else code)
        return Observation(False, exit=words, well=code == 0, last_lines=self._logs.tail(instance.key))

    async def _check(self, key: InstanceKey, run: Run) -> None:
        """Notices an end; what the process leaves behind is ended too, before anyone starts its successor."""
        words = run.ending()
        if words is not None:
            await end(run.pid, run.started, mark=self._spawner.mark_of(key))
            run.exit = words

    @staticmethod
    async def _probe(workload: Workload, instance: Instance) -> Probe:
        if instance.state is not InstanceState.STARTING:
            return await probes.connect(instance.endpoint)
        if workload.health_path:
            return await probes.get(instance.endpoint, workload.health_path)
        return await probes.answer(instance.endpoint)

    def _forget_ended(self, deployment_id: str, known: Collection[InstanceKey]) -> None:
        for key, run in list(self._runs.items()):
            if key.deployment_id == deployment_id and run.exit is not None and key not in known:
                del self._runs[key]

    async def arrange(self, workload: Workload) -> None:
        """Nothing surrounds a process."""

    async def switch(self, workload: Workload) -> None:
        """Whoever routes is told the instances' addresses by events."""

    async def terminate(self, key: InstanceKey) -> None:
        run = self._runs.get(key)
        if run is not None and run.ending() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(await asyncio.to_thread(group_to_ask, run.pid), signal.SIGTERM)
            crossing("instance terminated")

    async def kill(self, key: InstanceKey) -> None:
        run = self._runs.get(key)
        if run is not None:
            await end(run.pid, run.started, mark=self._spawner.mark_of(key))
            crossing("instance killed")

    async def remove(self, deployment_id: str) -> None:
        crossing("release removing")
        await self._releases.remove(deployment_id)
        crossing("release removed")

    async def _measure(self) -> None:
        """Finds instances above their limits and, where nothing else tells, those that have ended."""
        living = {key: run for key, run in self._runs.items() if run.exit is None}
        if not living:
            return
        processes = await asyncio.to_thread(proctable.table)
        for key, run in living.items():
            if run.pid not in processes:
                self._on_change(key.deployment_id)
                continue
            run.excess = run.excess or await asyncio.to_thread(run.excess_in, processes, most=self._options.max_processes)
            if run.excess:
                self._on_change(key.deployment_id)


def _leader(family: Sequence[proctable.Entry]) -> proctable.Entry | None:
    """Of the processes of one run the one that it began with: members may have made sessions of their own."""
    pids = {one.pid for one in family}
    tops = [one for one in family if one.session == one.pid and one.parent not in pids]
    return min(tops, key=lambda one: (float(one.started), one.pid), default=None)


def _parse_mark(value: str, prefix: str) -> InstanceKey | None:
    parts = value.removeprefix(prefix).split("|")
    if len(parts) != 4 or not (parts[2].isdigit() and parts[3].isdigit()):
        return None
    return InstanceKey(parts[0], parts[1], int(parts[2]), int(parts[3]))


def _is_free(port: int) -> bool:
    """Whether nothing listens on this port, on any address."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # An app of before may have left connections in TIME_WAIT, which hinder nobody.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
