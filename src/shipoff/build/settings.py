"""What the build service is told at its start."""

from __future__ import annotations

import fnmatch
import os
from typing import Literal, Self

from pydantic import Field, model_validator

from shipoff.common.config import ServiceSettings, home, listed, service_config
from shipoff.common.sandbox import Mode

_MIB = 1 << 20
_GIB = 1 << 30
# Proxies, certificates and package indexes: without these the steps reach nothing behind a firewall.
_PASSED = (
    "HTTP_PROXY,HTTPS_PROXY,ALL_PROXY,NO_PROXY,SSL_CERT_FILE,SSL_CERT_DIR,REQUESTS_CA_BUNDLE,CURL_CA_BUNDLE,GIT_SSL_CAINFO,"
    "NODE_EXTRA_CA_CERTS,PIP_*,UV_*,NPM_CONFIG_*"
)


class BuildSettings(ServiceSettings):
    """SHIPOFF_BUILD_…"""

    model_config = service_config("build")

    # Where builders connect; empty: unix:$SHIPOFF_HOME/run/builder/builder.sock, open to every account (tokens decide).
    builder_listen: str = ""
    # Work folders and caches; empty: $SHIPOFF_HOME/builds.
    folder: str = ""
    # Seconds without a word from a builder after which its attempt is given up.
    lease_s: float = Field(default=30.0, gt=0)
    # Seconds a builder goes on without this service before it gives up itself.
    patience_s: float = Field(default=120.0, gt=0)
    # Builders go on while this service restarts; false: they end with it, and their attempts are lost.
    keep_builders: bool = True
    # Names (with * for any end) of this process's variables that the steps see, separated by commas.
    pass_env: str = _PASSED
    # Hosts with private addresses that repositories may be cloned from: "host" or "host:port", separated by commas.
    allow_hosts: str = ""
    # A build's memory where the deployment reserved none.
    memory_bytes: int = Field(default=2 * _GIB, gt=0)
    # How many processes a build may have at once.
    processes: int = Field(default=512, gt=0)
    # What a build's work folder may hold.
    disk_bytes: int = Field(default=8 * _GIB, gt=0)
    # What builds leave free on the disk for everybody else.
    free_bytes: int = Field(default=256 * _MIB, ge=0)
    # How much output of a build is kept; the rest is left out.
    output_bytes: int = Field(default=16 * _MIB, gt=0)
    # A source, unpacked; and how many files it may have.
    source_bytes: int = Field(default=2 * _GIB, gt=0)
    source_files: int = Field(default=100_000, gt=0, le=100_000)
    # A packed artifact.
    artifact_bytes: int = Field(default=2 * _GIB, gt=0)
    # Steps run inside bubblewrap: "auto" where it works, "required" or the service does not start, "off".
    sandbox: Mode = Field(default="auto", validation_alias="SHIPOFF_SANDBOX")
    # Connections to the database.
    pool_size: int = Field(default=5, ge=1)

    # native: on this machine, as folders. buildkit: as images in a registry, by docker-buildx.
    executor: Literal["native", "buildkit"] = "native"
    # Where images are pushed to, a registry and the first part of the repositories' names; the rest is the project's id.
    registry: str = Field(default="", pattern=r"^([a-z0-9][A-Za-z0-9._:/-]*[A-Za-z0-9])?$")
    # A config.json with the registries' logins; empty: ~/.docker/config.json where it is there.
    registry_logins: str = ""
    # prefix=replacement with commas: where images of other registries are fetched from.
    registry_mirrors: str = ""
    # provider=image with commas: what builds are made in; provider-run=image: what they run in.
    base_images: str = ""
    # What the steps of an image's build reach: the builder's own network, its machine's, or none.
    image_network: Literal["default", "host", "none"] = "default"
    # linux/amd64,linux/arm64; empty: the builder's own.
    platforms: str = Field(default="", pattern=r"^(linux/[a-z0-9/]+(,linux/[a-z0-9/]+)*)?$")
    provenance: Literal["min", "max", "off"] = "min"
    # The image that lists an image's packages; off: no list is made.
    sbom_generator: str = "docker.io/docker/buildkit-syft-scanner:stable-1"
    # The docker-buildx program; empty: found on PATH or where Docker keeps its plugins.
    buildx: str = ""
    # One of `docker buildx ls`; empty: the Docker Engine's own BuildKit.
    buildx_builder: str = ""
    # A remote BuildKit (tcp://host:port), and a folder with ca.pem, cert.pem and key.pem for it.
    buildkit_address: str = ""
    buildkit_tls_folder: str = ""
    # The Docker Engine's address; empty: its usual socket.
    docker_host: str = ""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.builds_images and not self.registry:
            raise ValueError("SHIPOFF_BUILD_EXECUTOR=buildkit needs SHIPOFF_BUILD_REGISTRY: where images are pushed to")
        for field, text in (("BASE_IMAGES", self.base_images), ("REGISTRY_MIRRORS", self.registry_mirrors)):
            if any(not all(part.strip() for part in pair.partition("=")) for pair in listed(text)):
                raise ValueError(f"SHIPOFF_BUILD_{field} is a list of name=value with commas")
        return self

    @property
    def builds_images(self) -> bool:
        """Whether builds leave images in a registry."""
        return self.executor == "buildkit"

    @property
    def builder_address(self) -> str:
        """Where builders connect."""
        return self.builder_listen or f"unix:{home()}/run/builder/builder.sock"

    @property
    def builds_folder(self) -> str:
        """Work folders and caches."""
        return self.folder or f"{home()}/builds"

    @property
    def allowed_hosts(self) -> tuple[str, ...]:
        """`allow_hosts`, one by one."""
        return tuple(listed(self.allow_hosts))

    def passed_environment(self) -> dict[str, str]:
        """The variables of this process that `pass_env` names; case does not matter, as with http_proxy."""
        patterns = [pattern.upper() for pattern in listed(self.pass_env)]
        return {
            name: value
            for name, value in os.environ.items()
            if any(fnmatch.fnmatchcase(name.upper(), pattern) for pattern in patterns)
        }
