"""The pod of a command that is run once in a release: as its instances, but for what serves requests."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Pod

from shipoff.runtime.domain import Process
from shipoff.runtime.manifests import marks
from shipoff.runtime.manifests.release import Release, pod_spec

# No process of a plan that serves is called so: there are no probes and no port.
_PROCESS = "command"


def command_pod(release: Release, name: str, argv: Sequence[str], *, limit_s: float, held_until: float) -> Pod:
    """The pod; Kubernetes ends it after `limit_s` by itself, whatever becomes of the platform."""
    spec = pod_spec(release, Process(_PROCESS, tuple(argv)))
    spec.restartPolicy = "Never"
    spec.activeDeadlineSeconds = math.ceil(limit_s)
    # Nothing that selects instances: no request and no disruption budget is about it.
    labels = {**marks.owner_labels(release.workload, release.cluster.platform), marks.COMMAND: name}
    annotations = {marks.HELD_UNTIL: f"{held_until:.0f}"}
    metadata = ObjectMeta(name=name, namespace=release.names.namespace, labels=labels, annotations=annotations)
    return Pod(metadata=metadata, spec=spec)
