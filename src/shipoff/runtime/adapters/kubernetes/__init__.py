"""The driver `kubernetes`: instances are pods, one Deployment for each process of a release. main.py chooses it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from lightkube import AsyncClient

from shipoff.common.sealing import Sealer
from shipoff.runtime.adapters.kubernetes.api import Api
from shipoff.runtime.adapters.kubernetes.desired import Wishes
from shipoff.runtime.adapters.kubernetes.driver import KubernetesDriver
from shipoff.runtime.manifests import ClusterSettings
from shipoff.runtime.settings import KubernetesSettings

__all__ = ["KubernetesDriver", "on_cluster"]


@asynccontextmanager
async def on_cluster(
    settings: KubernetesSettings,
    sealer: Sealer,
    *,
    grace_s: float,
    clock: Callable[[], float],
    on_change: Callable[[str], None],
) -> AsyncIterator[KubernetesDriver]:
    """The driver on the cluster that KUBECONFIG names, or that this process runs in; it follows the cluster meanwhile.

    Raises lightkube.core.exceptions.ConfigError when there is neither.
    """
    cluster = ClusterSettings(
        ingress_class=settings.ingress_class,
        ingress_namespace=settings.ingress_namespace,
        cluster_issuer=settings.cluster_issuer,
        user_id=settings.user_id,
        read_only_root=settings.read_only_root,
        grace_s=max(1, round(grace_s)),
        quota_pods=settings.quota_pods,
        quota_cpu_millis=settings.quota_cpu_millis,
        quota_memory_bytes=settings.quota_memory_bytes,
        cpu_millis=settings.cpu_millis,
        most_cpu_millis=settings.most_cpu_millis,
        max_replicas=settings.max_replicas,
    )
    api = Api(AsyncClient())
    try:
        driver = KubernetesDriver(api, Wishes(sealer, cluster), clock=clock, on_change=on_change)
        async with driver.following():
            yield driver
    finally:
        await api.close()
