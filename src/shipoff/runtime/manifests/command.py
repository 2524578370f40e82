"""The release command on a cluster: one pod that runs it to its end.

A bare pod and no Job: a Job makes another pod where one was lost, and may start the same program twice even where it is told
not to (https://kubernetes.io/docs/concepts/workloads/controllers/job/#handling-pod-and-container-failures). Nothing replaces a
bare pod, and with `Never` nothing in it is started a second time.
"""

from __future__ import annotations

import math

from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Pod

from shipoff.runtime.domain import RELEASE, Workload
from shipoff.runtime.manifests import marks
from shipoff.runtime.manifests.marks import Object
from shipoff.runtime.manifests.names import Names, digest_of, dns_label
from shipoff.runtime.manifests.release import Release, pod_spec, release_objects

# The platform ends it at its time; this is for a platform that does not come back.
_BACKSTOP_S = 60


def command_name(workload: Workload, names: Names) -> str:
    """The pod's: one a deployment."""
    return dns_label(names.environment, RELEASE, digest_of(workload.deployment_id))


def running_objects(release: Release) -> list[Object]:
    """What is wanted of the release now: its configuration with its release command first, with its processes after it."""
    objects = release_objects(release)
    return [*objects, marks.marked(command_pod(release))] if release.workload.releasing else objects


def command_pod(release: Release) -> Pod:
    """The pod, as restricted as the app's own, with the app's configuration. Raises StopIteration for a plan without one."""
    workload, names = release.workload, release.names
    process = next(one for one in workload.processes if one.name == RELEASE)
    spec = pod_spec(release, process)
    spec.restartPolicy = "Never"
    spec.activeDeadlineSeconds = math.ceil(workload.release_timeout_s) + _BACKSTOP_S
    labels = {**marks.owner_labels(workload), marks.PROCESS: dns_label(RELEASE)}
    return Pod(metadata=ObjectMeta(name=command_name(workload, names), namespace=names.namespace, labels=labels), spec=spec)
