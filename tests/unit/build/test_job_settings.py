"""What the settings of builds on a cluster refuse, and what comes of them."""

from __future__ import annotations

import pytest
from golden.job_cases import cluster
from pydantic import ValidationError

from shipoff.build.adapters.assignment import Limits
from shipoff.build.adapters.kubernetes import told_of
from shipoff.build.domain import Order, Ref
from shipoff.build.manifests import job, name_of
from shipoff.build.settings import BuildSettings, JobSettings

LIMITS = Limits(1, 1, 1, 1, 1, 1, 1, 1)


def settings(**given: object) -> BuildSettings:
    return BuildSettings(_env_file=None, builders="kubernetes", **given)  # type: ignore[call-arg,arg-type]  # pydantic-settings' own


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "SHIPOFF_BUILD_BUILDER_LISTEN"),
        ({"builder_listen": "unix:/run/x"}, "SHIPOFF_BUILD_BUILDER_LISTEN"),
        ({"builder_listen": "0.0.0.0:9", "executor": "buildkit", "registry": "r.example/a"}, "SHIPOFF_BUILD_BUILDKIT_ADDRESS"),
    ],
)
def test_what_pods_could_not_reach_is_refused(given, words):
    with pytest.raises(ValidationError, match=words):
        settings(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"image": ""},
        {"address": "build"},
        {"address": "unix:/run/x"},
        {"allow_networks": "10.0.0.0/8,everything"},
        {"node_selector": "pool"},
        {"outside_ports": "http"},
        {"namespace": "Builds"},
        {"user_id": 0},
    ],
)
def test_what_the_cluster_would_refuse_is_refused_at_the_start(given):
    values = {"image": "i", "address": "a:1", **given}
    with pytest.raises(ValidationError):
        JobSettings(_env_file=None, **values)  # type: ignore[call-arg]  # the same


def test_image_builds_find_program_and_logins_where_they_are_in_a_pod():
    build = settings(
        builder_listen="0.0.0.0:9", executor="buildkit", registry="r.example/a", buildkit_address="tcp://b.k.svc:1",
        docker_host="unix:///x", buildx_builder="mine",
    )  # fmt: skip
    jobs = JobSettings(_env_file=None, image="i", address="a:1", registry_secret="r", buildkit_tls_secret="t")  # type: ignore[call-arg]  # the same
    images = told_of(build, jobs, LIMITS).images
    assert images is not None
    assert (images.buildx, images.address, images.builder, images.docker_host) == ("docker-buildx", "tcp://b.k.svc:1", "", "")
    assert (images.logins, images.tls_folder) == ("/registry/config.json", "/buildkit-tls")


def test_names_fit_the_cluster_for_every_attempt():
    ref = Ref("019ab000-0000-7000-8000-000000000001", 10**9)
    assert len(name_of(ref)) <= 63
    made = job(ref, Order("019ab000-0000-7000-8000-00000000000a", 0, 0, 60), cluster())
    assert made.metadata is not None
    assert all(len(value) <= 63 for value in (made.metadata.labels or {}).values())
