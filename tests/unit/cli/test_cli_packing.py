import gzip
import hashlib
import os
import socket
import tarfile
from pathlib import Path

import pytest

from shipoff.cli.errors import UsageFailure
from shipoff.cli.packing import Limits, pack


def write(root: Path, *paths: str, text: str = "x") -> None:
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def packed(root: Path, limits: Limits | None = None) -> list[str]:
    """The paths of the archive's members that are no folders."""
    with pack(root, limits).content as content, tarfile.open(fileobj=content, mode="r:gz") as archive:
        return [member.name for member in archive.getmembers() if not member.isdir()]


def test_leaves_out_what_no_upload_needs(tmp_path: Path) -> None:
    write(
        tmp_path,
        "app.py",
        ".git/config",
        "sub/node_modules/x.js",
        ".venv/bin/python",
        "a/__pycache__/a.pyc",
        "env/pyvenv.cfg",
        "env/lib.py",
    )
    assert packed(tmp_path) == ["app.py"]


def test_a_git_worktree_file_is_left_out_too(tmp_path: Path) -> None:
    write(tmp_path, "app.py", ".git")
    assert packed(tmp_path) == ["app.py"]


def test_gitignore_holds_at_every_level(tmp_path: Path) -> None:
    write(
        tmp_path,
        "a.log",
        "keep.log",
        "sub/b.log",
        "sub/deep/c.log",
        "sub/only.txt",
        "other/only.txt",
        "build/out.js",
        "src/build",
    )
    write(tmp_path, ".gitignore", text="*.log\n!keep.log\n/build/\n")
    write(tmp_path, "sub/.gitignore", text="!b.log\n/only.txt\n")
    assert packed(tmp_path) == [".gitignore", "keep.log", "other/only.txt", "src/build", "sub/.gitignore", "sub/b.log"]


def test_negation_does_not_reach_into_an_ignored_folder(tmp_path: Path) -> None:
    write(tmp_path, "data/keep.txt", "partly/keep.txt", "partly/drop.txt")
    write(tmp_path, ".gitignore", text="data/\n!data/keep.txt\npartly/*\n!partly/keep.txt\n")
    assert packed(tmp_path) == [".gitignore", "partly/keep.txt"]


def test_shipoffignore_has_the_last_word(tmp_path: Path) -> None:
    write(tmp_path, "dist/app.js", "docs/a.md", "app.py")
    write(tmp_path, ".gitignore", text="dist/\n")
    write(tmp_path, ".shipoffignore", text="!dist/\ndocs\n.*ignore\n")
    assert packed(tmp_path) == ["app.py", "dist/app.js"]


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    for name, when in (("one", 1_000_000_000), ("two", 1_500_000_000)):
        write(tmp_path / name, "b.txt", "a/c.txt", "a.txt", "run.sh")
        (tmp_path / name / "run.sh").chmod(0o700 if name == "one" else 0o777)
        (tmp_path / name / "link").symlink_to("a/c.txt")
        for path in (tmp_path / name).rglob("*"):
            os.utime(path, (when, when), follow_symlinks=False)
    (tmp_path / "two" / "a.txt").chmod(0o600)
    one, two = pack(tmp_path / "one"), pack(tmp_path / "two")
    with one.content, two.content:
        content = one.content.read()
        assert content == two.content.read()
    assert one.digest == two.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert one.size_bytes == len(content)
    assert (one.files, one.content_bytes) == (5, 4 + len("a/c.txt"))


def test_modes_are_plain_and_times_fit_a_zip(tmp_path: Path) -> None:
    write(tmp_path, "d/run.sh")
    (tmp_path / "d" / "run.sh").chmod(0o4755)
    with pack(tmp_path).content as content, tarfile.open(fileobj=content, mode="r:gz") as archive:
        folder, script = archive.getmembers()
    assert (folder.name, folder.mode, script.mode, script.uid, script.uname) == ("d", 0o755, 0o755, 0, "")
    assert script.mtime == 315_532_800


