"""Certificates between services: each shows its own, and both sides check the other's against one authority.

Used by common/rpc.py where the settings name the files. They are read again when they change, so that a renewed certificate is
taken without a restart: by a server with the next handshake, by a caller with its next call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self, cast

import grpc
import structlog
from pydantic import model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shipoff.common.callgraph import callers_of
from shipoff.common.config import load
from shipoff.common.errors import PermissionDenied, PreconditionFailed

# A certificate's DNS name of this form says whose it is (".internal" is nobody's on the internet, ICANN 2024).
IDENTITY_SUFFIX = ".shipoff.internal"

log = structlog.get_logger()


class TlsSettings(BaseSettings):
    """SHIPOFF_TLS_…: PEM files. All three, or none: then calls over TCP are in clear."""

    model_config = SettingsConfigDict(env_prefix="SHIPOFF_TLS_", frozen=True, extra="ignore")

    # Whose DNS names are the service's address and <service>.shipoff.internal.
    certificate: Path | None = None
    key: Path | None = None
    # Signs every service's certificate, and nothing else.
    ca: Path | None = None

    @model_validator(mode="after")
    def _all_or_none(self) -> Self:
        named = {"CERTIFICATE": self.certificate, "KEY": self.key, "CA": self.ca}
        missing = [f"SHIPOFF_TLS_{name}" for name, path in named.items() if path is None]
        if 0 < len(missing) < len(named):
            raise ValueError(f"certificates between services need {' and '.join(missing)} too")
        return self


@dataclass(frozen=True)
class _Pem:
    certificate: bytes
    key: bytes
    ca: bytes


class Certificates:
    """This process's certificate, its key and the authority, as their files are now."""

    def __init__(self, certificate: Path, key: Path, ca: Path) -> None:
        """Raises PreconditionFailed when one of them cannot be read."""
        self._paths = (certificate, key, ca)
        self._lock = threading.Lock()
        try:
            self._stamp, self._pem = self._read()
        except OSError as error:
            remedy = "are SHIPOFF_TLS_CERTIFICATE, _KEY and _CA there, and readable?"
            raise PreconditionFailed(
                f"the service's certificate cannot be read: {error}", field="SHIPOFF_TLS_CERTIFICATE", remedy=remedy
            ) from error
        self._channels = self._for_channels(self._pem)

    def for_channels(self) -> grpc.ChannelCredentials:
        """What a caller shows and believes; another object once the files have changed."""
        self._refresh()
        return self._channels

    def authority(self) -> str:
        """The authority, as it is given to whoever is to believe this process and has no certificate itself."""
        self._refresh()
        return self._pem.ca.decode()

    def for_server(self, *, asking: bool = True) -> grpc.ServerCredentials:
        """What a server shows; where it is `asking`, it takes no caller without a certificate of the authority's.

        With every handshake it is asked for its certificate anew (gRFC L46, dynamic server credentials).
        """
        shown = self._pem

        def changed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal shown
            self._refresh()
            if self._pem is shown:
                return None
            shown = self._pem
            return _configuration(shown)

        # None, for "as it was", is missing in the stubs.
        fetch = cast(Callable[[], grpc.ServerCertificateConfiguration], changed)
        return grpc.dynamic_ssl_server_credentials(_configuration(shown), fetch, require_client_authentication=asking)

    def _refresh(self) -> None:
        """Reads again what has changed. What cannot be read is told, and the former kept."""
        with self._lock:
            try:
                if self._look() == self._stamp:
                    return
                self._stamp, self._pem = self._read()
            except OSError as error:
                log.warning("certificate cannot be read again", error=str(error))
                return
            self._channels = self._for_channels(self._pem)
        log.info("certificate read again", file=str(self._paths[0]))

    def _look(self) -> tuple[tuple[int, int, int], ...]:
        found = [path.stat() for path in self._paths]
        return tuple((status.st_ino, status.st_mtime_ns, status.st_size) for status in found)

    def _read(self) -> tuple[tuple[tuple[int, int, int], ...], _Pem]:
        """All three as they are together: where one is replaced in between, they are read once more."""
        while True:
            before = self._look()
            pem = _Pem(*(path.read_bytes() for path in self._paths))
            if self._look() == before:
                return before, pem

    @staticmethod
    def _for_channels(pem: _Pem) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(pem.ca, pem.key, pem.certificate)


def _configuration(pem: _Pem) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.certificate)], pem.ca)


def settled() -> Certificates | None:
    """The certificates that the settings name; None where they name none. Raises PreconditionFailed."""
    settings = load(TlsSettings)
    if settings.certificate is None or settings.key is None or settings.ca is None:
        return None
    return _opened(settings.certificate, settings.key, settings.ca)


def authority() -> str:
    """The authority of the certificates that the settings name (PEM); empty where they name none. Raises PreconditionFailed."""
    certificates = settled()
    return certificates.authority() if certificates else ""


@lru_cache(maxsize=4)
def _opened(certificate: Path, key: Path, ca: Path) -> Certificates:
    """Once a process: its server and its channels share them."""
    return Certificates(certificate, key, ca)


def require_caller(method: str, peer: Mapping[str, Any]) -> None:
    """Raises PermissionDenied unless the certificate is one of a service that may call this method's.

    `method`: "/shipoff.build.v1.BuildService/GetBuild". `peer`: gRPC's authentication context of the call.
    """
    service = method.split(".")[1]
    names = [name.decode(errors="replace") for name in peer.get("x509_subject_alternative_name", ())]
    shown = {name.removesuffix(IDENTITY_SUFFIX) for name in names if name.endswith(IDENTITY_SUFFIX)}
    if not shown & callers_of(service):
        who = ", ".join(sorted(shown)) or "a certificate without a service's name"
        allowed = ", ".join(sorted(callers_of(service))) or "nobody"
        raise PermissionDenied(f"{who} may not call {service}", remedy=f"its callers are: {allowed}")
