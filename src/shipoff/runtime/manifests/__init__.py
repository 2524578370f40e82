"""What a workload is on Kubernetes: pure functions from a workload to typed objects, called by the driver `kubernetes`.

Objects come in three circles: the project's (`project_objects`: its namespace and fences), the release's
(`release_objects`: what runs) and the environment's (`route_objects`: what leads requests to one of its releases).
What a user wrote is only ever a value in them; names are made in `names`.
"""

from __future__ import annotations

from shipoff.runtime.manifests.cluster import ClusterSettings, Configured
from shipoff.runtime.manifests.marks import Object, fingerprint
from shipoff.runtime.manifests.names import Names
from shipoff.runtime.manifests.project import project_objects
from shipoff.runtime.manifests.release import Release, release_objects
from shipoff.runtime.manifests.route import reached_at, route_objects

__all__ = [
    "ClusterSettings",
    "Configured",
    "Names",
    "Object",
    "Release",
    "fingerprint",
    "project_objects",
    "reached_at",
    "release_objects",
    "route_objects",
]
