"""What the runtime is told at its start."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from shipoff.common.config import ServiceSettings, service_config
from shipoff.common.sandbox import Mode


class RuntimeSettings(ServiceSettings):
    """SHIPOFF_RUNTIME_…; the defaults suit one machine."""

    model_config = service_config("runtime")

    # What runs the apps: processes of this machine, or a Kubernetes cluster (the one it runs in, or KUBECONFIG's).
    driver: Literal["process", "kubernetes"] = "process"
    # Where apps are unpacked and their output waits for the log service; empty: $SHIPOFF_HOME/apps.
    apps_folder: str = ""
    # Apps listen on a port of this range on 127.0.0.1: below what the system hands out to outgoing connections.
    first_port: int = Field(default=20000, ge=1024, le=65535)
    last_port: int = Field(default=29999, ge=1024, le=65535)
    # Leaving stops the apps too; false leaves them running for the next start (an upgrade of the platform).
    stop_on_exit: bool = True
    # A workload that says nothing about these.
    default_memory_bytes: int = 512 << 20
    default_ready_timeout_s: int = 60
    # Processes of one instance, itself included.
    max_processes: int = 256
    # Between SIGTERM and SIGKILL.
    grace_s: float = 10.0
    # On a cluster one of several runtimes looks after it; so long after that one's death another does.
    lease_s: float = Field(default=10.0, ge=0.5)
    # Output that could not be shipped yet; beyond it the oldest is dropped and counted.
    unshipped_log_bytes: int = 64 << 20
    # So many commands (`shipoff run`, `shipoff exec`) run at the same time; of one project at most four.
    commands_at_once: int = Field(default=16, ge=1)
    # Apps run inside bubblewrap: "auto" where it works, "required" or the service does not start, "off".
    sandbox: Mode = Field(default="auto", validation_alias="SHIPOFF_SANDBOX")
    # Folders of this machine that apps may write to as far as their accounts may, separated by commas; inside bubblewrap there
    # are no others but their own.
    shared_folders: str = ""
    # Where apps find interpreters: the platform's own search path, without the platform's own environment.
    search_path: str = Field(default="/usr/local/bin:/usr/bin:/bin", validation_alias="PATH")


class KubernetesSettings(BaseSettings):
    """SHIPOFF_KUBERNETES_…: the cluster that apps run on, read where the driver is `kubernetes`."""

    model_config = SettingsConfigDict(env_prefix="SHIPOFF_KUBERNETES_", frozen=True, extra="ignore", populate_by_name=True)

    # Platforms that share a cluster each have a name of their own, and touch nothing of the others'.
    platform: str = Field(default="shipoff", pattern=r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")
    # Who brings the cluster in line with what is wanted: "direct", the platform itself; "argocd", Argo CD out of the GitOps
    # repository.
    mode: Literal["direct", "argocd"] = "direct"
    # The class of the apps' Ingress objects ("traefik", "nginx", …); empty: none are made.
    ingress_class: str = "traefik"
    # Where the ingress controller runs.
    ingress_namespace: str = "kube-system"
    # host:port of the ingress controller, as the platform's own edge reaches it: apps' requests are passed on there. Empty:
    # the edge asks the apps' Services, which it only finds inside the cluster.
    ingress_address: str = Field(default="", pattern=r"^(([a-z0-9.-]+|\[[0-9a-f:]+\]):[0-9]{1,5})?$")
    # The cert-manager ClusterIssuer of the apps' certificates; empty: no TLS at the ingress.
    cluster_issuer: str = ""
    # The numeric user that apps run as, and whether they may write to /tmp only.
    user_id: int = Field(default=10001, ge=1000)
    read_only_root: bool = True
    # How long the release before stays, for an instant way back.
    way_back_s: float = Field(default=300.0, ge=0)
    # Instances are added by their CPU up to so many; 0: never.
    max_replicas: int = Field(default=0, ge=0, le=1000)
    # How many pods' logs are followed at one time; more take turns. 0: none is.
    log_followers: int = Field(default=80, ge=0, le=90)
    # What all of a project's instances together may have.
    quota_pods: int = Field(default=50, ge=1)
    quota_cpu_millis: int = Field(default=16_000, ge=100)
    quota_memory_bytes: int = Field(default=32 << 30, ge=64 << 20)
    # Of an instance whose project does not say: the CPU it is promised, and may use at most.
    cpu_millis: int = Field(default=100, ge=1)
    most_cpu_millis: int = Field(default=2000, ge=1)
