"""Settings of the repository that do not go together are refused, with what to set instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from shipoff.common.errors import InvalidInput
from shipoff.runtime.gitops_settings import GitOpsSettings, check

HTTPS, SSH = "https://git.example/team/gitops.git", "git@git.example:team/gitops.git"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """A certificate, a token and a key, as far as settings look."""
    made = {}
    for name in ("sealing_certificate", "token_file", "ssh_key_file"):
        (tmp_path / name).write_text("x")
        made[name] = str(tmp_path / name)
    return made


def chosen(files: dict[str, str], repository: str, *names: str, **more: Any) -> GitOpsSettings:
    return GitOpsSettings(repository=repository, **{name: files[name] for name in names}, **more)


def test_without_a_repository_nothing_is_committed() -> None:
    assert not GitOpsSettings().repository
    check(GitOpsSettings(), driver="process", mode="direct")


@pytest.mark.parametrize(
    ("repository", "names", "kind"),
    [
        ("/srv/gitops.git", (), "folder"),
        ("file:///srv/gitops.git", (), "folder"),
        (HTTPS, (), "http"),
        (HTTPS, ("token_file",), "http"),
        ("http://127.0.0.1:3000/gitops.git", ("token_file",), "http"),
        (SSH, ("ssh_key_file",), "ssh"),
        ("ssh://git@git.example:2222/gitops.git", ("ssh_key_file",), "ssh"),
    ],
)
def test_what_goes_together_is_taken(files: dict[str, str], repository: str, names: tuple[str, ...], kind: str) -> None:
    assert chosen(files, repository, "sealing_certificate", *names).kind == kind


@pytest.mark.parametrize(
    ("repository", "names", "words"),
    [
        (HTTPS, (), "SEALING_CERTIFICATE is missing: secrets are never committed in clear"),
        ("", ("token_file",), "TOKEN_FILE is set, but SHIPOFF_GITOPS_REPOSITORY is not"),
        ("", ("sealing_certificate",), "SEALING_CERTIFICATE is set, but"),
        ("srv/gitops.git", ("sealing_certificate",), "neither an absolute path nor a URL"),
        ("/srv/gitops.git", ("sealing_certificate", "token_file"), "needs neither a token nor a key"),
        ("https://ada:secret@git.example/x.git", ("sealing_certificate",), "holds credentials"),
        (HTTPS, ("sealing_certificate", "ssh_key_file"), "SSH_KEY_FILE goes with an ssh:// repository"),
        ("http://git.example/x.git", ("sealing_certificate", "token_file"), "would send the token in clear"),
        (SSH, ("sealing_certificate", "token_file"), "TOKEN_FILE goes with an https:// repository"),
        (SSH, ("sealing_certificate",), "SSH_KEY_FILE is missing"),
    ],
)
def test_what_does_not_go_together_is_refused(
    files: dict[str, str], repository: str, names: tuple[str, ...], words: str
) -> None:
    with pytest.raises(ValidationError, match=words) as refused:
        chosen(files, repository, *names)
    assert "SHIPOFF_GITOPS_" in str(refused.value)


def test_a_file_that_is_not_there_and_a_folder_that_is_no_repository_are_refused(files: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="there is no file /nowhere"):
        chosen(files, HTTPS, sealing_certificate="/nowhere")
    with pytest.raises(ValidationError, match="is no bare git repository"):
        chosen(files, str(tmp_path), "sealing_certificate")


@pytest.mark.parametrize("wrong", [{"branch": "-x"}, {"folder": "../up"}, {"folder": "/abs"}, {"author_email": "a b"}])
def test_names_that_git_would_misread_are_refused(files: dict[str, str], wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        chosen(files, HTTPS, "sealing_certificate", **wrong)


def test_modes_that_need_more_say_what(files: dict[str, str]) -> None:
    folder = chosen(files, "/srv/gitops.git", "sealing_certificate")
    with pytest.raises(InvalidInput, match="SHIPOFF_KUBERNETES_MODE=argocd needs a repository"):
        check(GitOpsSettings(), driver="kubernetes", mode="argocd")
    with pytest.raises(InvalidInput, match="Argo CD cannot read the folder"):
        check(folder, driver="kubernetes", mode="argocd")
    with pytest.raises(InvalidInput, match="processes of this machine"):
        check(folder, driver="process", mode="direct")
    check(chosen(files, HTTPS, "sealing_certificate"), driver="kubernetes", mode="argocd")
    check(folder, driver="kubernetes", mode="direct")


def test_argo_cd_may_read_the_repository_under_another_url(files: dict[str, str]) -> None:
    both = chosen(files, "/srv/gitops.git", "sealing_certificate", argocd_repository=HTTPS)
    assert both.seen_by_argocd == HTTPS
    check(both, driver="kubernetes", mode="argocd")
