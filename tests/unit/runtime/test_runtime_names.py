"""Names on the cluster: valid, told apart, and never the cluster's own."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from golden.manifest_cases import CASES, CLUSTER, WEB, objects
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shipoff.common.errors import InvalidInput
from shipoff.runtime.domain import Process
from shipoff.runtime.manifests import Configured, Release
from shipoff.runtime.manifests.marks import PLATFORM
from shipoff.runtime.manifests.names import checked_project, dns_label

_VALID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80))
@example("")
@example("9")
@example("-")
@example("a" * 64)
def test_whatever_was_written_becomes_a_label(text: str) -> None:
    assert _VALID.fullmatch(dns_label(text))


def test_a_good_name_stays_as_it_is() -> None:
    assert dns_label("production", "web") == "production-web"


@pytest.mark.parametrize(("one", "other"), [("Main", "main"), ("a/b", "a-b"), ("x" * 70 + "1", "x" * 70 + "2"), ("ä", "ö")])
def test_two_things_never_share_a_name(one: str, other: str) -> None:
    assert dns_label(one) != dns_label(other)


@pytest.mark.parametrize("name", ["kube-system", "kube-x", "default", "", "a" * 300])
def test_the_cluster_s_own_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        checked_project(name)


def _release(variables: str = "v1", **changes: object) -> str:
    workload = replace(WEB, **changes)  # type: ignore[arg-type]  # a test's own fields
    return Release(workload, Configured({}, variables), CLUSTER).names.release


def test_the_same_content_is_the_same_release_whoever_deploys_it() -> None:
    assert _release() == _release(deployment_id="another", replicas=7)


@pytest.mark.parametrize(
    "changes",
    [
        {"variables": "v2"},
        {"processes": (Process("web", ("other",)),)},
        {"memory_bytes": 512 << 20},
        {"health_path": "/"},
        {"port": 1},
        {"artifact": replace(WEB.artifact, object_key="registry.example/shop@sha256:" + "cd" * 32)},
    ],
)
def test_other_content_is_another_release(changes: dict[str, object]) -> None:
    assert _release(**changes) != _release()  # type: ignore[arg-type]  # a test's own fields


def test_platforms_that_share_a_cluster_have_namespaces_of_their_own_for_a_project() -> None:
    both = [Release(WEB, Configured(), replace(CLUSTER, platform=one)).names.namespace for one in ("shipoff", "shipoff-two")]
    assert both[0] != both[1]


def test_every_object_says_which_platform_s_it_is() -> None:
    for name in CASES:
        assert {one.metadata.labels[PLATFORM] for one in objects(name) if one.metadata and one.metadata.labels} == {"shipoff"}
        assert all(one.metadata and one.metadata.labels for one in objects(name))
