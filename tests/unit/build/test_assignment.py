"""The service and the builder agree on what a builder is told, and on where settings come from."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from shipoff.build.adapters import assignment as told
from shipoff.build.adapters.machine import find_tools, is_alive, reachable, started_at
from shipoff.build.domain import Process
from shipoff.build.settings import BuildSettings
from shipoff.builder import assignment as heard


def test_a_builder_reads_what_the_service_writes():
    limits = told.Limits(1, 2, 3, 4, 5, 6, 7, 8)
    written = told.Assignment("unix:x", "t", "d/1", "/w", "/c", 5, "/bin", {"A": "b"}, ("h:1",), 2.5, limits)
    read = heard.Assignment.from_json(written.to_json())
    assert {**asdict(read), "limits": None} == {**asdict(written), "limits": None}
    assert {name: getattr(read.limits, name) for name in asdict(limits)} == asdict(limits)
    assert told.MARK == heard.MARK


def test_the_operators_proxies_and_indexes_pass_and_nothing_else(monkeypatch):
    for name in ("https_proxy", "PIP_INDEX_URL", "UV_DEFAULT_INDEX", "npm_config_registry", "SHIPOFF_MASTER_KEY", "AWS_SECRET"):
        monkeypatch.setenv(name, name)
    passed = BuildSettings(_env_file=None).passed_environment()
    assert {"https_proxy", "PIP_INDEX_URL", "UV_DEFAULT_INDEX", "npm_config_registry"} <= set(passed)
    assert not {name for name in passed if name.startswith(("SHIPOFF", "AWS", "PATH", "HOME"))}


def test_tools_are_found_where_tenants_reach_them(tmp_path):
    tools = find_tools(tmp_path / "tools" / "bin", tenants=os.geteuid() == 0)
    assert (tmp_path / "tools" / "bin" / "uv").exists()
    assert Path(tools.python).exists()
    assert tools.path.split(os.pathsep)[0] == str(tmp_path / "tools" / "bin")
    if os.geteuid() == 0:
        assert reachable(Path(tools.python).resolve())


def test_a_closed_folder_on_the_way_makes_a_program_unreachable(tmp_path):
    program = tmp_path / "closed" / "program"
    program.parent.mkdir()
    program.write_text("")
    program.chmod(0o755)
    program.parent.chmod(0o700)
    assert not reachable(program)


def test_a_process_is_told_from_a_later_one_of_its_id():
    mine = Process(os.getpid(), started_at(os.getpid()))
    assert is_alive(mine)
    assert not is_alive(Process(os.getpid(), "another"))
    assert not is_alive(Process(2**22 - 1, ""))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere files are the user's own")
@pytest.mark.skipif(os.geteuid() != 0, reason="tenants have accounts where the platform is root")
async def test_the_tenants_thread_opens_what_the_tenant_may_open_and_nothing_else(tmp_path):
    from shipoff.builder.confine import TenantFiles

    closed = tmp_path / "closed"
    closed.write_text("secret")
    closed.chmod(0o600)
    with pytest.raises(PermissionError):
        await TenantFiles(600_000_000).run(closed.read_text)
    assert closed.read_text() == "secret"
