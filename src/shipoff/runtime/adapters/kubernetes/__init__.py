"""The driver `kubernetes`: instances are pods, one Deployment for each process of a release. main.py chooses it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from lightkube import AsyncClient

from shipoff.common.sealing import Sealer
from shipoff.common.streams import Streams
from shipoff.runtime.adapters.kubernetes.api import Api
from shipoff.runtime.adapters.kubernetes.desired import Wishes
from shipoff.runtime.adapters.kubernetes.driver import KubernetesDriver
from shipoff.runtime.adapters.kubernetes.logs import PodLogs, Positions
from shipoff.runtime.manifests import ClusterSettings
from shipoff.runtime.settings import KubernetesSettings

__all__ = ["KubernetesDriver", "cluster_of", "on_cluster", "shipping_logs"]

_NOT_THE_MANIFESTS = {"way_back_s", "log_followers"}


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
) -> AsyncIterator[KubernetesDriver]:
    """The driver on the cluster that KUBECONFIG names, or that this process runs in; it follows the cluster meanwhile.

    Raises lightkube.core.exceptions.ConfigError when there is neither.
    """
    api = Api(AsyncClient(), platform=settings.platform)
    try:
        driver = KubernetesDriver(api, Wishes(sealer, cluster_of(settings, grace_s=grace_s)), clock=clock, on_change=on_change)
        async with driver.following():
            yield driver
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
    api = Api(AsyncClient(), platform=settings.platform)
    try:
        async with PodLogs(api, streams, positions, writers=driver.writers, followers=settings.log_followers).running():
            yield
    finally:
        await api.close()
