"""The driver `kubernetes`: instances are pods, one Deployment for each process of a release. main.py chooses it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from shipoff.common.kubernetes import connected
from shipoff.common.sealing import Sealer
from shipoff.common.streams import Streams
from shipoff.runtime.adapters.kubernetes.api import Api
from shipoff.runtime.adapters.kubernetes.commands import KubernetesRunner
from shipoff.runtime.adapters.kubernetes.desired import Wishes
from shipoff.runtime.adapters.kubernetes.driver import KubernetesDriver
from shipoff.runtime.adapters.kubernetes.logs import PodLogs, Positions
from shipoff.runtime.adapters.kubernetes.schedules import KubernetesSchedules
from shipoff.runtime.gitops_settings import GitOpsSettings
from shipoff.runtime.manifests import ClusterSettings
from shipoff.runtime.manifests.application import Argo
from shipoff.runtime.settings import KubernetesSettings

__all__ = ["KubernetesDriver", "KubernetesRunner", "cluster_of", "on_cluster", "shipping_logs"]

_NOT_THE_MANIFESTS = {"way_back_s", "mode", "log_followers"}


def cluster_of(settings: KubernetesSettings, *, grace_s: float) -> ClusterSettings:
    """What the manifests depend on, of what the operator chose; Kubernetes gives at least a second of grace."""
    return ClusterSettings(**settings.model_dump(exclude=_NOT_THE_MANIFESTS), grace_s=max(1, round(grace_s)))


@asynccontextmanager
async def on_cluster(
    settings: KubernetesSettings,
    sealer: Sealer,
    *,
    grace_s: float,
    clock: Callable[[], float],
    on_change: Callable[[str], None],
    gitops: GitOpsSettings | None = None,
    copies: Path | None = None,
) -> AsyncIterator[tuple[KubernetesDriver, KubernetesRunner, KubernetesSchedules]]:
    """The driver on the cluster that KUBECONFIG names, or that this process runs in.

    With a repository in `gitops` what it wants is committed there; `copies` is for copies of repositories on servers.
    Raises lightkube.core.exceptions.ConfigError when there is neither cluster, and InvalidInput for a wrong certificate.
    """
    api = Api(connected(), platform=settings.platform)
    try:
        wishes = Wishes(sealer, cluster_of(settings, grace_s=grace_s))
        driver = _kind(settings, gitops, copies)(api, wishes, clock=clock, on_change=on_change)
        yield driver, KubernetesRunner(api, wishes), KubernetesSchedules(api, wishes)
    finally:
        await api.close()


@asynccontextmanager
async def shipping_logs(
    settings: KubernetesSettings, driver: KubernetesDriver, streams: Streams, positions: Positions
) -> AsyncIterator[None]:
    """Ships what the driver's pods write, over connections of its own; nothing where none is to be followed."""
    if not settings.log_followers:
        yield
        return
    api = Api(connected(), platform=settings.platform)
    try:
        async with PodLogs(api, streams, positions, writers=driver.writers, followers=settings.log_followers).running():
            yield
    finally:
        await api.close()


def _kind(settings: KubernetesSettings, gitops: GitOpsSettings | None, copies: Path | None) -> Callable[..., KubernetesDriver]:
    """The driver that goes with the repository, or without one."""
    if gitops is None or not gitops.repository:
        return KubernetesDriver
    # libgit2 is loaded where there is a repository.
    from shipoff.runtime.adapters.gitops import opened
    from shipoff.runtime.adapters.kubernetes.argocd import ArgoDriver
    from shipoff.runtime.adapters.kubernetes.recorded import RecordingDriver

    journal = opened(gitops, copies=copies or Path.cwd())
    if settings.mode == "direct":
        return partial(RecordingDriver, journal=journal)
    argo = Argo(
        namespace=gitops.argocd_namespace,
        project=gitops.argocd_project,
        destination=gitops.argocd_destination,
        repository=gitops.seen_by_argocd,
        branch=gitops.branch,
        folder=gitops.folder,
    )
    return partial(ArgoDriver, journal=journal, argo=argo, platform=settings.platform)
