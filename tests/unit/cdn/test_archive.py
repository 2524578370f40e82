"""Hostile artifacts are refused before anything is written."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest

from shipoff.cdn.archive import Caps, inspect, unpack
from shipoff.common.errors import InvalidInput

CAPS = Caps(bytes=64 << 20, files=50, ratio=100)
Entry = tuple[str, bytes | tarfile.TarInfo]


def header(name: str, kind: bytes, link: str = "", size: int = 0) -> Entry:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return name, info


def symlink(name: str, target: str) -> Entry:
    return header(name, tarfile.SYMTYPE, target)


def archive(folder: Path, *entries: Entry) -> Path:
    path = folder / "a.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        for name, content in entries:
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def unpacked(folder: Path, *entries: Entry) -> dict[str, str]:
    path = archive(folder, *entries)
    root = folder / "root"
    root.mkdir()
    unpack(path, inspect(path, CAPS), root, CAPS)
    return {str(p.relative_to(root)): p.read_text() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    "entries",
    [
        [("/etc/cron.d/x", b"x")],
        [("../x", b"x")],
        [("a/../../x", b"x")],
        [("./../x", b"x")],
        [("a\nb", b"x")],
        [("x" * 300, b"x")],
        [symlink("x", "/etc/passwd")],
        [symlink("x", "../x")],
        [symlink("a/b", "../../x")],
        [symlink("a", "."), symlink("b", "a/../..")],
        [symlink("dir", "/tmp"), ("dir/x", b"x")],
        [symlink("dir", "other"), ("dir/x", b"x")],
        [("a", b"x"), ("a/b", b"x")],
        [("a/b", b"x"), ("a", b"x")],
        [("a", b"x"), ("a", b"y")],
        [("a", b"x"), symlink("a", "b")],
        [header("x", tarfile.LNKTYPE, "/etc/passwd")],
        [("a", b"x"), header("x", tarfile.LNKTYPE, "a")],
        [symlink("s", "/etc"), header("x", tarfile.LNKTYPE, "s/passwd")],
        [header("x", tarfile.CHRTYPE)],
        [header("x", tarfile.BLKTYPE)],
        [header("x", tarfile.FIFOTYPE)],
        [header("", tarfile.SYMTYPE, "a")],
        [(f"f{n}", b"") for n in range(60)],
    ],
    ids=lambda entries: f"{entries[-1][0][:20]!r}-{len(entries)}",
)
def test_what_leads_out_is_refused(tmp_path: Path, entries: list[Entry]) -> None:
    with pytest.raises(InvalidInput):
        inspect(archive(tmp_path, *entries), CAPS)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


def test_a_bomb_is_refused_by_size_and_by_ratio(tmp_path: Path) -> None:
    path = archive(tmp_path, ("zeros", bytes(48 << 20)))
    with pytest.raises(InvalidInput):
        inspect(path, CAPS)
    with pytest.raises(InvalidInput):
        inspect(path, Caps(bytes=40 << 20, files=50, ratio=10_000))
    assert inspect(path, Caps(bytes=64 << 20, files=50, ratio=10_000)).files == {"zeros"}


def test_an_oversized_header_is_not_read_into_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 30
    path = tmp_path / "a.tar.gz"
    with gzip.open(path, "wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT) + bytes(2 << 20))
    with pytest.raises(InvalidInput, match="header"):
        inspect(path, CAPS)


def test_headers_nested_without_end_are_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 0
    path = tmp_path / "a.tar.gz"
    with gzip.open(path, "wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT) * 5000)
    with pytest.raises(InvalidInput):
        inspect(path, CAPS)


@pytest.mark.parametrize("damage", [b"", b"not an archive", b"\x1f\x8b\x08\x00broken"])
def test_what_is_no_archive_is_refused(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(damage)
    with pytest.raises(InvalidInput):
        inspect(path, CAPS)


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path, ("a", os.urandom(100_000)))
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(InvalidInput):
        inspect(path, CAPS)


def test_dotfiles_are_left_out_but_for_well_known(tmp_path: Path) -> None:
    names = ["index.html", ".env", ".git/config", "a/.hidden/b", "a/b.txt", ".well-known/x", ".well-known/.env"]
    files = unpacked(tmp_path, *((name, b"x") for name in names))
    assert sorted(files) == [".well-known/x", "a/b.txt", "index.html"]


def test_links_inside_are_kept_and_those_to_nothing_or_hidden_left_out(tmp_path: Path) -> None:
    files = unpacked(
        tmp_path,
        ("v2/index.html", b"two"),
        (".env", b"secret"),
        symlink("latest", "v2"),
        symlink("a/b/again", "../../latest/index.html"),
        symlink("gone", "v3"),
        symlink("loop", "loop"),
        symlink("env.txt", ".env"),
        symlink("v2/self", ".."),
    )
    root = tmp_path / "root"
    assert files["a/b/again"] == "two"
    assert (root / "latest/index.html").read_text() == "two"
    assert sorted(path.name for path in root.iterdir()) == ["a", "latest", "v2"]


def test_modes_do_not_come_from_the_archive(tmp_path: Path) -> None:
    info = tarfile.TarInfo("tool")
    info.mode = 0o6777
    before = os.umask(0o077)
    try:
        unpacked(tmp_path, ("tool", info), ("a/b", b"x"))
    finally:
        os.umask(before)
    root = tmp_path / "root"
    assert (root / "tool").stat().st_mode & 0o7777 == 0o644
    assert (root / "a").stat().st_mode & 0o7777 == 0o755
