"""Which pods write, and whose output that is, read from the mirror."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightkube.models.core_v1 import ContainerStatus
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.core_v1 import Pod

from shipoff.runtime.adapters.kubernetes.desired import Desired, Wishes
from shipoff.runtime.adapters.kubernetes.logs import Writer
from shipoff.runtime.adapters.kubernetes.mirror import Mirror
from shipoff.runtime.domain import InstanceKey
from shipoff.runtime.manifests.marks import COMMAND, DEPLOYMENT, ENVIRONMENT, PROCESS, PROJECT, RELEASE
from shipoff.runtime.manifests.release import CONTAINER

_OF_A_RELEASE = (ENVIRONMENT, PROCESS, RELEASE)


def writers(mirror: Mirror, wishes: Wishes, named: Mapping[str, Mapping[InstanceKey, str]]) -> list[Writer]:
    """Every pod there is, nobody's where its workload is not known (any more); `named`: which pod each instance is."""
    owners = {_place(one): _label(one, DEPLOYMENT) for one in mirror.everywhere(Deployment)}
    instances = {(deployment, pod): key for deployment, keys in named.items() for key, pod in keys.items()}
    found = []
    for pod in mirror.everywhere(Pod):
        # What a command says goes to whoever called for it.
        if _label(pod, COMMAND):
            continue
        # Those of no release say themselves whose they are.
        owner = _label(pod, DEPLOYMENT) or owners.get(_place(pod), "")
        desired = wishes.known(owner)
        key = instances.get((owner, (pod.metadata.name if pod.metadata else "") or ""))
        found.append(_writer(pod, desired, key))
    return found


def _writer(pod: Pod, desired: Desired | None, key: InstanceKey | None) -> Writer:
    meta: Any = pod.metadata
    statuses = (pod.status.containerStatuses or ()) if pod.status else ()
    status = next((one for one in statuses if one.name == CONTAINER), None)
    began_ns, started, ended = _progress(status)
    return Writer(
        uid=meta.uid,
        namespace=meta.namespace,
        pod=meta.name,
        run=(status.restartCount or 0) if status else 0,
        began_ns=began_ns,
        started=started,
        ended=ended,
        deployment_id=desired.deployment_id if desired else "",
        project_id=_label(pod, PROJECT),
        team_id=desired.shape.team_id if desired else "",
        process=key.process if key else _label(pod, PROCESS),
        index=key.index if key else 0,
    )


def _progress(status: ContainerStatus | None) -> tuple[int, bool, bool]:
    """When its run began (0: not said), whether it has begun, and ended."""
    state = status.state if status else None
    if status is None or state is None:
        return 0, False, False
    # One that waits to be started again is known by the run that has ended.
    run: Any = state.running or state.terminated or (status.lastState.terminated if status.lastState else None)
    if run is None:
        return 0, False, False
    began = int(run.startedAt.timestamp()) * 1_000_000_000 if run.startedAt else 0
    return began, True, state.running is None


def _label(obj: Any, name: str) -> str:
    return str((obj.metadata.labels or {}).get(name, ""))


def _place(obj: Any) -> tuple[str, ...]:
    return (obj.metadata.namespace or "", *(_label(obj, name) for name in _OF_A_RELEASE))
