"""The GitOps repository: where desired state is committed. The drivers of the cluster write to it, each in its own way."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from shipoff.common.errors import InvalidInput
from shipoff.runtime.adapters.gitops.journal import Journal
from shipoff.runtime.adapters.gitops.origins import Access, Folder, Origin, Server
from shipoff.runtime.adapters.gitops.repository import Author, Repository
from shipoff.runtime.adapters.gitops.sealing import Seal
from shipoff.runtime.gitops_settings import GitOpsSettings

__all__ = ["Journal", "opened"]


def opened(settings: GitOpsSettings, *, copies: Path) -> Journal:
    """The repository of the settings; of one on a server a copy is kept below `copies`.

    Raises InvalidInput for a certificate that cannot be sealed for.
    """
    if settings.kind == "folder":
        origin: Origin = Folder(settings.path, settings.branch)
    else:
        access = Access(settings.username, settings.token_file, settings.ssh_key_file, settings.timeout_s)
        origin = Server(settings.repository, settings.branch, access, copies)
    author = Author(settings.author_name, settings.author_email)
    return Journal(Repository(origin, author), _seal(Path(settings.sealing_certificate)), settings.folder)


def _seal(path: Path) -> Seal:
    try:
        return Seal(path.read_bytes(), now=datetime.now(UTC))
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"{path} is no certificate that secrets can be sealed for: {error}",
            field="SHIPOFF_GITOPS_SEALING_CERTIFICATE", remedy="use what `kubeseal --fetch-cert` prints",
        ) from error  # fmt: skip
