"""The driver `kubernetes`: applies what a workload needs, reads what became of it from the mirror, and switches the Service.

A release has Deployments of its own, named by its content; the environment's Service selects the pods of one release. So a
new release comes up beside the old one, and a deployment that wants the same content again finds its pods running.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import structlog
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.autoscaling_v2 import HorizontalPodAutoscaler
from lightkube.resources.batch_v1 import CronJob
from lightkube.resources.core_v1 import ConfigMap, Namespace, Pod, Secret, Service

from shipoff.common.errors import InvalidInput
from shipoff.common.failpoints import crossing
from shipoff.common.lifecycle import looping
from shipoff.runtime.adapters.kubernetes import release_command
from shipoff.runtime.adapters.kubernetes.api import Api
from shipoff.runtime.adapters.kubernetes.commands import is_left_over
from shipoff.runtime.adapters.kubernetes.desired import Desired, Key, Wishes, applied, key_of
from shipoff.runtime.adapters.kubernetes.logs import Writer
from shipoff.runtime.adapters.kubernetes.mirror import OWNED, Mirror, is_leaving
from shipoff.runtime.adapters.kubernetes.pods import PodRun, assign, read
from shipoff.runtime.adapters.kubernetes.writers import writers
from shipoff.runtime.domain import RELEASE as RELEASE_COMMAND
from shipoff.runtime.domain import Instance, InstanceKey, InstanceState, Observation, Observed, Probe, Workload
from shipoff.runtime.manifests.cluster import PORT
from shipoff.runtime.manifests.marks import DEPLOYMENT, ENVIRONMENT, RELEASE
from shipoff.runtime.manifests.names import dns_label
from shipoff.runtime.manifests.release_command import release_command_name, release_command_pod
from shipoff.runtime.ports import Capacity

_LINES = 5
_KILL_GRACE_S = 1
_COLLECT_S = 10.0
# Pods have no process id that means anything here; instances that run carry this one.
_RUNS = 1


log = structlog.get_logger()


class KubernetesDriver:
    """`ports.Driver` on a cluster. `on_change` is called with a deployment's id when something of it changed."""

    # What it follows besides the workloads' own objects.
    also: tuple[type[Any], ...] = ()

    def __init__(self, api: Api, wishes: Wishes, *, clock: Callable[[], float], on_change: Callable[[str], None]) -> None:
        self._api = api
        self._wishes = wishes
        self._clock = clock
        self._on_change = on_change
        self._mirror = Mirror(api, on_change=self._changed, also=self.also)
        # By deployment: the pod that each of its instances was last seen to be.
        self._pods: dict[str, dict[InstanceKey, str]] = {}

    @asynccontextmanager
    async def following(self) -> AsyncIterator[KubernetesDriver]:
        """Follows the cluster beside the block. What runs on it outlives the block."""
        self._wishes.forget_all()
        self._pods.clear()
        async with self._mirror.following(), looping("collect commands", self._collect, every_s=_COLLECT_S):
            yield self

    async def _collect(self) -> None:
        """Removes pods of commands that nobody follows any more."""
        for pod in self._mirror.everywhere(Pod):
            if is_left_over(pod, self._clock()):
                _, namespace, name = key_of(pod)
                await self._api.delete_pod(name, namespace, grace_s=1)
                log.info("a command's pod was left over", pod=name, namespace=namespace)

    async def running(self) -> Collection[InstanceKey]:
        """None that could be unknown: pods carry no run's number. What belongs to a workload goes with the workload."""
        return ()

    def writers(self) -> list[Writer]:
        """The pods whose output is some deployment's."""
        return writers(self._mirror, self._wishes, self._pods)

    async def capacity(self) -> Capacity | None:
        return await self._api.capacity()

    async def place(self, instance: Instance, *, taken: Collection[int]) -> Instance:
        """The address that an environment's instances share: the cluster spreads requests over them."""
        desired = self._wishes.known(instance.key.deployment_id)
        if desired is None or not instance.serves:
            return replace(instance, host="", port=0)
        host, port = desired.address
        return replace(instance, host=host, port=port, shared=True)

    async def start(self, workload: Workload, instance: Instance) -> None:
        await self.arrange(workload)
        desired = self._wishes.of(workload)
        if instance.once and release_command.run_of(workload, desired, self._mirror) is None:
            self._mirror.put(await self._api.apply(release_command_pod(self._wishes.release(workload))))
            crossing("release command begun")

    async def arrange(self, workload: Workload) -> None:
        """Applies what is missing or another than wanted, then removes what is wanted no more."""
        self._mirror.require()
        desired = self._wishes.of(workload)
        if not self._is_astray(desired):
            return
        project, release, _ = self._wishes.objects(workload)
        await self._apply(desired, project[:1])
        scalers = [one for one in release if isinstance(one, HorizontalPodAutoscaler)]
        deployments = [one for one in release if isinstance(one, Deployment)]
        running = (Deployment, HorizontalPodAutoscaler)
        await self._apply(desired, [*project[1:], *(one for one in release if not isinstance(one, running))])
        await self._hand_over(scalers)
        await self._apply(desired, deployments)
        await self._hand_over(scalers)
        await self._apply(desired, scalers)
        await self._prune(desired, {**desired.release, **desired.route}, (HorizontalPodAutoscaler, Deployment))

    async def _hand_over(self, scalers: Iterable[HorizontalPodAutoscaler]) -> None:
        """Before an autoscaler comes: its Deployment keeps what it has. And it has at once what the autoscaler has at least."""
        for one in scalers:
            _, namespace, name = key_of(one)
            there: Any = self._mirror.get(Deployment, namespace, name)
            if there is None:
                continue
            spec: Any = one.spec
            now = there.spec.replicas or 0
            if now < spec.minReplicas or self._mirror.get(HorizontalPodAutoscaler, namespace, name) is None:
                self._mirror.put(await self._api.hand_over(there, max(now, spec.minReplicas)))
                crossing("replicas handed over")

    async def switch(self, workload: Workload) -> None:
        self._mirror.require()
        desired = self._wishes.of(workload)
        _, _, route = self._wishes.objects(workload)
        crossing("service switching")
        await self._apply(desired, route)
        crossing("service switched")
        await self._retire_schedules(desired)
        await self._prune(desired, {**desired.release, **desired.route}, OWNED)

    async def _retire_schedules(self, desired: Desired) -> None:
        """What an earlier release has scheduled is not run any more, though its instances stay as the way back."""
        for one in self._mirror.all(CronJob, desired.names.namespace):
            same = _label(one, ENVIRONMENT) == desired.names.environment and not is_leaving(one)
            if same and key_of(one) not in desired.route and _owner(one) < desired.deployment_id:
                await self._delete(one)

    async def _apply(self, desired: Desired, objects: Iterable[Any]) -> None:
        """Applies those that differ, all at once."""
        different = [one for one in objects if self._differs(desired, key_of(one), applied(one))]
        for answer in await asyncio.gather(*(self._api.apply(one) for one in different)):
            crossing("object applied")
            self._mirror.put(answer)

    def _differs(self, desired: Desired, key: Key, fingerprint: str) -> bool:
        kind, namespace, name = key
        there = self._mirror.get(kind, namespace, name)
        if there is None:
            return True
        return applied(there) != fingerprint and not _owner(there) > desired.deployment_id

    def _is_astray(self, desired: Desired) -> bool:
        wanted = {**desired.project, **desired.release}
        if any(self._differs(desired, key, fingerprint) for key, fingerprint in wanted.items()):
            return True
        return any(key_of(one) not in desired.release for one in self._owned(desired, (Deployment, HorizontalPodAutoscaler)))

    def _owned(self, desired: Desired, kinds: Iterable[type[Any]] = OWNED) -> list[Any]:
        found = [one for kind in kinds for one in self._mirror.all(kind, desired.names.namespace)]
        return [one for one in found if _owner(one) == desired.deployment_id and not is_leaving(one)]

    async def _prune(self, desired: Desired, kept: Collection[Key], kinds: Iterable[type[Any]]) -> None:
        for one in self._owned(desired, kinds):
            if key_of(one) not in kept:
                await self._delete(one)

    async def _delete(self, obj: Any) -> None:
        kind, namespace, name = key_of(obj)
        await self._api.delete(kind, name, namespace)
        crossing("object deleted")
        self._mirror.drop(kind, namespace, name)

    async def terminate(self, key: InstanceKey) -> None:
        await self._end(key, grace_s=None)

    async def kill(self, key: InstanceKey) -> None:
        await self._end(key, grace_s=_KILL_GRACE_S)

    async def _end(self, key: InstanceKey, *, grace_s: int | None) -> None:
        """A pod that is to be replaced is deleted; one that nobody wants goes with its Deployment, or has gone by scaling."""
        desired = self._wishes.known(key.deployment_id)
        if desired is None:
            return
        if key.process == RELEASE_COMMAND:
            name = release_command_name(desired.shape, desired.names)
            await self._api.delete_pod(name, desired.names.namespace, grace_s=grace_s)
        elif not desired.shape.wanted:
            await self._prune(desired, (), (HorizontalPodAutoscaler, Deployment))
        elif key.slot in desired.shape.slots() and (pod := self._pods.get(key.deployment_id, {}).get(key)):
            await self._api.delete_pod(pod, desired.names.namespace, grace_s=grace_s)

    async def remove(self, deployment_id: str) -> None:
        desired = self._wishes.known(deployment_id)
        if desired is None:
            return
        await self._prune(desired, (), OWNED)
        await self._api.delete_pod(release_command_name(desired.shape, desired.names), desired.names.namespace)
        await self._tidy(desired)

    async def _tidy(self, desired: Desired) -> None:
        """Removes what nothing refers to any more: configuration, and the namespace with the last of its releases."""
        namespace = desired.names.namespace
        if self._is_empty(desired):
            if (found := self._mirror.get(Namespace, "", namespace)) is not None:
                await self._delete(found)
            return
        for one in self._unused(namespace):
            await self._delete(one)

    def _unused(self, namespace: str) -> list[Any]:
        """Configuration that no release refers to, nor is about to."""
        used = {name for one in self._mirror.all(Deployment, namespace) for name in _configuration(one)}
        used |= {key[2] for one in self._wishes.of_namespace(namespace) if one.shape.wanted for key in one.release}
        kinds: tuple[type[Any], ...] = (ConfigMap, Secret)
        found = [one for kind in kinds for one in self._mirror.all(kind, namespace)]
        return [one for one in found if one.metadata.name not in used and not is_leaving(one)]

    def _is_empty(self, desired: Desired) -> bool:
        """Whether nothing runs in the project's namespace, nor is about to."""
        namespace = desired.names.namespace
        if any(not is_leaving(one) for one in self._mirror.all(Deployment, namespace)):
            return False
        others = [one for one in self._wishes.of_namespace(namespace) if one.shape.wanted]
        return not any(one.deployment_id != desired.deployment_id for one in others)

    async def observe(self, workload: Workload, instances: Sequence[Instance], *, probe: Collection[InstanceKey]) -> Observed:
        self._mirror.require()
        try:
            desired = self._wishes.of(workload)
        except InvalidInput as error:
            return Observed(refused={one.key: error.message for one in instances})
        seen: dict[InstanceKey, Observation] = {}
        for process in workload.runnable:
            own = [one for one in instances if one.key.process == process.name]
            seen |= await self._look(workload, desired, own, probe)
        for one in [one for one in instances if one.once and one.state is not InstanceState.WAITING]:
            observation = await release_command.look(workload, desired, one, mirror=self._mirror, api=self._api)
            seen |= {one.key: observation} if observation is not None else {}
        residue = workload.wanted or self._leaves_residue(workload, desired)
        self._let_go(workload.deployment_id, instances if residue else ())
        if not residue:
            self._wishes.forget(workload.deployment_id)
        return Observed(
            seen,
            residue=residue,
            trouble=self._trouble(workload, desired),
            astray=workload.wanted and self._is_astray(desired),
            routed=self._is_routed(workload, desired),
            replaced=workload.was_ready and self._is_replaced(workload, desired),
        )

    async def _look(
        self, workload: Workload, desired: Desired, instances: Sequence[Instance], probe: Collection[InstanceKey]
    ) -> dict[InstanceKey, Observation]:
        if not instances:
            return {}
        runs = self._runs(workload, desired, instances[0].key.process)
        pods = assign(instances, runs, frozenset(workload.slots()))
        named = self._pods.setdefault(workload.deployment_id, {})
        seen = {}
        for one in instances:
            if one.state is InstanceState.WAITING:
                named.pop(one.key, None)
                continue
            run = pods.get(one.key)
            observation = await self._observation(workload, one, run, asked=one.key in probe)
            if observation is not None:
                seen[one.key] = observation
            if run is not None:
                named[one.key] = run.name
        return seen

    def _let_go(self, deployment_id: str, kept: Sequence[Instance]) -> None:
        """Keeps in mind only which pods these are: of runs that are over nobody asks again."""
        keys = {one.key for one in kept}
        named = {key: pod for key, pod in self._pods.pop(deployment_id, {}).items() if key in keys}
        if named:
            self._pods[deployment_id] = named

    def _runs(self, workload: Workload, desired: Desired, process: str) -> list[PodRun]:
        """The process's pods; none where the release runs for a newer deployment and this one is on its way out."""
        name = desired.names.process(process)
        there = self._mirror.get(Deployment, desired.names.namespace, name)
        if not workload.wanted and there is not None and _owner(there) != workload.deployment_id:
            return []
        pods = [one for one in self._mirror.all(Pod, desired.names.namespace) if _label(one, RELEASE) == desired.names.release]
        runs = [read(one, workload.memory_bytes) for one in pods if _label(one, ENVIRONMENT) == desired.names.environment]
        return [one for one in runs if one.process == dns_label(process)]

    async def _observation(
        self, workload: Workload, instance: Instance, run: PodRun | None, *, asked: bool
    ) -> Observation | None:
        before = instance.process_started
        if run is None:
            gone = Observation(alive=False, lost=not instance.cause, exit="its pod was removed")
            return gone if before and instance.state is not InstanceState.STOPPING else None
        ended = before.startswith(run.uid) and run.ends > int(before.rpartition("/")[2])
        if run.over or ended:
            lines = await self._lines(workload, run, previous=run.started)
            return Observation(alive=False, exit=run.exit or "ended", last_lines=lines)
        probe = None
        if asked or instance.state is InstanceState.STARTING:
            probe = Probe(run.ready, "" if run.ready else await self._silence(workload, run))
        return Observation(alive=True, pid=_RUNS, process_started=before or run.mark, probe=probe)

    async def _silence(self, workload: Workload, run: PodRun) -> str:
        """What a pod does instead of being ready; at the deadline with what it wrote last."""
        port = workload.port or PORT
        asked = f"{workload.health_path} did not answer below 400" if workload.health_path else "nothing answered"
        words = run.obstacle or (f"{asked} on port {port}" if run.started else "its pod was not started")
        if workload.was_ready or self._clock() < workload.ready_deadline:
            return words
        lines = await self._lines(workload, run, previous=False)
        return f"{words} — last lines: {' | '.join(lines)}" if lines else words

    async def _lines(self, workload: Workload, run: PodRun, *, previous: bool) -> tuple[str, ...]:
        namespace = self._wishes.of(workload).names.namespace
        return await self._api.last_lines(run.name, namespace, previous=previous, count=_LINES)

    def _trouble(self, workload: Workload, desired: Desired) -> str:
        """Why Kubernetes makes no pods, in its words, or cannot start the release command's."""
        if workload.releasing and (run := release_command.run_of(workload, desired, self._mirror)) is not None:
            return run.obstacle
        for one in self._owned(desired, (Deployment,)):
            for condition in (one.status.conditions or ()) if one.status else ():
                if condition.type == "ReplicaFailure" and condition.status == "True":
                    return f"no pod can be made: {condition.message or condition.reason}"
        return ""

    def _leaves_residue(self, workload: Workload, desired: Desired) -> bool:
        if (
            self._owned(desired)
            or release_command.run_of(workload, desired, self._mirror)
            or any(self._runs(workload, desired, one.name) for one in workload.runnable)
        ):
            return True
        if self._is_empty(desired):
            return self._mirror.get(Namespace, "", desired.names.namespace) is not None
        return bool(self._unused(desired.names.namespace))

    def _is_routed(self, workload: Workload, desired: Desired) -> bool:
        if not desired.route:
            return True
        service = self._mirror.get(Service, desired.names.namespace, desired.names.environment)
        has_service = any(kind is Service for kind, *_ in desired.route)
        if service is None and has_service:
            return False
        if service is not None and _owner(service) > workload.deployment_id:
            return True
        return all(not self._differs(desired, key, fingerprint) for key, fingerprint in desired.route.items())

    def _is_replaced(self, workload: Workload, desired: Desired) -> bool:
        """Whether the release after it has taken over, and no further one since."""
        namespace, mine = desired.names.namespace, workload.deployment_id
        deployments = [
            one for one in self._mirror.all(Deployment, namespace) if _label(one, ENVIRONMENT) == desired.names.environment
        ]
        owners = {_owner(one) for one in deployments if not is_leaving(one)}
        service = self._mirror.get(Service, namespace, desired.names.environment)
        current = _owner(service) if service is not None else max(owners, default="")
        return current > mine and not any(mine < one < current for one in owners)

    def _changed(self, obj: Any) -> None:
        """Wakes the workloads that an object is of."""
        meta: Any = obj.metadata
        namespace = meta.name if isinstance(obj, Namespace) else meta.namespace
        release, owner = _label(obj, RELEASE), _owner(obj)
        for desired in self._wishes.of_namespace(namespace):
            if owner == desired.deployment_id or release == desired.names.release or not (owner or release):
                self._on_change(desired.deployment_id)


def _label(obj: Any, name: str) -> str:
    return str((obj.metadata.labels or {}).get(name, ""))


def _owner(obj: Any) -> str:
    """The deployment that it was applied for last. Ids grow with time (UUIDv7), so that the newer one is the greater."""
    return _label(obj, DEPLOYMENT)


def _configuration(deployment: Deployment) -> list[str]:
    """What the pods of a Deployment take their environment from."""
    pod = deployment.spec.template.spec if deployment.spec else None
    sources = [source for one in pod.containers for source in one.envFrom or ()] if pod else []
    refs = [ref for source in sources for ref in (source.configMapRef, source.secretRef) if ref]
    return [ref.name for ref in refs if ref.name]
