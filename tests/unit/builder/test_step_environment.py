"""What a build's commands see: each tool's own settings, and none that another one complains about."""

from __future__ import annotations

import pytest

from shipoff.builder.assignment import Assignment
from shipoff.builder.steps import step_environment
from shipoff.common.sandbox import Sandbox
from shipoff.contracts.types.v1 import types_pb2


def seen(*argv: str, sandbox: Sandbox | None = None, **variables: str) -> dict[str, str]:
    assignment = Assignment("", "", "d/1", "/work", "/caches", None, "/usr/bin:/bin", sandbox=sandbox)
    step = types_pb2.PlanStep(name="install", commands=[types_pb2.Command(argv=argv)])
    return step_environment(assignment, step, variables)


@pytest.mark.parametrize("argv", [["npm", "ci"], ["yarn", "install"], ["uv", "sync"]])
def test_npm_is_not_told_of_pnpms_store(argv):
    assert "npm_config_store_dir" not in seen(*argv)


@pytest.mark.parametrize("argv", [["pnpm", "install"], ["corepack", "pnpm", "i"], ["/bin/sh", "-c", "pnpm install && true"]])
def test_pnpm_keeps_its_store_in_the_projects_caches(argv):
    assert seen(*argv)["npm_config_store_dir"] == "/caches/pnpm"


def test_uv_copies_out_of_its_cache_inside_a_sandbox_where_it_cannot_link():
    assert seen("uv", "sync", sandbox=Sandbox("/usr/bin/bwrap", ()))["UV_LINK_MODE"] == "copy"
    assert "UV_LINK_MODE" not in seen("uv", "sync")


def test_a_project_may_choose_how_uv_links():
    assert seen("uv", "sync", sandbox=Sandbox("/usr/bin/bwrap", ()), UV_LINK_MODE="symlink")["UV_LINK_MODE"] == "symlink"
