"""Starts and stops builders as Jobs: one waits without a pod until it is written down, as a child process does at its input."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog
from lightkube.resources.batch_v1 import Job

from shipoff.build.adapters.assignment import Assignment, Images, Limits
from shipoff.build.adapters.kubernetes.api import JobApi
from shipoff.build.adapters.kubernetes.mirror import JobMirror
from shipoff.build.domain import Order, Process, Ref, Sight
from shipoff.build.manifests import CACHES, WORK, BuildCluster, job, name_of, namespace_objects, secret
from shipoff.common.errors import Aborted, PreconditionFailed, TemporaryError, Unavailable
from shipoff.common.kubernetes import Absent

# For a pod to end after its Job was deleted, its own grace included; then it is ended without waiting for its node.
_END_S = 8.0
_GRACE_S = 1
_MEND_EVERY_S = 300.0

log = structlog.get_logger()


@dataclass(frozen=True)
class PodTold:
    """What is the same in every pod's assignment."""

    path: str
    environment: Mapping[str, str]
    allow_hosts: tuple[str, ...]
    patience_s: float
    limits: Limits
    images: Images | None
    # As Assignment's, asked anew for each: it may be renewed.
    authority: Callable[[], str]


class JobLauncher:
    """Implements ports.BuilderLauncher."""

    def __init__(self, api: JobApi, mirror: JobMirror, cluster: BuildCluster, told: PodTold, *, prepare: bool) -> None:
        self._api = api
        self._mirror = mirror
        self._cluster = cluster
        self._told = told
        self._prepare = prepare
        self._prepared = not prepare
        self._mend_at = time.monotonic() + _MEND_EVERY_S

    async def launch(self, ref: Ref, order: Order, recorded: Callable[[Process, bytes], Awaitable[bool]]) -> None:
        """Makes a Job that is suspended, has it and its token's hash recorded, then tells its pod and lets it go.

        Raises InvalidInput when the cluster refuses it, TemporaryError when it is away or has no room.
        """
        self._mirror.require()
        await self._have_namespace()
        token = secrets.token_urlsafe(32)
        created = await self._create(ref, order)
        self._mirror.put(created)
        meta = created.metadata
        assert meta is not None
        assert meta.uid is not None
        if not await recorded(Process(0, meta.uid), hashlib.sha256(token.encode()).digest()):
            await self._api.delete(ref)
            return
        told = secret(ref, order, self._cluster, job_uid=meta.uid, assignment=self._assignment(ref, token).to_json())
        await self._api.tell(told)
        if (going := await self._api.let_go(ref)) is not None:
            self._mirror.put(going)

    async def _have_namespace(self) -> None:
        if not self._prepared:
            for one in namespace_objects(self._cluster):
                await self._api.apply(one)
            self._prepared = True

    async def _create(self, ref: Ref, order: Order) -> Job:
        try:
            return await self._api.create(job(ref, order, self._cluster))
        except Aborted as error:
            # Left by a service that ended before it had written the Job down: nobody knows its token.
            await self._api.delete(ref)
            raise Unavailable(f"{name_of(ref)} is there already and is removed first", retry_after_s=1.0) from error
        except Absent as error:
            self._prepared = not self._prepare
            if self._prepare:
                raise Unavailable(f"the namespace {self._cluster.namespace} is gone and is made again") from error
            remedy = "make it, or set SHIPOFF_BUILD_JOB_PREPARE=true"
            raise PreconditionFailed(f"there is no namespace {self._cluster.namespace}", remedy=remedy) from error

    def _assignment(self, ref: Ref, token: str) -> Assignment:
        """No account and no sandbox of the builder's own: the pod is both."""
        told = self._told
        return Assignment(
            address=self._cluster.address,
            token=token,
            mark=str(ref),
            work=WORK,
            caches=CACHES,
            uid=None,
            path=told.path,
            environment=told.environment,
            allow_hosts=told.allow_hosts,
            patience_s=told.patience_s,
            limits=told.limits,
            authority=told.authority(),
            sandbox=None,
            images=told.images,
        )

    def look(self, process: Process) -> Sight:
        """What is to be seen of the Job and its pod."""
        return self._mirror.look(process.started)

    async def terminate(self, process: Process) -> None:
        """Has its pod told to stop."""
        ref = self._mirror.jobs().get(process.started)
        for pod in self._mirror.pods_of(ref) if ref else ():
            await self._api.delete_pod(pod, grace_s=_GRACE_S)

    async def stop(self, ref: Ref, process: Process | None) -> None:
        """Deletes its Job, and waits until its pod has gone; one whose node does not answer is given up."""
        await self._api.delete(ref)
        for pod in self._mirror.pods_of(ref):
            await self._api.delete_pod(pod, grace_s=_GRACE_S)
        if await self._mirror.until_without_pods(ref, _END_S):
            return
        log.warning("a build's pod does not end: it is given up", attempt=str(ref), pods=self._mirror.pods_of(ref))
        for pod in self._mirror.pods_of(ref):
            await self._api.delete_pod(pod, grace_s=0)

    async def clean_up(self, ref: Ref) -> None:
        """Nothing of it is on the cluster; what was kept of its words goes."""
        await self._api.delete(ref)
        self._mirror.forget(ref)

    async def leftovers(self) -> Sequence[Ref]:
        """Attempts that have a Job. Beside, what somebody changed in the namespace is put right before long."""
        if time.monotonic() >= self._mend_at:
            self._mend_at = time.monotonic() + _MEND_EVERY_S
            await self._mend()
        return sorted(set(self._mirror.jobs().values()))

    async def _mend(self) -> None:
        try:
            self._prepared = not self._prepare
            await self._have_namespace()
        except TemporaryError as error:
            log.info("the builds' namespace cannot be put right now", error=error.message)

    def last_words(self, ref: Ref) -> str:
        """The end of what the builder wrote, from its pod's status."""
        return self._mirror.last_words(ref)
