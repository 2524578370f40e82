"""A stand-in for Argo CD's application controller, and for the controller of Sealed Secrets behind it.

It does what the real one does as far as the platform relies on it: looks at every Application in its namespace, reads the
repository at the Application's revision and path, applies what differs under its own field manager, prunes what it brought and
the repository no longer has, refuses to prune everything, and writes sync, health, resources and operationState into the status
(https://argo-cd.readthedocs.io/en/stable/operator-manual/application.yaml).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pygit2
import yaml
from lightkube import ApiError, AsyncClient, codecs
from lightkube.core.resource import GlobalResource
from lightkube.core.resource_registry import resource_registry
from lightkube.types import PatchType
from neighbours.sealed import controller_key, unsealed

from shipoff.runtime.adapters.gitops.trees import files_of
from shipoff.runtime.manifests.application import Application

Json = dict[str, Any]
_MANAGER = "argocd-controller"
_REFRESH = "argocd.argoproj.io/refresh"
_AMOUNT = re.compile(r"([0-9.]+)(m|k|M|G|Ki|Mi|Gi|Ti|)")
_UNITS = {
    "m": Decimal("0.001"), "": 1, "k": 10**3, "M": 10**6, "G": 10**9,
    "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40,
}  # fmt: skip
# In the order in which a sync applies them.
_FIRST = ("Namespace", "ResourceQuota", "LimitRange", "NetworkPolicy", "ServiceAccount", "Secret", "ConfigMap")

# Argo CD's Application as a kind of a cluster that has no Argo CD.
CRD: Json = yaml.safe_load(Path(__file__).with_name("argocd_crd.yaml").read_text())


@dataclass
class ArgoStandIn:
    """One controller for the Applications of a namespace."""

    client: AsyncClient
    namespace: str
    every_s: float = 0.02
    # Whether it runs, and whether it applies what differs or only says so.
    runs: bool = True
    syncs: bool = True
    # Which of the keys that a controller of Sealed Secrets may have is this cluster's.
    key: int = 0
    # (revision, how many objects were applied or pruned) of each sync.
    syncs_done: list[tuple[str, int]] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    # By Application: what it had before it when it looked last, and when that was.
    _looked: dict[str, tuple[Any, float]] = field(default_factory=dict)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[ArgoStandIn]:
        """Beside the block."""
        task = asyncio.create_task(self._run())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                async for one in self.client.list(Application, namespace=self.namespace):
                    if self.runs and self._is_due(one):
                        await self._look(one)
            except ApiError as error:
                self.errors.append(error)
            await asyncio.sleep(self.every_s)

    def _is_due(self, app: Any) -> bool:
        """At once where the repository or the Application has changed; else now and then, for what others do to the cluster."""
        repository = pygit2.Repository(app.spec["source"]["repoURL"])
        head = repository.references[f"refs/heads/{app.spec['source']['targetRevision']}"].target
        asked = _REFRESH in (app.metadata.annotations or {})
        now, seen = time.monotonic(), (head, app.spec, app.metadata.deletionTimestamp, self.syncs)
        before, at = self._looked.get(app.metadata.name, (None, 0.0))
        if not asked and seen == before and now - at < 10 * self.every_s:
            return False
        self._looked[app.metadata.name] = (seen, now)
        return True

    async def _look(self, app: Any) -> None:
        if app.metadata.deletionTimestamp is not None:
            await self._end(app)
            return
        source, status = app.spec["source"], dict(app.status or {})
        repository = pygit2.Repository(source["repoURL"])
        head = repository.references[f"refs/heads/{source['targetRevision']}"].target
        files = files_of(repository, head, source["path"])
        documents = [yaml.safe_load(content) for path, content in sorted(files.items()) if path.endswith(".yaml")]
        if not documents:
            words = f"{source['path']}: app path does not exist"
            status["conditions"] = [{"type": "ComparisonError", "message": words}]
            status["sync"] = {"status": "Unknown"}
        else:
            status.pop("conditions", None)
            await self._compare(app, documents, str(head), status)
        await self._tell(app, status)

    async def _compare(self, app: Any, documents: list[Json], revision: str, status: Json) -> None:
        wanted = [self._on_cluster(one) for one in documents]
        wanted.sort(key=lambda one: _FIRST.index(one[1]["kind"]) if one[1] and one[1]["kind"] in _FIRST else len(_FIRST))
        states = [(shown, one, one is not None and await self._is_there(one)) for shown, one in wanted]
        shown = [_id(one) for one, _, _ in states]
        extra = [one for one in status.get("resources", []) if _key(one) not in {_key(two) for two in shown}]
        missing = [(name, one) for name, one, there in states if not there]
        if (missing or extra) and self.syncs:
            await self._sync(missing, extra, revision, status)
            missing = [(name, one) for name, one in missing if one is None or not await self._is_there(one)]
            extra = []
        away = {_key(_id(name)) for name, _ in missing}
        status["resources"] = [
            {**one, "status": "OutOfSync" if _key(one) in away else "Synced", **_health(one, wanted)} for one in shown
        ] + [{**one, "status": "OutOfSync", "requiresPruning": True} for one in extra]
        status["sync"] = {"status": "OutOfSync" if missing or extra else "Synced", "revision": revision}
        status["health"] = {"status": "Progressing" if missing else "Healthy"}

    def _on_cluster(self, document: Json) -> tuple[Json, Json | None]:
        """What a manifest comes to; None where its secret cannot be opened."""
        if document["kind"] != "SealedSecret":
            return document, document
        try:
            return document, unsealed(document, controller_key(self.key))
        except ValueError:
            return document, None

    async def _sync(self, missing: list[tuple[Json, Json | None]], extra: list[Json], revision: str, status: Json) -> None:
        results, now = [], datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        for shown, one in missing:
            result = {**_id(shown), "status": "Synced"}
            try:
                if one is not None:
                    await self.client.apply(codecs.from_dict(one), field_manager=_MANAGER, force=True)
            except ApiError as error:
                result |= {"status": "SyncFailed", "message": str(error)}
            results.append(result)
        failed = [one for one in results if one["status"] == "SyncFailed"]
        for one in [] if failed else extra:
            await self._delete(one)
        status["operationState"] = {
            "phase": "Failed" if failed else "Succeeded",
            "message": "one or more objects failed to apply" if failed else "successfully synced (all tasks run)",
            "startedAt": now,
            "finishedAt": now,
            "operation": {"sync": {"revision": revision}},
            "syncResult": {"revision": revision, "resources": results},
        }
        self.syncs_done.append((revision, len(results) + len(extra)))

    async def _is_there(self, document: Json) -> bool:
        try:
            live = await self._get(document)
        except ApiError as error:
            if error.status.code == 404:
                return False
            raise
        return live.metadata.deletionTimestamp is None and _within(document, live.to_dict())

    async def _get(self, document: Json) -> Any:
        kind: Any = resource_registry.load(document["apiVersion"], document["kind"])
        return await self.client.get(kind, document["metadata"]["name"], **_place(kind, document["metadata"].get("namespace")))

    async def _delete(self, one: Json) -> None:
        name = {"SealedSecret": "Secret"}.get(one["kind"], one["kind"])
        version = f"{one['group']}/{one['version']}" if one["group"] and name != "Secret" else "v1"
        kind: Any = resource_registry.load(version, name)
        with contextlib.suppress(ApiError):
            await self.client.delete(kind, one["name"], **_place(kind, one.get("namespace")))

    async def _end(self, app: Any) -> None:
        for one in reversed((app.status or {}).get("resources", [])):
            await self._delete(one)
        await self._patch(app, {"metadata": {"finalizers": None}})

    async def _tell(self, app: Any, status: Json) -> None:
        asked = _REFRESH in (app.metadata.annotations or {})
        if status != (app.status or {}) or asked:
            gone = {one: None for one in (app.status or {}) if one not in status}
            await self._patch(app, {"metadata": {"annotations": {_REFRESH: None}}, "status": {**status, **gone}})

    async def _patch(self, app: Any, part: Json) -> None:
        with contextlib.suppress(ApiError):
            await self.client.patch(
                Application, app.metadata.name, part, namespace=app.metadata.namespace, patch_type=PatchType.MERGE
            )


def _id(document: Json) -> Json:
    group, _, version = document["apiVersion"].rpartition("/")
    meta = document["metadata"]
    place = {"namespace": meta.get("namespace", ""), "name": meta["name"]}
    return {"group": group, "version": version, "kind": document["kind"], **place}


def _key(one: Json) -> tuple[str, str, str]:
    return one["kind"], one.get("namespace", ""), one["name"]


def _health(one: Json, wanted: list[tuple[Json, Json | None]]) -> Json:
    for shown, real in wanted:
        if real is None and _key(_id(shown)) == _key(one):
            return {"health": {"status": "Degraded", "message": "no key could decrypt secret"}}
    return {}


def _place(kind: Any, namespace: str | None) -> dict[str, str]:
    return {} if issubclass(kind, GlobalResource) else {"namespace": namespace or ""}


def _within(wanted: Any, live: Any) -> bool:
    """Whether everything that is wanted is so; what the API fills in besides is no difference."""
    if isinstance(wanted, dict):
        return isinstance(live, dict) and all(
            key in live and _within(value, live[key]) for key, value in wanted.items() if value not in ({}, None)
        )
    if isinstance(wanted, list):
        return isinstance(live, list) and len(wanted) == len(live) and all(map(_within, wanted, live))
    return bool(wanted == live) or (isinstance(wanted, str) and isinstance(live, str) and _is_same_amount(wanted, live))


def _is_same_amount(one: str, other: str) -> bool:
    """Whether two quantities are the same, which the API may write in another way: 2000m is 2."""
    amounts = [_AMOUNT.fullmatch(text) for text in (one, other)]
    values = [Decimal(found[1]) * _UNITS[found[2]] for found in amounts if found]
    return len(values) == 2 and values[0] == values[1]
