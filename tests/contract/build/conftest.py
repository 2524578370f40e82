"""A build service whose builders are Jobs of a cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from neighbours import kube_builds
from neighbours.build import Yard, build_yard
from neighbours.git_server import GitServer, git_serving
from neighbours.kube_api import KubeApi
from neighbours.kube_builds import ADDRESS, Site
from neighbours.kube_jobs import JobNodes
from neighbours.ports import free_port

from shipoff.build.adapters.kubernetes import cluster_of
from shipoff.build.manifests import BuildCluster
from shipoff.build.settings import BuildSettings, JobSettings


@pytest.fixture
def git_server(tmp_path) -> Iterator[GitServer]:
    """Repositories over smart HTTP, where pods reach them."""
    with git_serving(tmp_path, ADDRESS) as server:
        yield server


@pytest.fixture
async def site(tmp_path, monkeypatch) -> AsyncIterator[Site]:
    """The small API, or the real cluster."""
    async with kube_builds.site(tmp_path, monkeypatch.setenv) as made:
        yield made


@pytest.fixture
def job_settings() -> dict[str, str]:
    """What a test wants different from the defaults: SHIPOFF_BUILD_JOB_<name>."""
    return {}


@pytest.fixture
async def yard(backing, redis_url, database_url_for, git_server, site, job_settings, monkeypatch) -> AsyncIterator[Yard]:
    """A running build service; its detector takes the plan from the source's app.json."""
    listen = f"{ADDRESS}:{free_port(ADDRESS)}"
    monkeypatch.setenv("SHIPOFF_BUILD_JOB_ADDRESS", listen)
    for name, value in job_settings.items():
        monkeypatch.setenv(f"SHIPOFF_BUILD_JOB_{name}", value)
    options = {"builders": "kubernetes", "builder_listen": listen, "allow_hosts": git_server.host, "pass_env": ""}
    url = await database_url_for("build")
    async with build_yard(
        backing.home, database_url=url, redis_url=redis_url, objects_url=backing.objects_url, **options
    ) as made:
        yield made


@pytest.fixture
def fake(site: Site) -> KubeApi:
    """The small API, where a test has to break it."""
    if site.fake is None:
        pytest.skip("a real cluster is not broken for a test")
    return site.fake


@pytest.fixture
def nodes(site: Site) -> JobNodes:
    """What is behind the small API."""
    if site.nodes is None:
        pytest.skip("a real cluster is not broken for a test")
    return site.nodes


@pytest.fixture
def job_cluster(site: Site) -> Callable[..., BuildCluster]:
    """The settings of the build service for its cluster, changed as a test wants."""

    def made(**changes: Any) -> BuildCluster:
        settings = BuildSettings(builders="kubernetes", builder_listen="0.0.0.0:1", _env_file=None)  # type: ignore[call-arg]  # pydantic-settings' own
        jobs = JobSettings(address="192.0.2.1:1", _env_file=None)  # type: ignore[call-arg]  # the rest is in the environment
        return replace(cluster_of(settings, jobs), **changes)

    return made
