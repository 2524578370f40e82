"""What the gateway is told at its start."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from pydantic import AliasChoices, Field, field_validator

from shipoff.common.config import ServiceSettings, home, listed, service_config

_MIB = 1 << 20


class GatewaySettings(ServiceSettings):
    """SHIPOFF_GATEWAY_…"""

    model_config = service_config("gateway")

    # The Unix socket of the public API; empty: run/edge/gateway.sock in the data folder.
    http_socket: str = ""
    # host:port instead of the socket.
    http_listen: str = ""
    # How the outside reaches the apps: parts of their URLs.
    public_scheme: str = Field(default="http", pattern="^https?$")
    public_port: int = Field(
        default=8080, ge=1, le=65535, validation_alias=AliasChoices("SHIPOFF_GATEWAY_PUBLIC_PORT", "SHIPOFF_HTTP_PORT")
    )
    # Networks of the proxies in front, as 10.42.0.0/16 with commas: their X-Forwarded-For says who asks. Only with http_listen.
    trusted_proxies: str = ""
    # How builds are made (SHIPOFF_BUILD_EXECUTOR): only BuildKit can use a source's own Dockerfile.
    build_executor: str = Field(default="native", validation_alias="SHIPOFF_BUILD_EXECUTOR")
    # Origins besides the API's own from which a browser may open a WebSocket.
    allowed_origins: tuple[str, ...] = ()

    # Caps of a request's body, in bytes. GitHub cuts its deliveries at 25 MB, ordinary ones have some 10 KB.
    json_limit_bytes: int = Field(default=_MIB, ge=1)
    # Of a snapshot to plan: paths and manifests.
    snapshot_limit_bytes: int = Field(default=8 * _MIB, ge=1, le=15 * _MIB)
    webhook_limit_bytes: int = Field(default=4 * _MIB, ge=1, le=15 * _MIB)
    source_limit_bytes: int = Field(default=512 * _MIB, ge=1)
    # How long a body may take: a JSON one as a whole, an archive between two of its pieces.
    body_timeout_s: float = Field(default=30, gt=0)

    # Token buckets: a signed-in user; an address without a token; an address that sends wrong tokens.
    user_per_s: float = Field(default=50, gt=0)
    user_burst: int = Field(default=200, ge=1)
    anonymous_per_s: float = Field(default=10, gt=0)
    anonymous_burst: int = Field(default=100, ge=1)
    # Webhook deliveries, by address: those of a whole organisation come from a few, and a refused one is not sent again.
    webhook_per_s: float = Field(default=100, gt=0)
    webhook_burst: int = Field(default=2000, ge=1)
    # So many are worked on at one time; the others wait in line.
    webhooks_at_once: int = Field(default=32, ge=1)
    failures_per_s: float = Field(default=0.2, gt=0)
    failures_burst: int = Field(default=20, ge=1)
    # WebSockets that are open at the same time.
    streams_per_user: int = Field(default=20, ge=1)
    streams_in_all: int = Field(default=500, ge=1)
    # A revoked token works for at most this long on requests, and on an open WebSocket until the next look.
    authentication_cache_s: float = Field(default=5, ge=0, le=5)
    stream_recheck_s: float = Field(default=30, gt=0)
    # Requests under way when the gateway stops have this long to finish.
    drain_s: int = Field(default=5, ge=0)

    @property
    def proxies(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """`trusted_proxies`, one by one."""
        return tuple(ipaddress.ip_network(entry) for entry in listed(self.trusted_proxies))

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        for entry in listed(value):
            ipaddress.ip_network(entry)
        return value

    def socket_path(self) -> Path:
        """Where the public API listens when it is not on TCP."""
        return Path(self.http_socket) if self.http_socket else home() / "run" / "edge" / "gateway.sock"

    def url(self, host: str) -> str:
        """The address of an app under this host name."""
        usual = {"http": 80, "https": 443}[self.public_scheme]
        port = "" if self.public_port == usual else f":{self.public_port}"
        return f"{self.public_scheme}://{host}{port}"
