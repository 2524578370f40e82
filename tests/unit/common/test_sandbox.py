"""What bubblewrap is told: which folders are hidden, which are shown all the same, and in which order."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shipoff.common import sandbox
from shipoff.common.errors import PreconditionFailed
from shipoff.common.sandbox import Inside, Sandbox, arguments, entered, exit_code, hidden_folders, shown_folders


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Somebody's home, outside /tmp as far as the sandbox knows."""
    monkeypatch.setattr(sandbox, "_SCRATCH", ())
    monkeypatch.setattr(sandbox, "_is_open", lambda path: path.exists())
    folder = tmp_path.resolve() / "ada"
    monkeypatch.setenv("HOME", str(folder))
    for name in ("node/bin", "node/lib", ".local/bin", ".local/lib", ".local/share/keyrings", ".cargo/bin", "shipoff"):
        (folder / name).mkdir(parents=True)
    return folder


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every account can read."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        Path(made).chmod(0o755)
        yield Path(made)


def test_homes_sockets_and_the_platforms_folders_are_hidden_the_outermost_only(home: Path) -> None:
    hidden = hidden_folders([home / "shipoff", home / "nowhere"])
    assert str(home) in hidden
    assert "/run" in hidden
    assert str(home / "shipoff") not in hidden
    assert "/" not in hidden_folders([Path("/")])


def test_an_account_whose_home_is_everything_hides_as_much_as_any_other(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = set(hidden_folders([home / "shipoff"])) - {str(home)}
    monkeypatch.setenv("HOME", "/")
    hidden = hidden_folders([home / "shipoff"])
    assert {*others, str(home / "shipoff")} == set(hidden)
    assert "/run" in hidden


def test_tools_in_a_home_are_shown_and_what_lies_beside_them_is_not(home: Path) -> None:
    path = f"{home}/node/bin:{home}/.local/bin:{home}/.cargo/bin:/usr/bin"
    shown = shown_folders([str(home)], path, programs=[], more=[], private=[])
    assert shown == tuple(f"{home}/{name}" for name in (".cargo/bin", ".local/bin", ".local/lib", "node"))


def test_a_private_folder_beside_tools_stays_hidden_and_the_tools_are_shown(home: Path) -> None:
    (home / "link").symlink_to(home / "node")
    private = [home / "node" / ".shipoff"]
    private[0].mkdir()
    hidden = hidden_folders(private)
    for tools in ("node", "link"):
        path, named = f"{home}/{tools}/bin", [f"{home}/{tools}", f"{home}/{tools}/lib"]
        shown = shown_folders(hidden, path, programs=[], more=named, private=private)
        assert [one for one in shown if one.startswith(str(home))] == [f"{home}/{tools}/bin", f"{home}/{tools}/lib"]


def test_a_program_that_is_a_link_is_shown_where_it_is_installed(home: Path) -> None:
    program = home / "tools" / "pnpm" / "bin" / "pnpm"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (home / ".local/bin/pnpm").symlink_to(program)
    assert f"{home}/tools/pnpm" in shown_folders([str(home)], f"{home}/.local/bin", programs=["pnpm"], more=[], private=[])


def test_files_that_variables_name_are_shown_but_never_a_home_or_all_that_is_hidden(home: Path) -> None:
    (home / "ca.pem").write_text("x")
    named = [f"{home}/ca.pem", str(home), str(home.parent), "/", "no path", f"{home}/nowhere", "/etc/passwd"]
    assert shown_folders([str(home)], "", programs=[], more=named, private=[]) == (f"{home}/ca.pem",)


def test_folders_are_hidden_before_anything_in_them_is_shown_and_closed_after() -> None:
    made = arguments(
        Sandbox("bwrap", ("/home",), ("/home/ada/node",)),
        Inside([Path("/home/app/work")], Path("/home/app/tmp"), Path("/home/app/work/src"), {"A": "1"}, tied=True),
    )
    joined = " ".join(made)
    order = ["--ro-bind / /", "--tmpfs /home", "--ro-bind-try /home/ada/node", "--bind /home/app/work", "--remount-ro /home"]
    places = [joined.index(part) for part in order]
    assert places == sorted(places)
    assert joined.endswith("--clearenv --setenv A 1 --chdir /home/app/work/src")
    assert {"--unshare-pid", "--new-session", "--die-with-parent"} <= set(made)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="bubblewrap needs Linux")
def test_variables_are_in_no_list_of_arguments() -> None:
    inside = Inside((), Path("/tmp"), Path("/"), {"TOKEN": "secret value\nof two lines"}, tied=False)
    with entered(Sandbox("/usr/bin/bwrap", ()), inside, ["npm", "run", "build"]) as (argv, descriptor):
        assert argv == ["/usr/bin/bwrap", "--args", str(descriptor), "--", "npm", "run", "build"]
        handed = os.read(descriptor, 1 << 16).decode().split("\0")
    assert handed[handed.index("--setenv") :][:3] == ["--setenv", "TOKEN", "secret value\nof two lines"]
    assert "--die-with-parent" not in handed


@pytest.mark.parametrize(
    ("told", "meant"), [(0, 0), (1, 1), (127, 127), (128, 128), (137, -9), (192, -64), (255, 255), (-9, -9)]
)
def test_a_signal_is_told_as_128_and_its_number(told: int, meant: int) -> None:
    assert exit_code(told) == meant


def test_where_it_is_required_nothing_starts_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "bubblewrap", lambda: ("", "bubblewrap is not installed"))
    assert sandbox.usable("auto") == ""
    with pytest.raises(PreconditionFailed, match="not installed") as refused:
        sandbox.usable("required")
    assert "apt-get install bubblewrap" in refused.value.remedy


def test_one_that_fails_says_why(open_folder: Path) -> None:
    broken = open_folder / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
    broken.chmod(0o755)
    assert sandbox._problem_of(str(broken)) == ("bubblewrap does not work here: bwrap: setting up uid map: Permission denied")
