"""What a person did or lacks is told in one line with its remedy, before anything is started."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from shipoff.common.errors import Exhausted, InvalidInput, PreconditionFailed
from shipoff.embedded import checks
from shipoff.embedded.layout import Account, Layout, backing_account, blocked_at, prepare
from shipoff.embedded.lock import holder, locked
from shipoff.embedded.platform import establish


def _up(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "shipoff", "up", "--no-sample", *options]
    return subprocess.run(argv, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False)


def test_a_taken_port_is_named_with_its_holder_and_the_remedy(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = _up(SHIPOFF_HTTP_PORT=str(port))
    assert ended.returncode == 1
    assert f"port {port} is taken by process {os.getpid()}" in ended.stdout
    assert "SHIPOFF_HTTP_PORT=8081 make up" in ended.stdout
    assert "Traceback" not in ended.stdout + ended.stderr


def test_a_missing_git_is_named_with_the_remedy(home: Path) -> None:
    ended = _up(PATH=str(home / "nothing"))
    assert ended.returncode == 1
    assert "git is not installed\n→ apt-get install git" in ended.stdout


def test_a_wrong_setting_is_named(home: Path) -> None:
    ended = _up(SHIPOFF_HTTP_PORT="http")
    assert ended.returncode == 2
    assert "SHIPOFF_HTTP_PORT=http" in ended.stdout


@pytest.mark.parametrize("options", [(), ("--detach",)])
def test_a_wrong_setting_is_named_for_programs_as_the_guide_promises(home: Path, options: tuple[str, ...]) -> None:
    ended = _up("--json", *options, SHIPOFF_HTTP_PORT="http")
    error = json.loads(ended.stderr)["error"]
    assert (ended.returncode, error["exit_code"], error["field"]) == (2, 2, "SHIPOFF_HTTP_PORT")


def test_a_second_start_is_refused_and_names_the_first(layout: Layout) -> None:
    with locked(layout):
        ended, for_programs = _up(), _up("--json")
    assert ended.returncode == 1
    assert f"as process {os.getpid()}\n→ `make down` stops it" in ended.stdout
    error = json.loads(for_programs.stderr)["error"]
    assert (for_programs.returncode, error["exit_code"], error["remedy"]) == (1, 1, "`make down` stops it")
    assert [json.loads(line)["state"] for line in for_programs.stdout.splitlines()] == ["begun", "failed"]


def test_the_lock_ends_with_its_holder(layout: Layout) -> None:
    code = "import sys, time; from shipoff.embedded import layout, lock; from pathlib import Path\n"
    code += "with lock.locked(layout.Layout(Path(sys.argv[1]))): print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(layout.home)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert holder(layout) == process.pid
        process.kill()
    assert holder(layout) is None
    with locked(layout):
        assert holder(layout) == os.getpid()


def test_a_full_disk_is_told_and_a_platform_that_has_its_data_needs_less(layout: Layout, monkeypatch) -> None:
    left = SimpleNamespace(free=100 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: left)
    with pytest.raises(Exhausted, match="100 MB left, 1024 MB are needed") as caught:
        checks.check_disk(layout)
    assert "SHIPOFF_HOME" in caught.value.remedy
    (layout.server("postgres") / "data").mkdir(parents=True)
    checks.check_disk(layout)
    left.free = 10 << 20
    with pytest.raises(Exhausted, match="10 MB left, 64 MB are needed"):
        checks.check_disk(layout)


def test_a_free_port_passes(free_port: int) -> None:
    checks.check_port(free_port, backing_account())


def test_a_reserved_port_is_refused_where_caddy_may_not_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_first_open_port", lambda: 1024)
    with pytest.raises(PreconditionFailed, match="port 80 is reserved"):
        checks.check_port(80, Account("nobody", 65534, 65534))


def test_a_data_folder_with_too_long_a_path_is_refused() -> None:
    ended = _up(SHIPOFF_HOME="/tmp/" + "x" * 80)
    assert ended.returncode == 1
    assert re.search(r"is too long: Unix sockets below it allow \d+ characters\n→ choose a shorter one", ended.stdout)
    assert not Path("/tmp/" + "x" * 80).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="accounts are changed by root only")
def test_a_data_folder_that_the_servers_cannot_reach_is_refused() -> None:
    closed = Path(tempfile.mkdtemp(prefix="se-", dir="/tmp")).resolve()
    try:
        ended = _up(SHIPOFF_HOME=str(closed / "home"))
    finally:
        shutil.rmtree(closed)
    assert ended.returncode == 1
    assert f"{closed} is closed to the account 'nobody'" in ended.stdout
    assert f"chmod o+x {closed}" in ended.stdout


def test_the_first_closed_folder_on_the_way_is_found(tmp_path: Path) -> None:
    account = Account("somebody", 54321, 54321)
    inner = tmp_path / "open" / "closed" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "open" / "closed").chmod(0o700)
    found = blocked_at(inner, account)
    assert found is not None
    assert found in [tmp_path / "open" / "closed", *tmp_path.parents, tmp_path]
    (tmp_path / "open" / "closed").chmod(0o755)
    assert blocked_at(inner, account) != tmp_path / "open" / "closed"


def test_settings_are_private_and_secrets_stay(layout: Layout) -> None:
    first = establish(layout)
    before = layout.settings.read_text()
    assert establish(layout) == first
    assert layout.settings.read_text() == before
    assert layout.settings.stat().st_mode & 0o777 == 0o600
    assert all(path.stat().st_mode & 0o077 == 0 for path in layout.secrets.iterdir())
    assert layout.secrets.stat().st_mode & 0o077 == 0


def test_lines_a_person_added_and_the_port_they_chose_stay(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    port = establish(layout).http_port
    with layout.settings.open("a") as file:
        file.write("SHIPOFF_BUILD_CONCURRENCY='3 # not more'\n")
    monkeypatch.delenv("SHIPOFF_HTTP_PORT")
    assert establish(layout).http_port == port
    assert "SHIPOFF_BUILD_CONCURRENCY='3 # not more'" in layout.settings.read_text()


def test_settings_follow_a_moved_data_folder(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    key = next(line for line in _lines(establish(layout).layout) if line.startswith("SHIPOFF_MASTER_KEY="))
    moved = Layout(layout.home.with_name(layout.home.name + "m"))
    shutil.move(layout.home, moved.home)
    monkeypatch.setenv("SHIPOFF_HOME", str(moved.home))
    try:
        prepare(moved, backing_account())
        establish(moved)
        assert key in _lines(moved)
        assert not [line for line in _lines(moved) if f"{layout.home}/" in line]
    finally:
        shutil.rmtree(moved.home)


def _lines(layout: Layout) -> list[str]:
    return layout.settings.read_text().splitlines()


def test_a_wrong_domain_is_refused(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIPOFF_BASE_DOMAIN", "Example.com/")
    with pytest.raises(InvalidInput, match="SHIPOFF_BASE_DOMAIN"):
        establish(layout)


@pytest.mark.parametrize("url", ["gs://bucket", "/var/objects", "S3://bucket"])
def test_an_object_store_of_no_known_kind_is_refused(layout: Layout, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("SHIPOFF_OBJECTS_URL", url)
    with pytest.raises(InvalidInput, match=f"SHIPOFF_OBJECTS_URL={url}") as refused:
        establish(layout)
    assert refused.value.field == "SHIPOFF_OBJECTS_URL"
    assert "s3://" in refused.value.remedy
