"""What project can be told."""

from __future__ import annotations

import re

from pydantic import Field, SecretStr, field_validator

from shipoff.common.config import ServiceSettings, listed, service_config

_DOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*")


class ProjectSettings(ServiceSettings):
    """SHIPOFF_PROJECT_…"""

    model_config = service_config("project")

    # Projects answer on <name>.<base domain>.
    base_domain: str = Field(default="localhost", max_length=180, validation_alias="SHIPOFF_BASE_DOMAIN")
    # What GitHub signs its deliveries with. Empty: every delivery is refused.
    github_webhook_secret: SecretStr = Field(default=SecretStr(""), validation_alias="SHIPOFF_GITHUB_WEBHOOK_SECRET")
    # Hosts with private addresses that repositories may be cloned from: the build service's own setting.
    allow_hosts: str = Field(default="", validation_alias="SHIPOFF_BUILD_ALLOW_HOSTS")
    # The largest archive that is taken.
    max_source_bytes: int = Field(default=512 << 20, gt=0)
    # The longest that a project may choose for its time limits, in seconds.
    most_queue_timeout_s: int = Field(default=86_400, gt=0)
    most_build_timeout_s: int = Field(default=7200, gt=0, le=7200)
    most_ready_timeout_s: int = Field(default=3600, gt=0)
    # How long an uploaded archive is kept after it was last used.
    source_kept_days: int = Field(default=14, ge=2)
    # Connections to the database, and those for what only reads besides.
    pool_size: int = Field(default=5, ge=1)
    read_pool_size: int = Field(default=2, ge=0)

    @property
    def allowed_hosts(self) -> tuple[str, ...]:
        """`allow_hosts`, one by one."""
        return tuple(listed(self.allow_hosts))

    @field_validator("base_domain")
    @classmethod
    def _is_domain(cls, value: str) -> str:
        value = value.lower().strip(".")
        if not _DOMAIN.fullmatch(value):
            raise ValueError("has to be a domain name, as apps.example.com")
        return value
