"""Builders as Jobs of a Kubernetes cluster. main.py chooses it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

from shipoff.build.adapters.assignment import Images, Limits
from shipoff.build.adapters.images import images
from shipoff.build.adapters.kubernetes.api import JobApi
from shipoff.build.adapters.kubernetes.launcher import JobLauncher, PodTold
from shipoff.build.adapters.kubernetes.mirror import JobMirror
from shipoff.build.manifests import BUILDKIT_TLS_FOLDER, LOGINS, BuildCluster
from shipoff.build.settings import BuildSettings, JobSettings
from shipoff.common.config import listed
from shipoff.common.kubernetes import connected
from shipoff.common.tls import authority

__all__ = ["cluster_of", "on_cluster"]


def cluster_of(settings: BuildSettings, jobs: JobSettings) -> BuildCluster:
    """What the manifests depend on, of what the operator chose."""
    own = {"address", "path", "prepare", "most", "node_selector", "allow_networks", "deny_networks", "outside_ports"}
    return BuildCluster(
        **jobs.model_dump(exclude=own),
        address=jobs.address,
        buildkit=settings.buildkit_address.removeprefix("tcp://") if settings.builds_images else "",
        node_selector=dict(pair.split("=", 1) for pair in listed(jobs.node_selector)),
        allow_networks=tuple(listed(jobs.allow_networks)),
        deny_networks=tuple(listed(jobs.deny_networks)),
        outside_ports=tuple(int(port) for port in listed(jobs.outside_ports)),
        most_jobs=jobs.most,
        memory_bytes=settings.memory_bytes,
        disk_bytes=settings.disk_bytes,
    )


def told_of(settings: BuildSettings, jobs: JobSettings, limits: Limits) -> PodTold:
    """What every pod is told."""
    return PodTold(
        path=jobs.path,
        environment=settings.passed_environment(),
        allow_hosts=settings.allowed_hosts,
        patience_s=settings.patience_s,
        limits=limits,
        images=_images_in_pods(settings, jobs),
        authority=authority,
    )


def _images_in_pods(settings: BuildSettings, jobs: JobSettings) -> Images | None:
    """The same settings, with the program and the files where they are in a pod."""
    here = images(settings)
    if here is None:
        return None
    return replace(
        here,
        buildx=settings.buildx or "docker-buildx",
        builder="",
        builders_folder="",
        docker_host="",
        logins=LOGINS if jobs.registry_secret else "",
        tls_folder=BUILDKIT_TLS_FOLDER if jobs.buildkit_tls_secret else "",
    )


@asynccontextmanager
async def on_cluster(
    settings: BuildSettings, jobs: JobSettings, limits: Limits, *, on_change: Callable[[], None]
) -> AsyncIterator[JobLauncher]:
    """The launcher on the cluster that KUBECONFIG names, or that this process runs in; it follows the cluster meanwhile.

    Raises lightkube.core.exceptions.ConfigError when there is neither.
    """
    client = connected()
    try:
        cluster = cluster_of(settings, jobs)
        api = JobApi(client, cluster)
        mirror = JobMirror(api, on_change=on_change)
        async with mirror.following():
            yield JobLauncher(api, mirror, cluster, told_of(settings, jobs, limits), prepare=jobs.prepare)
    finally:
        await client.close()
