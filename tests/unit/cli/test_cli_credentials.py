import stat
from pathlib import Path

import pytest

from shipoff.cli import credentials


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("SHIPOFF_URL", raising=False)
    monkeypatch.delenv("SHIPOFF_TOKEN", raising=False)


def test_nothing_saved_is_the_local_platform_without_a_token() -> None:
    assert credentials.load() == credentials.Credentials("http://localhost:8080", "")


def test_what_was_saved_last_is_the_default_and_others_stay() -> None:
    credentials.save("http://one.example/", "t1")
    credentials.save("HTTP://Two.example", "t2")
    assert credentials.load() == credentials.Credentials("http://two.example", "t2")
    assert credentials.load("http://one.example") == credentials.Credentials("http://one.example", "t1")


def test_a_token_is_never_given_to_another_url(monkeypatch: pytest.MonkeyPatch) -> None:
    credentials.save("http://one.example", "t1")
    monkeypatch.setenv("SHIPOFF_URL", "http://elsewhere.example")
    assert credentials.load().token == ""


def test_the_environment_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    credentials.save("http://one.example", "t1")
    monkeypatch.setenv("SHIPOFF_TOKEN", "env\n")
    assert credentials.load() == credentials.Credentials("http://one.example", "env")


def test_only_the_owner_can_read_the_file() -> None:
    file = credentials.save("http://one.example", "t1")
    file.chmod(0o644)
    credentials.save("http://one.example", "t2")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in file.parent.iterdir()] == ["credentials.json"]


@pytest.mark.parametrize("content", ["", "[]", '{"tokens": 3}', "not json"])
def test_a_broken_file_means_not_signed_in(content: str) -> None:
    file = credentials.save("http://one.example", "t1")
    file.write_text(content)
    assert credentials.load("http://one.example").token == ""
    credentials.save("http://one.example", "t2")
    assert credentials.load("http://one.example").token == "t2"
