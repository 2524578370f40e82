"""The release command on a cluster: one pod that runs it to its end.

A bare pod and no Job: a Job makes another pod where one was lost, and may start the same program twice even where it is told
not to (https://kubernetes.io/docs/concepts/workloads/controllers/job/#handling-pod-and-container-failures). Nothing replaces a
bare pod, and with `Never` nothing in it is started a second time. It is in no repository either, from which it could be applied
again.
"""

from __future__ import annotations

import math

from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Pod

from shipoff.runtime.domain import RELEASE, Workload
from shipoff.runtime.manifests import marks
from shipoff.runtime.manifests.names import Names, digest_of, dns_label
from shipoff.runtime.manifests.release import Release, pod_spec

# The platform ends it at its time; this is for a platform that does not come back.
_BACKSTOP_S = 60


def release_command_name(workload: Workload, names: Names) -> str:
    """The pod's: one a deployment."""
    return dns_label(names.environment, RELEASE, digest_of(workload.deployment_id))


def release_command_pod(release: Release) -> Pod:
    """The pod, as restricted as the app's own, with the app's configuration. Raises StopIteration for a plan without one."""
    workload, names = release.workload, release.names
    process = next(one for one in workload.processes if one.name == RELEASE)
    spec = pod_spec(release, process)
    spec.restartPolicy = "Never"
    spec.activeDeadlineSeconds = math.ceil(workload.release_timeout_s) + _BACKSTOP_S
    labels = {**marks.owner_labels(workload, release.cluster.platform), marks.PROCESS: dns_label(RELEASE)}
    name = release_command_name(workload, names)
    return Pod(metadata=ObjectMeta(name=name, namespace=names.namespace, labels=labels), spec=spec)
