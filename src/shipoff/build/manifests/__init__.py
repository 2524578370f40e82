"""What builds are on Kubernetes: pure functions to typed objects, called by the adapter `kubernetes`.

`namespace_objects` makes the place: its fences and what may be used there. `job` and `secret` make one attempt's builder.
Nothing that a user wrote is in any of them: a builder asks for its job over its session.
"""

from __future__ import annotations

from shipoff.build.manifests.builder import BUILDKIT_TLS_FOLDER, CACHES, LOGINS, WORK, job, name_of, secret
from shipoff.build.manifests.cluster import BuildCluster
from shipoff.build.manifests.marks import ATTEMPT, DEPLOYMENT, owner_labels, platform_labels
from shipoff.build.manifests.namespace import Object, namespace_objects

__all__ = [
    "ATTEMPT",
    "BUILDKIT_TLS_FOLDER",
    "CACHES",
    "DEPLOYMENT",
    "LOGINS",
    "WORK",
    "BuildCluster",
    "Object",
    "job",
    "name_of",
    "namespace_objects",
    "owner_labels",
    "platform_labels",
    "secret",
]
