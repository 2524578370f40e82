"""What the runtime is told about the GitOps repository, read where the driver is `kubernetes`. What does not fit is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shipoff.common.errors import InvalidInput

Kind = Literal["folder", "http", "ssh"]

# user@host:path, as ssh and git write it.
_SCP = re.compile(r"[^/@:]+@[^/:]+:.+")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_PREFIX = "SHIPOFF_GITOPS_"


class GitOpsSettings(BaseSettings):
    """SHIPOFF_GITOPS_…: where desired state is committed. Raises ValidationError, which says what does not go together."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="ignore", populate_by_name=True)

    # A bare repository's folder, or a URL (https://…, ssh://…, git@host:path); empty: nothing is committed anywhere.
    repository: str = ""
    branch: str = Field(default="main", pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")
    # The folder of the repository that is the platform's; the others in it are left alone.
    folder: str = Field(default="apps", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$")
    author_name: str = Field(default="Shipoff", pattern=r"^[^<>\n]+$")
    author_email: str = Field(default="shipoff@localhost", pattern=r"^[^<>\s]+$")
    # For a server: the user, and a file that holds a token (https) or a private key without a passphrase (ssh).
    username: str = "git"
    token_file: str = ""
    ssh_key_file: str = ""
    # How long a server may take to answer.
    timeout_s: float = Field(default=20.0, gt=0, le=300)
    # The certificate (PEM) of the cluster's Sealed Secrets controller: `kubeseal --fetch-cert`.
    sealing_certificate: str = ""
    # Where Argo CD is, the AppProject of the apps, the cluster as Argo CD calls it, and the URL under which it reads the
    # repository (empty: the same as the platform's).
    argocd_namespace: str = "argocd"
    argocd_project: str = "default"
    argocd_destination: str = "https://kubernetes.default.svc"
    argocd_repository: str = ""

    @property
    def kind(self) -> Kind:
        """What `repository` is."""
        if _SCP.fullmatch(self.repository) or self.repository.startswith("ssh://"):
            return "ssh"
        return "http" if self.repository.startswith(("http://", "https://")) else "folder"

    @property
    def path(self) -> Path:
        """The folder of a repository on this machine."""
        return Path(self.repository.removeprefix("file://"))

    @property
    def seen_by_argocd(self) -> str:
        """The repository's URL in Applications."""
        return self.argocd_repository or self.repository

    @model_validator(mode="after")
    def _goes_together(self) -> GitOpsSettings:
        if not self.repository:
            self._must_be_unset("token_file", "ssh_key_file", "sealing_certificate", "argocd_repository")
            return self
        checks: dict[Kind, Callable[[], None]] = {
            "folder": self._check_folder,
            "http": self._check_http,
            "ssh": self._check_ssh,
        }
        checks[self.kind]()
        if not self.sealing_certificate:
            raise ValueError(
                f"{_PREFIX}SEALING_CERTIFICATE is missing: secrets are never committed in clear. "
                "Set it to a file with what `kubeseal --fetch-cert` prints"
            )
        for name in ("token_file", "ssh_key_file", "sealing_certificate"):
            value = getattr(self, name)
            if value and not Path(value).is_file():
                raise ValueError(f"{_PREFIX}{name.upper()}: there is no file {value}")
        return self

    def _must_be_unset(self, *names: str) -> None:
        for name in names:
            if getattr(self, name):
                raise ValueError(f"{_PREFIX}{name.upper()} is set, but {_PREFIX}REPOSITORY is not: name the repository")

    def _check_folder(self) -> None:
        if not self.path.is_absolute():
            raise ValueError(f"{_PREFIX}REPOSITORY is neither an absolute path nor a URL: {self.repository}")
        if self.path.exists() and any(self.path.iterdir()) and not (self.path / "HEAD").is_file():
            raise ValueError(f"{_PREFIX}REPOSITORY: {self.path} is no bare git repository: make one with `git init --bare`")
        if self.token_file or self.ssh_key_file:
            raise ValueError(f"{_PREFIX}REPOSITORY is a folder, which needs neither a token nor a key")

    def _check_http(self) -> None:
        parts = urlsplit(self.repository)
        if parts.password or parts.username:
            raise ValueError(
                f"{_PREFIX}REPOSITORY holds credentials: put the token into a file and set {_PREFIX}TOKEN_FILE "
                f"(and {_PREFIX}USERNAME)"
            )
        if self.ssh_key_file:
            raise ValueError(f"{_PREFIX}SSH_KEY_FILE goes with an ssh:// repository; this one takes {_PREFIX}TOKEN_FILE")
        if parts.scheme == "http" and self.token_file and parts.hostname not in _LOOPBACK:
            raise ValueError(f"{_PREFIX}REPOSITORY is http://, which would send the token in clear: use https://")

    def _check_ssh(self) -> None:
        if self.token_file:
            raise ValueError(f"{_PREFIX}TOKEN_FILE goes with an https:// repository; this one takes {_PREFIX}SSH_KEY_FILE")
        if not self.ssh_key_file:
            raise ValueError(f"{_PREFIX}SSH_KEY_FILE is missing: {self.repository} is reached by ssh")


def check(settings: GitOpsSettings, *, driver: str, mode: str) -> None:
    """Raises InvalidInput where the repository does not go with how apps run."""
    if settings.repository and driver != "kubernetes":
        raise InvalidInput(
            f"{_PREFIX}REPOSITORY is set, but apps run as processes of this machine, which no repository describes",
            field=f"{_PREFIX}REPOSITORY", remedy="set SHIPOFF_RUNTIME_DRIVER=kubernetes, or leave the repository out",
        )  # fmt: skip
    if mode == "argocd" and not settings.repository:
        raise InvalidInput(
            "SHIPOFF_KUBERNETES_MODE=argocd needs a repository for Argo CD to read",
            field=f"{_PREFIX}REPOSITORY", remedy=f"set {_PREFIX}REPOSITORY",
        )  # fmt: skip
    if mode == "argocd" and settings.kind == "folder" and not settings.argocd_repository:
        raise InvalidInput(
            f"Argo CD cannot read the folder {settings.repository} of this machine",
            field=f"{_PREFIX}ARGOCD_REPOSITORY", remedy="set it to the URL under which Argo CD reaches that repository",
        )  # fmt: skip
