"""What the manifests depend on beside the attempt: the operator's choices. Their defaults are in settings.JobSettings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class BuildCluster:
    """Where builds run on a cluster, as whom, and what they may use."""

    # Tells this platform from others on the same cluster.
    platform: str
    namespace: str
    # Shipoff's own image: the builder is in it.
    image: str
    # A Secret with the login of that image's registry; empty: none is needed.
    pull_secret: str
    # host:port where pods reach BuilderService.
    address: str
    # host:port of the remote BuildKit; empty: steps run in the pod.
    buildkit: str
    # A Secret with config.json (kubernetes.io/dockerconfigjson), one with ca.pem, cert.pem and key.pem; empty: none.
    registry_secret: str
    buildkit_tls_secret: str
    # A PersistentVolumeClaim for the projects' caches; empty: they end with the pod.
    cache_claim: str
    user_id: int
    # Runs the pods in a sandbox such as gVisor's; empty: the cluster's own way.
    runtime_class: str
    node_selector: Mapping[str, str]
    # How long a pod may wait for room and its image, and how long a Job that is over stays if nobody removes it.
    begin_s: int
    keep_s: int
    # Private networks that builds reach all the same, public ones that they do not, and the others' ports; none: every port.
    allow_networks: tuple[str, ...]
    deny_networks: tuple[str, ...]
    outside_ports: tuple[int, ...]
    # What all builds together may have; zero: no bound.
    most_jobs: int
    budget_cpu_millis: int
    budget_memory_bytes: int
    # Of one build: where its deployment reserved no memory, and what its work folder may hold.
    memory_bytes: int
    disk_bytes: int
