from pathlib import Path

import pytest

from shipoff.cli import names
from shipoff.cli.errors import UsageFailure


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("My App_2", "my-app-2"),
        ("hello-python", "hello-python"),
        ("--x--", "x"),
        ("Café", "cafe"),
        ("日本", ""),
        ("a" * 300, "a" * 50),
    ],
)
def test_a_label_resembles_the_text(text: str, label: str) -> None:
    assert names.as_label(text) == label


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("https://h.example/team/My-App.git", "my-app"),
        ("git@h.example:team/app", "app"),
        ("https://h.example/team/app/", "app"),
    ],
)
def test_a_repository_gives_a_name(url: str, label: str) -> None:
    assert names.repository_label(url) == label


def test_option_then_file_then_folder(tmp_path: Path) -> None:
    folder = tmp_path / "My App"
    folder.mkdir()
    assert names.choose(None, folder) == "my-app"
    names.write_project_file(folder, "written")
    assert names.choose(None, folder) == "written"
    assert names.choose("given", folder) == "given"


def test_the_project_file_keeps_what_else_it_says(tmp_path: Path) -> None:
    (tmp_path / "shipoff.toml").write_text('# mine\nproject = "old"\n[build]\ncommand = "make"\n')
    names.write_project_file(tmp_path, "new")
    assert (tmp_path / "shipoff.toml").read_text() == '# mine\nproject = "new"\n[build]\ncommand = "make"\n'


@pytest.mark.parametrize("content", ['project = "../x"', "project = 1", "project = ", 'project = "Upper"'])
def test_a_wrong_project_file_is_a_usage_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "shipoff.toml").write_text(content)
    with pytest.raises(UsageFailure):
        names.choose(None, tmp_path)
