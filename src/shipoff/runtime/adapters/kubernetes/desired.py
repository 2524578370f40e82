"""What is wanted on the cluster for a workload, worked out once for each change of it."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from shipoff.common.sealing import Sealer
from shipoff.contracts.types.v1 import types_pb2
from shipoff.runtime.domain import Phase, Workload
from shipoff.runtime.manifests import (
    ClusterSettings,
    Configured,
    Names,
    Object,
    Release,
    project_objects,
    reached_at,
    release_objects,
    route_objects,
)
from shipoff.runtime.manifests.marks import APPLIED

Key = tuple[type[Any], str, str]


@dataclass(frozen=True)
class Desired:
    """The fingerprints of a workload's objects by kind, namespace and name; the objects are made when they are applied."""

    # The workload as far as its objects depend on it.
    shape: Workload
    names: Names
    project: Mapping[Key, str]
    release: Mapping[Key, str]
    route: Mapping[Key, str]
    # Host and port at which the edge reaches its `web`.
    address: tuple[str, int]

    @property
    def deployment_id(self) -> str:
        """Whose objects these are."""
        return self.shape.deployment_id


class Wishes:
    """Makes objects of workloads, with their variables opened, and remembers what they come to."""

    def __init__(self, sealer: Sealer, cluster: ClusterSettings) -> None:
        self._sealer = sealer
        self._cluster = cluster
        self._known: dict[str, Desired] = {}
        self._in_namespace: defaultdict[str, set[str]] = defaultdict(set)

    def of(self, workload: Workload) -> Desired:
        """What is wanted of it; what it is called, where nothing is. Raises InvalidInput for a reserved name."""
        shape = _shape(workload)
        known = self._known.get(workload.deployment_id)
        if known is None or known.shape != shape:
            release = self._opened(shape)
            known = Desired(
                shape,
                release.names,
                _fingerprints(project_objects(shape, release.names, self._cluster)),
                _fingerprints(release_objects(release)),
                _fingerprints(route_objects(release)),
                reached_at(release),
            )
            self._known[workload.deployment_id] = known
            self._in_namespace[known.names.namespace].add(workload.deployment_id)
        return known

    def known(self, deployment_id: str) -> Desired | None:
        """What was last asked for."""
        return self._known.get(deployment_id)

    def of_namespace(self, namespace: str) -> list[Desired]:
        """Everything that was asked for there and not forgotten."""
        return [self._known[one] for one in self._in_namespace.get(namespace, ())]

    def forget_all(self) -> None:
        """Others may have changed what is wanted."""
        self._known.clear()
        self._in_namespace.clear()

    def forget(self, deployment_id: str) -> None:
        """It is gone."""
        known = self._known.pop(deployment_id, None)
        if known is None:
            return
        others = self._in_namespace[known.names.namespace]
        others.discard(deployment_id)
        if not others:
            del self._in_namespace[known.names.namespace]

    def objects(self, workload: Workload) -> tuple[list[Object], list[Object], list[Object]]:
        """The project's, the release's and the environment's."""
        release = self._opened(_shape(workload))
        project = project_objects(release.workload, release.names, self._cluster)
        return project, release_objects(release), route_objects(release)

    def release(self, workload: Workload) -> Release:
        """The release with its variables opened, for what is run beside it; nothing of it is remembered."""
        return self._opened(_shape(workload))

    def _opened(self, workload: Workload) -> Release:
        sealed = types_pb2.SealedVariables.FromString(workload.variables)
        variables = self._sealer.open_variables(sealed)
        # The sealed bytes stand for the clear ones: they tell two sets apart and nothing about either.
        identity = hashlib.sha256(sealed.wrapped_data_key + sealed.ciphertext).hexdigest()
        return Release(workload, Configured(variables, identity), self._cluster)


def _shape(workload: Workload) -> Workload:
    """Without what changes while it runs."""
    return replace(
        workload,
        phase=Phase.READY if workload.wanted else Phase.STOPPED,
        reason="",
        was_ready=False,
        loop_told=False,
        unready_since=0.0,
        endpoints=(),
        revision=0,
        last_incarnation=0,
        settled=False,
        version=0,
        ready_deadline=0.0,
    )


def key_of(obj: Any) -> Key:
    """What an object is found under."""
    return type(obj), obj.metadata.namespace or "", obj.metadata.name or ""


def applied(obj: Any) -> str:
    """The fingerprint of what was last applied to it."""
    return str((obj.metadata.annotations or {}).get(APPLIED, ""))


def _fingerprints(objects: list[Object]) -> dict[Key, str]:
    return {key_of(one): applied(one) for one in objects}
