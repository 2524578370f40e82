"""What an artifact may hold, and what is refused."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from shipoff.runtime.adapters.unpack import Rejected, Unpacker

Entry = tuple[str, bytes, dict[str, object]]


def file(name: str, content: bytes = b"x", **fields: object) -> Entry:
    return name, content, fields


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> Entry:
    return name, b"", {"type": kind, "linkname": target}


def archive(*entries: Entry) -> io.BytesIO:
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb") as packed, tarfile.open(fileobj=packed, mode="w") as made:
        for name, content, fields in entries:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for field, value in fields.items():
                setattr(member, field, value)
            made.addfile(member, io.BytesIO(content))
    buffer.seek(0)
    return buffer


@pytest.fixture
def unpack(tmp_path: Path) -> Callable[..., Path]:
    def run(*entries: Entry, most_bytes: int = 1 << 20, most_entries: int = 100) -> Path:
        target = tmp_path / "release"
        target.mkdir()
        Unpacker(str(target), most_bytes=most_bytes, most_entries=most_entries).unpack(archive(*entries))
        return target

    return run


def test_files_keep_contents_times_and_whether_they_can_be_run(unpack):
    target = unpack(file("./bin/run", b"go", mode=0o777, mtime=12), file("note", b"", mode=0o600, mtime=34))
    run = target / "bin" / "run"
    assert (run.read_bytes(), run.stat().st_mode & 0o7777, run.stat().st_mtime) == (b"go", 0o755, 12)
    assert (target / "note").stat().st_mode & 0o7777 == 0o600


def test_privileged_bits_are_dropped(unpack):
    assert (unpack(file("su", mode=0o6755)) / "su").stat().st_mode & 0o7000 == 0


def test_links_that_stay_inside_are_kept(unpack):
    target = unpack(
        file("lib/tool.js"),
        link("node_modules/.bin/tool", "../../lib/tool.js"),
        link("lib64", "lib"),
        link("copy", "lib/tool.js", tarfile.LNKTYPE),
    )
    assert (target / "node_modules" / ".bin" / "tool").read_bytes() == b"x"
    assert (target / "copy").stat().st_ino == (target / "lib" / "tool.js").stat().st_ino


def test_a_virtual_environment_may_name_the_machines_interpreter(unpack):
    target = unpack(link(".venv/bin/python", "/usr/bin/python3.11"), link(".venv/bin/python3", "python"))
    assert str((target / ".venv/bin/python").readlink()) == "/usr/bin/python3.11"


@pytest.mark.parametrize(
    "entries",
    [
        [file("../up")],
        [file("a/../../up")],
        [file("/etc/passwd")],
        [file("a\\..\\b")],
        [link("out", "/etc/passwd")],
        [link("out", "../up")],
        [link("a/b/out", "../../../up")],
        [link("empty", "")],
        # Lexically inside, but `..` after a link counts from where that leads.
        [link("p/q/d", "../.."), link("p/q/x", "d/..")],
        [link("d", "lib"), file("d/through")],
        [link("d", "."), link("d/again", "x")],
        [link("bin/python", "/etc/passwd")],
        [link("bin/python", "/tmp/../etc/python3")],
        [link("python", "/usr/bin/python3")],
        [link("hard", "/etc/passwd", tarfile.LNKTYPE)],
        [link("soft", "a"), link("hard", "soft", tarfile.LNKTYPE)],
        [("device", b"", {"type": tarfile.CHRTYPE})],
        [("pipe", b"", {"type": tarfile.FIFOTYPE})],
    ],
)
def test_what_leads_outside_or_is_no_file_is_refused(unpack, entries):
    with pytest.raises(Rejected):
        unpack(*entries)


def test_the_same_name_twice_is_refused(unpack):
    with pytest.raises(FileExistsError):
        unpack(file("a", b"1"), file("a", b"2"))


def test_a_link_is_not_written_through(unpack, tmp_path):
    (tmp_path / "victim").write_text("whole")
    with pytest.raises((Rejected, FileExistsError)):
        unpack(link("a", "b"), file("a", b"replaced"))
    assert (tmp_path / "victim").read_text() == "whole"


def test_too_many_entries_or_bytes_are_refused(unpack):
    with pytest.raises(Rejected, match="more than 3 entries"):
        unpack(*(file(f"f{number}") for number in range(4)), most_entries=3)


def test_too_many_bytes_are_refused(unpack):
    with pytest.raises(Rejected, match="larger than 10 bytes"):
        unpack(file("a", b"12345"), file("b", b"123456"), most_bytes=10)


def test_what_grows_out_of_all_proportion_is_refused(unpack, monkeypatch):
    monkeypatch.setattr("shipoff.runtime.adapters.unpack._RATIO_FROM_BYTES", 1 << 20)
    with pytest.raises(Rejected, match="200 times"):
        unpack(file("zeros", bytes(8 << 20)), most_bytes=1 << 30)


@pytest.mark.parametrize(
    "data", [b"", b"no archive", archive(file("a", os.urandom(5000))).getvalue()[:3000]], ids=["empty", "text", "half"]
)
def test_half_an_archive_is_refused(tmp_path, data):
    with pytest.raises((Rejected, OSError)):
        Unpacker(str(tmp_path), most_bytes=1 << 20, most_entries=10).unpack(io.BytesIO(data))
