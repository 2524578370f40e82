"""Mode `direct` with a repository: the driver applies, and each release that takes over is a commit of the whole environment.

A new release is committed before requests are led to it: while the repository is away it waits, with that reason, until its
deadline. Of a release that serves already nothing waits: what it needs is applied, and committed as soon as that works.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from shipoff.common.failpoints import crossing
from shipoff.runtime.adapters.gitops.journal import Journal
from shipoff.runtime.adapters.kubernetes.desired import Desired
from shipoff.runtime.adapters.kubernetes.driver import KubernetesDriver
from shipoff.runtime.adapters.kubernetes.mirror import OWNED
from shipoff.runtime.adapters.kubernetes.sheets import marks, sheets
from shipoff.runtime.domain import Instance, InstanceKey, Observed, Workload
from shipoff.runtime.manifests import commits
from shipoff.runtime.manifests.folder import PROJECT_FOLDER, Files, owner_of, replaced, tidied, with_sheets, without

_OWNED = frozenset(kind.__name__ for kind in OWNED)


class RecordingDriver(KubernetesDriver):
    """The driver, with a journal of what it does."""

    def __init__(self, *args: Any, journal: Journal, **options: Any) -> None:
        super().__init__(*args, **options)
        self._journal = journal

    @asynccontextmanager
    async def following(self) -> AsyncIterator[KubernetesDriver]:
        async with self._journal.following(), super().following():
            yield self

    async def switch(self, workload: Workload) -> None:
        if workload.was_ready:
            await super().switch(workload)
            await self._record(workload)
            return
        await self._record(workload)
        crossing("release recorded")
        await super().switch(workload)

    async def _record(self, workload: Workload) -> None:
        desired, seal = self._wishes.of(workload), self._journal.seal
        if await self._is_recorded(desired):
            return
        project, release, route = self._wishes.objects(workload)
        whole = sheets([*release, *route], desired.names.environment, seal)
        around = sheets(project, PROJECT_FOLDER, seal)

        def change(files: Files) -> Files:
            mine = replaced(files, whole, environment=desired.names.environment, deployment_id=desired.deployment_id)
            return with_sheets(mine, around, desired.deployment_id)

        await self._journal.commit(desired.names.namespace, change, commits.released(workload))

    async def _is_recorded(self, desired: Desired) -> bool:
        """Whether the environment's folder says this release, or a newer one."""
        held = await self._journal.held(desired.names.namespace)
        if held is None:
            return False
        if owner_of(held, desired.names.environment) > desired.deployment_id:
            return True
        wanted = {one.path: one for one in marks(desired, self._journal.seal, route=True)}
        own = f"{desired.names.environment}/"
        others = (path for path, one in held.items() if path.startswith(own) and path not in wanted and one.ours)
        in_place = all(one.is_in(held.get(path), desired.deployment_id) for path, one in wanted.items())
        return in_place and next(others, None) is None

    async def observe(self, workload: Workload, instances: Sequence[Instance], *, probe: Collection[InstanceKey]) -> Observed:
        seen = await super().observe(workload, instances, probe=probe)
        if seen.refused:
            return seen
        if workload.wanted:
            return replace(seen, routed=seen.routed and await self._is_recorded(self._wishes.of(workload)))
        if not seen.residue and await self._is_in_record(self._wishes.of(workload)):
            return replace(seen, residue=True)
        if not seen.residue:
            self._wishes.forget(workload.deployment_id)
        return seen

    async def _is_in_record(self, desired: Desired) -> bool:
        held = await self._journal.held(desired.names.namespace)
        return held is None or any(one.owner == desired.deployment_id for one in held.values())

    async def remove(self, deployment_id: str) -> None:
        """From the cluster first: that does not wait for the repository."""
        desired = self._wishes.known(deployment_id)
        await super().remove(deployment_id)
        if desired is not None and await self._is_in_record(desired):
            change = partial(withdrawn, deployment_id=deployment_id, kinds=_OWNED)
            await self._journal.commit(desired.names.namespace, change, commits.withdrawn(desired.shape))


def withdrawn(files: Files, *, deployment_id: str, kinds: Iterable[str]) -> Files:
    """The files without a deployment's, and without what only that one needed."""
    return tidied(without(files, deployment_id, frozenset(kinds)))
