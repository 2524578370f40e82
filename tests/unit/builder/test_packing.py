"""The same content, the same bytes; nothing that leads out."""

from __future__ import annotations

import os
import tarfile

import pytest

from shipoff.builder.assignment import BuildError
from shipoff.builder.packing import Packing, check_output, pack


def folder(root, *, order=1):
    root.mkdir()
    for name in ["b.txt", "a.txt", "z/deep/x", "m/y"][::order]:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (root / "a.txt").chmod(0o755 if order == 1 else 0o711)
    (root / "link").symlink_to("m/y")
    return root


def names(path):
    with tarfile.open(path) as tar:
        return tar.getnames()


def app(path):
    return Packing(path, served=False, limit_bytes=1 << 30)


def site(path):
    return Packing(path, served=True, limit_bytes=1 << 30)


def test_order_times_owners_and_modes_make_no_difference(tmp_path):
    one, two = folder(tmp_path / "one"), folder(tmp_path / "two", order=-1)
    os.utime(two / "b.txt", (1, 1))
    first, second = pack(app(one), tmp_path / "1"), pack(app(two), tmp_path / "2")
    assert first == second
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    with tarfile.open(tmp_path / "1") as tar:
        members = tar.getmembers()
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}
    assert {m.mode for m in members if m.isreg()} == {0o644, 0o755}


def test_a_changed_byte_changes_the_digest(tmp_path):
    root = folder(tmp_path / "one")
    before = pack(app(root), tmp_path / "1")
    (root / "b.txt").write_text("B.txt")
    assert pack(app(root), tmp_path / "2").digest != before.digest


def test_history_is_never_packed_and_secrets_are_never_served(tmp_path):
    root = tmp_path / "r"
    for name in [".git/config", ".env", ".env.local", ".well-known/x", "index.html", "sub/.git/x", "sub/.env"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    pack(site(root), tmp_path / "1")
    pack(app(root), tmp_path / "2")
    assert names(tmp_path / "1") == ["index.html", ".well-known", ".well-known/x", "sub"]
    assert ".env" in names(tmp_path / "2")
    assert not any(".git" in name for name in names(tmp_path / "2"))


def test_the_platforms_own_files_go_with_an_app_and_are_no_pages_of_a_site(tmp_path):
    root = tmp_path / "r"
    root.mkdir()
    for name in ["index.html", "shipoff.toml", ".shipoffignore"]:
        (root / name).write_text("x")
    pack(site(root), tmp_path / "1")
    pack(app(root), tmp_path / "2")
    assert names(tmp_path / "1") == ["index.html"]
    assert "shipoff.toml" in names(tmp_path / "2")


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "a/../../x"])
def test_a_link_that_leads_out_is_refused(tmp_path, target):
    root = folder(tmp_path / "r")
    (root / "bad").symlink_to(target)
    with pytest.raises(BuildError, match="bad"):
        pack(app(root), tmp_path / "1")


def test_a_virtual_environments_interpreter_may_be_the_machines_own(tmp_path):
    root = tmp_path / "r"
    (root / ".venv/bin").mkdir(parents=True)
    (root / ".venv/bin/python").symlink_to("/usr/bin/python3")
    pack(app(root), tmp_path / "1")
    assert ".venv/bin/python" in names(tmp_path / "1")
    with pytest.raises(BuildError):
        pack(site(root), tmp_path / "2")
    (root / ".venv/bin/python3").symlink_to("/etc/passwd")
    with pytest.raises(BuildError):
        pack(app(root), tmp_path / "3")


def test_an_absolute_link_into_the_folder_survives_the_move(tmp_path):
    root = folder(tmp_path / "r")
    (root / "m/abs").symlink_to(root / "z/deep/x")
    pack(app(root), tmp_path / "1")
    with tarfile.open(tmp_path / "1") as tar:
        assert tar.getmember("m/abs").linkname == "../z/deep/x"


def test_a_pipe_is_refused_and_a_large_artifact_too(tmp_path):
    root = folder(tmp_path / "r")
    with pytest.raises(BuildError, match="larger"):
        pack(Packing(root, served=False, limit_bytes=10), tmp_path / "1")
    os.mkfifo(root / "pipe")
    with pytest.raises(BuildError, match="pipe"):
        pack(app(root), tmp_path / "2")


def test_a_missing_output_lists_where_the_pages_are(tmp_path):
    (tmp_path / "build/client").mkdir(parents=True)
    (tmp_path / "build/client/index.html").write_text("x")
    (tmp_path / "dist").mkdir()
    check_output(tmp_path / "build/client", "build/client", tmp_path)
    with pytest.raises(BuildError, match=r"'dist' has no index.html; folders with an index.html: build/client"):
        check_output(tmp_path / "dist", "dist", tmp_path)
    with pytest.raises(BuildError, match="left no folder 'out'"):
        check_output(tmp_path / "out", "out", tmp_path)


def test_an_output_folder_that_is_a_link_out_is_refused(tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/index.html").write_text("x")
    (tmp_path / "app").mkdir()
    (tmp_path / "app/dist").symlink_to("../secret")
    with pytest.raises(BuildError):
        check_output(tmp_path / "app/dist", "dist", tmp_path / "app")
