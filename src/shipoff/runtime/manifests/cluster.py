"""What the manifests depend on beside the workload: the operator's choices for the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shipoff.runtime.manifests.names import digest_of

# What apps do not reach: private and link-local networks, where the cluster and the clouds' metadata are.
PRIVATE_RANGES = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10")
PRIVATE_RANGES_V6 = ("fc00::/7", "fe80::/10")
# What an instance may keep in its /tmp.
SCRATCH_BYTES = 1 << 30
# The port an image listens on that does not say.
PORT = 8080


@dataclass(frozen=True)
class ClusterSettings:
    """One cluster's settings. What they are unless the operator says otherwise is in settings.KubernetesSettings."""

    # Tells this platform from others on the same cluster.
    platform: str
    ingress_class: str
    # Where the ingress controller's pods run: the only ones from outside the project that reach an app.
    ingress_namespace: str
    # host:port at which the platform's own edge finds the controller; empty: it asks the Services.
    ingress_address: str
    # The cert-manager ClusterIssuer for the hosts' certificates; empty: no TLS at the ingress.
    cluster_issuer: str
    # Whom an app's processes are: never root, and never an account of the node's.
    user_id: int
    read_only_root: bool
    # Of one project, all its environments together.
    quota_pods: int
    quota_cpu_millis: int
    quota_memory_bytes: int
    # An instance whose project says nothing about its CPU: what it is promised, and what it may use at most.
    cpu_millis: int
    most_cpu_millis: int
    # Above a workload's own number it is scaled by its CPU up to so many instances; 0: never.
    max_replicas: int
    # Between SIGTERM and SIGKILL.
    grace_s: int
    # Requests that are under way when an instance is told to end still arrive for so long.
    drain_s: int = 2


@dataclass(frozen=True)
class Configured:
    """A workload's configuration, opened: what its processes find in their environment."""

    # The user's variables.
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    # Stands for the variables in names. Never made from their clear text, which whoever reads names could guess.
    variables_id: str = ""

    @property
    def secret(self) -> str:
        """What the Secret's name says about its content."""
        return digest_of(self.variables_id)
