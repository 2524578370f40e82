"""What a builder is told, as it reads it (shipoff.builder.assignment): the two programs share a format, not code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from shipoff.common.sandbox import Sandbox

# In the environment of everything that a build starts: names the attempt.
MARK = "SHIPOFF_BUILD"


@dataclass(frozen=True)
class Limits:
    """What a build may use beyond what was reserved for it."""

    memory_bytes: int
    processes: int
    disk_bytes: int
    free_bytes: int
    output_bytes: int
    source_bytes: int
    source_files: int
    artifact_bytes: int


@dataclass(frozen=True)
class Images:
    """How images are built; each field as in shipoff.builder.images.settings."""

    buildx: str
    registry: str
    builder: str
    builders_folder: str
    address: str
    tls_folder: str
    docker_host: str
    logins: str
    base_images: Mapping[str, str]
    mirrors: Mapping[str, str]
    network: str
    platforms: tuple[str, ...]
    provenance: str
    sbom_generator: str


@dataclass(frozen=True)
class Assignment:
    """One attempt's builder: where it reports, where it works, and as whom."""

    address: str
    token: str
    # "<deployment>/<attempt>".
    mark: str
    work: str
    caches: str
    # The tenant's account; None: the service's own.
    uid: int | None
    path: str
    environment: Mapping[str, str]
    allow_hosts: tuple[str, ...]
    patience_s: float
    limits: Limits
    # Signed the certificate that is shown at `address` (PEM); empty: none is shown.
    authority: str = ""
    # None: steps run without.
    sandbox: Sandbox | None = None
    images: Images | None = None

    def to_json(self) -> str:
        """What goes to the builder's standard input."""
        return json.dumps(asdict(self))
