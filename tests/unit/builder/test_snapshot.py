"""What the detector gets to see."""

from __future__ import annotations

import pytest

from shipoff.builder.assignment import BuildError, Limits
from shipoff.builder.snapshot import take
from shipoff.common.manifests import FILE_BYTES, TOTAL_BYTES


def source(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def test_paths_are_sorted_and_manifests_and_entries_come_with_contents(tmp_path):
    files = {
        "package.json": "{}", "app.py": "x", "web/views.py": "v", "src/pkg/main.py": "m", "a/b/c.py": "no", "logo.png": "no",
        "apps/api/pyproject.toml": "p", ".git/config": "no", "node_modules/x/package.json": "no", "Procfile": "web: x",
    }  # fmt: skip
    snapshot = take(source(tmp_path, files), "", Limits())
    assert list(snapshot.paths) == sorted(snapshot.paths)
    assert ".git/config" not in snapshot.paths
    assert "logo.png" in snapshot.paths
    wanted = {"package.json", "app.py", "web/views.py", "src/pkg/main.py", "apps/api/pyproject.toml", "Procfile"}
    assert set(snapshot.contents) == wanted


def test_the_root_directory_counts_as_the_root(tmp_path):
    snapshot = take(source(tmp_path, {"api/v/src/pkg/main.py": "m", "other/deep/x.py": "no"}), "api/v", Limits())
    assert set(snapshot.contents) == {"api/v/src/pkg/main.py"}


def test_a_large_lock_gives_its_head_a_large_script_nothing(tmp_path):
    files = {"package-lock.json": b"{" * (FILE_BYTES + 10), "data.py": b"#" * (FILE_BYTES + 1)}
    snapshot = take(source(tmp_path, files), "", Limits())
    assert {name: len(content) for name, content in snapshot.contents.items()} == {"package-lock.json": FILE_BYTES}


def test_contents_stay_within_one_message(tmp_path):
    files = {f"d{n}/requirements.txt": b"#" * 200_000 for n in range(40)}
    snapshot = take(source(tmp_path, files), "", Limits())
    assert sum(len(content) for content in snapshot.contents.values()) <= TOTAL_BYTES


def test_links_are_not_followed(tmp_path):
    root = source(tmp_path / "r", {"x": "x"})
    (root / "package.json").symlink_to("/etc/hostname")
    (root / "etc").symlink_to("/etc")
    snapshot = take(root, "", Limits())
    assert list(snapshot.paths) == ["etc", "package.json", "x"]
    assert not snapshot.contents


def test_the_digest_follows_paths_contents_modes_and_links(tmp_path):
    digests = set()
    for number, files in enumerate([{"a": "1"}, {"a": "2"}, {"b": "1"}, {"a": "1", "b": ""}]):
        digests.add(take(source(tmp_path / str(number), files), "", Limits()).digest)
    (tmp_path / "0/a").chmod(0o755)
    digests.add(take(tmp_path / "0", "", Limits()).digest)
    assert len(digests) == 5


def test_too_much_is_refused(tmp_path):
    source(tmp_path, {str(n): "xx" for n in range(5)})
    with pytest.raises(BuildError, match="4 files"):
        take(tmp_path, "", Limits(source_files=4))
    with pytest.raises(BuildError, match="MiB"):
        take(tmp_path, "", Limits(source_bytes=9))
