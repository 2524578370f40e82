"""The driver `kubernetes`: instances are pods, one Deployment for each process of a release. main.py chooses it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from lightkube import AsyncClient

from shipoff.common.sealing import Sealer
from shipoff.runtime.adapters.kubernetes.api import Api
from shipoff.runtime.adapters.kubernetes.commands import KubernetesRunner
from shipoff.runtime.adapters.kubernetes.desired import Wishes
from shipoff.runtime.adapters.kubernetes.driver import KubernetesDriver
from shipoff.runtime.manifests import ClusterSettings
from shipoff.runtime.settings import KubernetesSettings

__all__ = ["KubernetesDriver", "KubernetesRunner", "cluster_of", "on_cluster"]


def cluster_of(settings: KubernetesSettings, *, grace_s: float) -> ClusterSettings:
    """What the manifests depend on, of what the operator chose; Kubernetes gives at least a second of grace."""
    return ClusterSettings(**settings.model_dump(exclude={"way_back_s"}), grace_s=max(1, round(grace_s)))


@asynccontextmanager
async def on_cluster(
    settings: KubernetesSettings,
    sealer: Sealer,
    *,
    grace_s: float,
    clock: Callable[[], float],
    on_change: Callable[[str], None],
) -> AsyncIterator[tuple[KubernetesDriver, KubernetesRunner]]:
    """The driver on the cluster that KUBECONFIG names, or that this process runs in; it follows the cluster meanwhile.

    Raises lightkube.core.exceptions.ConfigError when there is neither.
    """
    api = Api(AsyncClient(), platform=settings.platform)
    try:
        wishes = Wishes(sealer, cluster_of(settings, grace_s=grace_s))
        driver = KubernetesDriver(api, wishes, clock=clock, on_change=on_change)
        async with driver.following():
            yield driver, KubernetesRunner(api, wishes)
    finally:
        await api.close()
