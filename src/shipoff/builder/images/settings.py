"""How this platform builds images: a part of the builder's assignment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ImageSettings:
    """What the operator decided about images."""

    # The docker-buildx program.
    buildx: str
    # Where images are pushed to: a registry and the first part of the repositories' names.
    registry: str
    # One of buildx's builders, and the folder they are written down in; empty: the Docker Engine's own BuildKit.
    builder: str = ""
    builders_folder: str = ""
    # A remote BuildKit, such as tcp://buildkit:1234, and a folder with ca.pem, cert.pem and key.pem to reach it by.
    address: str = ""
    tls_folder: str = ""
    # The Docker Engine's socket; empty: its usual one.
    docker_host: str = ""
    # A config.json with the registries' logins; empty: none are needed.
    logins: str = ""
    # Provider → image to build in, "<provider>-run" → image to run in.
    base_images: Mapping[str, str] = field(default_factory=dict)
    # Prefix of references → what stands in its place.
    mirrors: Mapping[str, str] = field(default_factory=dict)
    # "default", "host" or "none": what builds reach.
    network: str = "default"
    platforms: tuple[str, ...] = ()
    # "min", "max" or "off".
    provenance: str = "min"
    # The image that lists an image's packages; empty: no list is made.
    sbom_generator: str = ""
