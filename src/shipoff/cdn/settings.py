"""What the cdn can be told. Prefix SHIPOFF_CDN_."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from shipoff.common.config import ServiceSettings, home, service_config


class CdnSettings(ServiceSettings):
    """Read once at the start."""

    model_config = service_config("cdn")

    # The port on which Caddy serves apps and the platform.
    http_port: int = Field(default=8080, gt=0, le=65535, validation_alias="SHIPOFF_HTTP_PORT")
    # The platform answers at api.<base domain>.
    base_domain: str = Field(default="localhost", validation_alias="SHIPOFF_BASE_DOMAIN")
    # Caddy's admin interface.
    admin_socket: Path = Field(default_factory=lambda: home() / "run/caddy/admin.sock")
    # Where the gateway listens for Caddy.
    gateway_socket: Path = Field(default_factory=lambda: home() / "run/edge/gateway.sock")
    # One folder a release.
    releases: Path = Field(default_factory=lambda: home() / "cdn/releases")
    # What Caddy reads with every request: where each environment leads right now.
    live: Path = Field(default_factory=lambda: home() / "cdn/live")
    # Caps of a static artifact: packed, unpacked, number of files, unpacked bytes for one packed.
    packed_bytes: int = Field(default=1 << 30, gt=0)
    unpacked_bytes: int = Field(default=2 << 30, gt=0)
    files: int = Field(default=100_000, gt=0)
    ratio: int = Field(default=100, gt=0)
    # Releases that the routes point at are put in place, and the routes loaded, before the service says that it serves: for a
    # folder that starts empty, as a pod's does.
    restore_first: bool = False
    # How often Caddy is asked whether it still has the routes.
    watch_s: float = Field(default=4.0, gt=0)
    # How often the table, the folders and the edge are compared in full.
    reconcile_s: float = Field(default=10.0, gt=0)
