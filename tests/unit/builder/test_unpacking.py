"""What an archive may not do."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest

from shipoff.builder.assignment import BuildError, Limits
from shipoff.builder.unpacking import leads_inside, unpack


def entry(name, kind=tarfile.REGTYPE, *, content=b"", link="", mode=0o644):
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname, member.mode = kind, len(content), link, mode
    return member, content


def packed(tmp_path, *entries, form=tarfile.PAX_FORMAT):
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz", format=form) as tar:
        for member, content in entries:
            tar.addfile(member, io.BytesIO(content))
    return path


def test_files_folders_links_and_modes_arrive(tmp_path):
    archive = packed(
        tmp_path,
        entry("./", tarfile.DIRTYPE),
        entry("./a/b.txt", content=b"hi", mode=0o4777),
        entry("a/run", content=b"#!", mode=0o700),
        entry("a/link", tarfile.SYMTYPE, link="../a/b.txt"),
        entry("hard", tarfile.LNKTYPE, link="a/b.txt"),
    )
    root = tmp_path / "out"
    assert unpack(archive, root, Limits()) == 3
    assert (root / "a/link").read_bytes() == (root / "hard").read_bytes() == b"hi"
    assert (root / "a/b.txt").stat().st_mode & 0o7000 == 0
    assert (root / "a/run").stat().st_mode & 0o111
    assert (root / "a/b.txt").stat().st_nlink == 1


@pytest.mark.parametrize(
    "entries",
    [
        [entry("/etc/evil", content=b"x")],
        [entry("../evil", content=b"x")],
        [entry("a/../../evil", content=b"x")],
        [entry("a\\..\\evil", content=b"x")],
        [entry("l", tarfile.SYMTYPE, link="/etc/passwd")],
        [entry("l", tarfile.SYMTYPE, link="../x")],
        [entry("a/l", tarfile.SYMTYPE, link="../../x")],
        [entry("l", tarfile.SYMTYPE, link="")],
        [entry("d", tarfile.SYMTYPE, link="."), entry("l", tarfile.SYMTYPE, link="d/d/../../..")],
        [entry("l", tarfile.SYMTYPE, link="a"), entry("l/x", content=b"x")],
        [entry("l", tarfile.SYMTYPE, link="a"), entry("l/x", tarfile.DIRTYPE)],
        [entry("l", tarfile.SYMTYPE, link="a"), entry("l", tarfile.DIRTYPE)],
        [entry("l", tarfile.SYMTYPE, link="a"), entry("h", tarfile.LNKTYPE, link="l")],
        [entry("h", tarfile.LNKTYPE, link="/etc/passwd")],
        [entry("h", tarfile.LNKTYPE, link="../x")],
        [entry("dev", tarfile.CHRTYPE)],
        [entry("blk", tarfile.BLKTYPE)],
        [entry("pipe", tarfile.FIFOTYPE)],
        [entry("a", content=b"x"), entry("a/b", content=b"x")],
        [entry("a/b", content=b"x"), entry("a", content=b"x")],
        [entry("x" * 300, content=b"x")],
        [entry("/".join("d" * 120), content=b"x")],
    ],
)
def test_it_is_refused_and_nothing_lies_outside(tmp_path, entries):
    with pytest.raises(BuildError):
        unpack(packed(tmp_path, *entries), tmp_path / "out", Limits())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "out"]


def test_a_bomb_is_stopped_by_its_ratio_and_by_its_size(tmp_path):
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        member = tarfile.TarInfo("zeros")
        member.size = 200 << 20
        with Path("/dev/zero").open("rb") as zeros:
            tar.addfile(member, zeros)
    with pytest.raises(BuildError, match="200 times"):
        unpack(path, tmp_path / "one", Limits())
    with pytest.raises(BuildError, match="1 MiB"):
        unpack(path, tmp_path / "two", Limits(source_bytes=1 << 20))
    assert sum(file.stat().st_size for file in (tmp_path / "one").iterdir()) < 100 << 20


def test_too_many_entries_are_refused(tmp_path):
    archive = packed(tmp_path, *(entry(f"f{n}") for n in range(11)))
    with pytest.raises(BuildError, match="more than 10 entries"):
        unpack(archive, tmp_path / "out", Limits(source_files=10))


def test_a_header_that_fills_the_memory_is_refused(tmp_path):
    member = tarfile.TarInfo("x" * (2 << 20))
    with pytest.raises(BuildError):
        unpack(packed(tmp_path, (member, b""), form=tarfile.GNU_FORMAT), tmp_path / "out", Limits())


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-20], lambda d: b"no gzip", lambda d: gzip.compress(b"no tar" * 200), lambda d: b""]
)
def test_a_damaged_archive_is_a_sentence(tmp_path, damage):
    archive = packed(tmp_path, entry("a", content=os.urandom(5000)))
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(BuildError, match="archive is damaged"):
        unpack(archive, tmp_path / "out", Limits())


@pytest.mark.parametrize(
    ("name", "target", "inside"),
    [("l", "a", True), ("d/l", "../a", True), ("d/e/l", "../../a/b", True), ("l", "./a", True), ("l", "..", False),
     ("d/l", "../..", False), ("d/l", "a/../b", False), ("l", "/a", False), ("d/l", "..", True)],
)  # fmt: skip
def test_a_link_may_climb_at_its_beginning_only(name, target, inside):
    assert leads_inside(name, target) is inside