def test_a_symlink_inside_the_folder_stays_a_symlink(tmp_path: Path) -> None:
    write(tmp_path, "a/real.txt")
    (tmp_path / "a" / "link").symlink_to("../a/real.txt")
    (tmp_path / "gone").symlink_to("a/nothing")
    with pack(tmp_path).content as content, tarfile.open(fileobj=content, mode="r:gz") as archive:
        assert archive.getmember("a/link").linkname == "../a/real.txt"
        assert archive.getmember("gone").issym()


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "a/../../outside", "hop/../../outside", "a/../a/file"])
def test_a_symlink_out_of_the_folder_is_refused(tmp_path: Path, target: str) -> None:
    root = tmp_path / "app"
    write(root, "a/file")
    write(tmp_path, "outside")
    (root / "hop").symlink_to("a")
    (root / "link").symlink_to(target)
    with pytest.raises(UsageFailure, match=r"link is a symlink to .*, outside the folder"):
        pack(root)


def test_a_folder_symlink_cannot_smuggle_its_target_out(tmp_path: Path) -> None:
    write(tmp_path, "secret/key")
    root = tmp_path / "app"
    write(root, "file")
    (root / "sub").symlink_to(tmp_path / "secret", target_is_directory=True)
    with pytest.raises(UsageFailure, match="outside the folder"):
        pack(root)


def test_an_ignored_symlink_is_no_problem(tmp_path: Path) -> None:
    write(tmp_path, "app.py")
    (tmp_path / "passwd").symlink_to("/etc/passwd")
    write(tmp_path, ".shipoffignore", text="passwd")
    assert packed(tmp_path) == [".shipoffignore", "app.py"]


def test_too_many_files_say_where_they_are(tmp_path: Path) -> None:
    write(tmp_path, "app.py", *(f"cache/{number}" for number in range(5)))
    with pytest.raises(UsageFailure, match="6 files; at most 4") as caught:
        pack(tmp_path, Limits(files=4))
    assert "cache (5)" in caught.value.remedy


def test_too_much_content_says_where_it_is(tmp_path: Path) -> None:
    write(tmp_path, "app.py")
    write(tmp_path, "data/big.bin", text="y" * (2 << 20))
    with pytest.raises(UsageFailure, match=r"at most 1\.0 MiB") as caught:
        pack(tmp_path, Limits(content_bytes=1 << 20))
    assert "data (2.0 MiB)" in caught.value.remedy


def test_an_archive_that_does_not_compress_enough_is_refused(tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(os.urandom(4096))
    with pytest.raises(UsageFailure, match="the packed folder"):
        pack(tmp_path, Limits(archive_bytes=1024))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "node_modules/x")
    with pytest.raises(UsageFailure, match="nothing to upload"):
        pack(tmp_path)


def test_sockets_stay_behind_with_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "app.py")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s.sock")
        archive = pack(tmp_path)
        archive.content.close()
    assert archive.files == 1
    assert any("s.sock" in note for note in archive.notes)


def test_an_env_file_is_pointed_out(tmp_path: Path) -> None:
    write(tmp_path, "app.py", ".env")
    archive = pack(tmp_path)
    archive.content.close()
    assert any("env import" in note for note in archive.notes)


def test_names_that_are_no_text_survive(tmp_path: Path) -> None:
    name = b"caf\xe9 \n.txt"
    (tmp_path / os.fsdecode(name)).write_text("x")
    assert [os.fsencode(path) for path in packed(tmp_path)] == [name]


def test_the_gzip_header_tells_nothing(tmp_path: Path) -> None:
    write(tmp_path, "app.py")
    with pack(tmp_path).content as content:
        header = content.read(10)
        content.seek(0)
        assert gzip.decompress(content.read())
    assert header[3] == 0
    assert header[4:8] == b"\0\0\0\0"
