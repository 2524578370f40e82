"""Mode `argocd`: the driver commits to the GitOps repository, Argo CD applies, and the driver watches what comes of it.

A cut-over is three commits: the new release beside the old, the switch of the Service's selector, and the removal of the old.
What the cluster holds is read from the same mirror as in mode `direct`; where it is not yet what was committed, the workload
waits, with Argo CD's own words for the reason.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from shipoff.common.errors import Unavailable
from shipoff.common.failpoints import crossing
from shipoff.runtime.adapters.gitops.journal import Journal
from shipoff.runtime.adapters.kubernetes.desired import Desired, Key, applied
from shipoff.runtime.adapters.kubernetes.driver import KubernetesDriver
from shipoff.runtime.adapters.kubernetes.mirror import OWNED
from shipoff.runtime.adapters.kubernetes.recorded import withdrawn
from shipoff.runtime.adapters.kubernetes.sheets import marks, sheets
from shipoff.runtime.domain import Instance, InstanceKey, Observed, Workload
from shipoff.runtime.manifests import Object, commits
from shipoff.runtime.manifests.application import REFRESH, Application, Argo, application, drift, failure, waiting
from shipoff.runtime.manifests.folder import PROJECT_FOLDER, Files, Mark, Sheet, with_sheets, without

_OWNED = frozenset(kind.__name__ for kind in OWNED)
_RUNNING = frozenset({"Deployment", "HorizontalPodAutoscaler"})


class ArgoDriver(KubernetesDriver):
    """`ports.Driver` whose hand on the cluster is Argo CD."""

    also = (Application,)

    def __init__(self, *args: Any, journal: Journal, argo: Argo, platform: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self._journal = journal
        self._argo = argo
        self._platform = platform
        # By namespace: the last commit that was made for it.
        self._commits: dict[str, str] = {}

    @asynccontextmanager
    async def following(self) -> AsyncIterator[KubernetesDriver]:
        async with self._journal.following(), super().following():
            yield self

    async def arrange(self, workload: Workload) -> None:
        """Commits the release where it is not in the repository; raises Unavailable, with why, until the cluster has it."""
        self._mirror.require()
        desired = self._wishes.of(workload)
        if not self._is_astray(desired):
            return
        project, release, _ = self._wishes.objects(workload)
        wanted = self._sheets(desired, project, release)
        await self._write(desired, marks(desired, self._journal.seal, route=False), wanted, commits.released(workload))
        crossing("release committed")
        await self._ensure_application(workload, desired)
        if self._is_astray(desired):
            raise Unavailable(self._words(desired))

    async def switch(self, workload: Workload) -> None:
        """Commits the switch; raises Unavailable, with why, until the cluster has it."""
        self._mirror.require()
        desired = self._wishes.of(workload)
        _, _, route = self._wishes.objects(workload)
        wanted = self._sheets(desired, [], route)
        await self._write(desired, [one.mark for one in wanted], wanted, commits.switched(workload))
        crossing("switch committed")
        if not self._is_routed(workload, desired):
            raise Unavailable(self._words(desired))

    def _sheets(self, desired: Desired, project: Iterable[Object], own: Iterable[Object]) -> list[Sheet]:
        seal = self._journal.seal
        return [*sheets(project, PROJECT_FOLDER, seal), *sheets(own, desired.names.environment, seal)]

    async def _write(self, desired: Desired, wanted: Sequence[Mark], pages: Sequence[Sheet], message: str) -> None:
        """A commit, unless the repository was seen just now to say the same."""
        namespace, mine = desired.names.namespace, desired.deployment_id
        kept = {one.path for one in marks(desired, self._journal.seal, route=True)}
        held = await self._journal.held(namespace) or {}
        surplus = any(one.owner == mine and one.kind in _RUNNING and path not in kept for path, one in held.items())
        if not surplus and all(one.is_in(held.get(one.path), mine) for one in wanted) and self._journal.is_fresh(namespace):
            return

        def change(files: Files) -> Files:
            return without(with_sheets(files, pages, mine), mine, _OWNED, kept)

        await self._commit(desired, change, message)

    async def _commit(self, desired: Desired, change: Any, message: str) -> None:
        namespace, before = desired.names.namespace, self._journal.head
        commit = await self._journal.commit(namespace, change, message)
        if commit != before or namespace not in self._commits:
            self._commits[namespace] = commit
            if self._application(desired) is not None:
                await self._api.annotate(Application, namespace, self._argo.namespace, REFRESH)

    def _application(self, desired: Desired) -> Any:
        return self._mirror.get(Application, self._argo.namespace, desired.names.namespace)

    async def _ensure_application(self, workload: Workload, desired: Desired) -> None:
        wanted = application(workload, desired.names, self._platform, self._argo)
        there = self._application(desired)
        if there is None or applied(there) != applied(wanted):
            self._mirror.put(await self._api.apply(wanted))
            crossing("application applied")

    def _words(self, desired: Desired) -> str:
        found = self._application(desired)
        return failure(found) or waiting(found, self._commits.get(desired.names.namespace, self._journal.head))

    async def observe(self, workload: Workload, instances: Sequence[Instance], *, probe: Collection[InstanceKey]) -> Observed:
        seen = await super().observe(workload, instances, probe=probe)
        if seen.refused:
            return seen
        desired = self._wishes.of(workload)
        if not workload.wanted:
            if not seen.residue and not await self._is_left(desired):
                self._wishes.forget(workload.deployment_id)
                return seen
            return replace(seen, residue=True)
        found = self._application(desired)
        trouble = seen.trouble or ("" if workload.was_ready else failure(found))
        return replace(seen, trouble=trouble, drift=drift(found, _names(desired)) if workload.was_ready else "")

    async def _is_left(self, desired: Desired) -> bool:
        """Whether the repository still holds something of it, or an Application is there for nothing."""
        held = await self._journal.held(desired.names.namespace)
        if held is None or any(one.owner == desired.deployment_id for one in held.values()):
            return True
        return not any(one.ours for one in held.values()) and self._has_application(desired)

    def _has_application(self, desired: Desired) -> bool:
        there = self._mirror.all(Application, self._argo.namespace)
        return any(one.metadata.name == desired.names.namespace for one in there)

    async def _prune(self, desired: Desired, kept: Collection[Key], kinds: Iterable[type[Any]]) -> None:
        """What is to go is taken out of the repository; Argo CD removes it."""
        held = await self._journal.held(desired.names.namespace)
        if held is None or any(one.owner == desired.deployment_id for one in held.values()):
            change = partial(withdrawn, deployment_id=desired.deployment_id, kinds=_OWNED)
            await self._commit(desired, change, commits.withdrawn(desired.shape))
        # Argo CD would not empty an Application, so that what was last to run goes on.
        await self._tidy(desired)

    async def _tidy(self, desired: Desired) -> None:
        """With the last release the Application goes, and Argo CD removes with it whatever it brought."""
        held = await self._journal.held(desired.names.namespace)
        if held is not None and not any(one.ours for one in held.values()) and self._application(desired) is not None:
            await self._api.delete(Application, desired.names.namespace, self._argo.namespace)
            crossing("application deleted")

    def _changed(self, obj: Any) -> None:
        if not isinstance(obj, Application):
            super()._changed(obj)
            return
        for desired in self._wishes.of_namespace(obj.metadata.name):
            self._on_change(desired.deployment_id)


def _names(desired: Desired) -> list[tuple[str, str]]:
    """The kinds and names of a workload's objects, as Argo CD calls them."""
    return [(kind.__name__, name) for part in (desired.release, desired.route) for kind, _, name in part]
