"""What the build service is told at its start."""

from __future__ import annotations

import fnmatch
import ipaddress
import os
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

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

    # What builders are: processes of this machine, or Jobs of a Kubernetes cluster (see JobSettings).
    builders: Literal["process", "kubernetes"] = "process"
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

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.builders == "process":
            return self
        if not self.builder_listen or self.builder_listen.startswith("unix:"):
            raise ValueError(
                "SHIPOFF_BUILD_BUILDERS=kubernetes needs SHIPOFF_BUILD_BUILDER_LISTEN=0.0.0.0:<port>, for pods to connect to"
            )
        if self.builds_images and not self.buildkit_address:
            raise ValueError("builds of images in pods need SHIPOFF_BUILD_BUILDKIT_ADDRESS: a BuildKit that pods reach")
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


_NO_OR_NAME = r"^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)?$"


class JobSettings(BaseSettings):
    """SHIPOFF_BUILD_JOB_…: the cluster that builders run on, read where SHIPOFF_BUILD_BUILDERS is kubernetes."""

    model_config = SettingsConfigDict(env_prefix="SHIPOFF_BUILD_JOB_", frozen=True, extra="ignore", populate_by_name=True)

    # Platforms that share a cluster each have a name of their own, the same for builds and apps.
    platform: str = Field(
        default="shipoff", pattern=r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$", validation_alias="SHIPOFF_KUBERNETES_PLATFORM"
    )
    # Where Jobs are. False: the namespace, its quota and its policies are made by whoever installs the platform.
    namespace: str = Field(default="shipoff-builds", pattern=r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")
    prepare: bool = True
    # Shipoff's own image, with what builds need (git, Python, Node.js, …), and a Secret with its registry's login.
    image: str = Field(min_length=1)
    pull_secret: str = Field(default="", pattern=_NO_OR_NAME)
    # host:port where pods reach SHIPOFF_BUILD_BUILDER_LISTEN.
    address: str = Field(pattern=r"^(\[[0-9a-f:]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$")
    # Where programs are found in the image.
    path: str = "/usr/local/bin:/usr/bin:/bin:/opt/shipoff/bin"
    # Secrets for builds of images: of type kubernetes.io/dockerconfigjson, and with ca.pem, cert.pem and key.pem.
    registry_secret: str = Field(default="", pattern=_NO_OR_NAME)
    buildkit_tls_secret: str = Field(default="", pattern=_NO_OR_NAME)
    # A PersistentVolumeClaim of that namespace for the projects' caches; empty: each build begins without.
    cache_claim: str = Field(default="", pattern=_NO_OR_NAME)
    # The numeric user that builds run as.
    user_id: int = Field(default=10001, ge=1000)
    # A RuntimeClass (gVisor, Kata), and the nodes to run on: name=value with commas.
    runtime_class: str = Field(default="", pattern=_NO_OR_NAME)
    node_selector: str = ""
    # How long a pod may wait for room and for its image.
    begin_s: int = Field(default=300, gt=0)
    # How long a Job that is over stays, should the platform be gone.
    keep_s: int = Field(default=300, gt=0)
    # Networks (a.b.c.d/n with commas): private ones that builds reach, and public ones that they do not.
    allow_networks: str = ""
    deny_networks: str = ""
    # The ports of everything else that builds reach; empty: all.
    outside_ports: str = Field(default="22,80,443", pattern=r"^([0-9]{1,5}(,[0-9]{1,5})*)?$")
    # How many Jobs there may be at once, and what admission grants to all of them (0: no bound on the cluster itself).
    most: int = Field(default=100, gt=0)
    budget_cpu_millis: int = Field(default=0, ge=0, validation_alias="SHIPOFF_ORCHESTRATOR_BUDGET_CPU_MILLIS")
    budget_memory_bytes: int = Field(default=0, ge=0, validation_alias="SHIPOFF_ORCHESTRATOR_BUDGET_MEMORY_BYTES")

    @field_validator("allow_networks", "deny_networks")
    @classmethod
    def _networks(cls, text: str) -> str:
        for one in listed(text):
            ipaddress.ip_network(one)
        return text

    @field_validator("node_selector")
    @classmethod
    def _pairs(cls, text: str) -> str:
        if any(not all(part.strip() for part in pair.partition("=")) for pair in listed(text)):
            raise ValueError("a list of name=value with commas")
        return text
