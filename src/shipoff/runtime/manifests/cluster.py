"""What the manifests depend on beside the workload: the operator's choices for the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shipoff.runtime.manifests.names import digest_of


@dataclass(frozen=True)
class ClusterSettings:
    """One cluster's settings; the defaults suit a small one with Traefik."""

    ingress_class: str = "traefik"
    # Where the ingress controller's pods run: the only ones from outside the project that reach an app.
    ingress_namespace: str = "kube-system"
    # The cert-manager ClusterIssuer for the hosts' certificates; empty: no TLS at the ingress.
    cluster_issuer: str = ""
    # What apps do not reach: private and link-local networks, where the cluster and the clouds' metadata are.
    private_ranges: tuple[str, ...] = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10")
    private_ranges_v6: tuple[str, ...] = ("fc00::/7", "fe80::/10")
    # Whom an app's processes are: never root, and never an account of the node's.
    user_id: int = 10001
    read_only_root: bool = True
    scratch_bytes: int = 1 << 30
    grace_s: int = 30
    # Requests that are under way when an instance is told to end still arrive for so long.
    drain_s: int = 2
    # Of one project, all its environments together.
    quota_pods: int = 50
    quota_cpu_millis: int = 16_000
    quota_memory_bytes: int = 32 << 30
    # An instance whose project says nothing about its CPU: what it is promised, and what it may use at most.
    cpu_millis: int = 100
    most_cpu_millis: int = 2000
    # Above a workload's own number it is scaled by its CPU up to so many instances; 0: never.
    max_replicas: int = 0
    # The port an image listens on that does not say.
    port: int = 8080


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
