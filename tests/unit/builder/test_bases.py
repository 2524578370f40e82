"""Which images a build stands on."""

from __future__ import annotations

import pytest

from shipoff.builder.images.bases import Base, base_of, by_digest, canonical, mirrored
from shipoff.contracts.types.v1 import types_pb2


def plan(provider: str, requested: str = "") -> types_pb2.Plan:
    return types_pb2.Plan(provider=provider, runtimes=[types_pb2.RuntimeVersion(name=provider, requested=requested)])


@pytest.mark.parametrize(
    ("requested", "version"),
    [
        ("", "3.13"),
        ("3.12", "3.12"),
        ("3.12.4", "3.12"),
        ("~=3.11", "3.11"),
        (">=3.11,<4", "3.13"),
        ("3.x", "3"),
        ("weird", "3.13"),
    ],
)
def test_a_pinned_version_takes_the_default_s_place_and_a_range_does_not(requested, version):
    base = base_of(plan("python", requested), {})
    assert base is not None
    assert base.runtime == f"docker.io/library/python:{version}-slim-bookworm"


def test_the_operator_s_images_come_first_and_serve_both_ends_unless_one_is_named():
    assert base_of(plan("node", "20"), {"node": "r/node:{version}"}) == Base("r/node:20", "r/node:20")
    assert base_of(plan("node"), {"node": "r/a", "node-run": "r/b"}) == Base("r/a", "r/b")


def test_a_provider_without_images_has_none_until_it_is_given_one():
    assert base_of(plan("elixir"), {}) is None
    assert base_of(plan("elixir"), {"elixir": "r/elixir:1"}) == Base("r/elixir:1", "r/elixir:1")


@pytest.mark.parametrize(
    ("reference", "whole"),
    [
        ("python:3.13", "docker.io/library/python:3.13"),
        ("grafana/loki", "docker.io/grafana/loki"),
        ("docker.io/python", "docker.io/library/python"),
        ("ghcr.io/a/b:1", "ghcr.io/a/b:1"),
        ("localhost:5000/a", "localhost:5000/a"),
        ("localhost/a", "localhost/a"),
    ],
)
def test_a_reference_s_whole_name(reference, whole):
    assert canonical(reference) == whole


def test_the_longest_prefix_of_a_mirror_wins_and_prefixes_end_where_names_do():
    mirrors = {"docker.io": "m/hub", "docker.io/library": "m/official", "ghcr.io/a": "m/a"}
    assert mirrored("python:3.13", mirrors) == "m/official/python:3.13"
    assert mirrored("grafana/loki:3", mirrors) == "m/hub/grafana/loki:3"
    assert mirrored("ghcr.io/ab/c", mirrors) == "ghcr.io/ab/c"
    assert mirrored("ghcr.io/a:1", mirrors) == "m/a:1"


@pytest.mark.parametrize("reference", ["r:5000/a/b:1", "r:5000/a/b", "r:5000/a/b:1@sha256:old"])
def test_a_digest_takes_the_tag_s_place(reference):
    assert by_digest(reference, "sha256:new") == "r:5000/a/b@sha256:new"
