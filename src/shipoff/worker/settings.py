"""What the worker can be told."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from shipoff.common.config import ServiceSettings, listed, service_config


class WorkerSettings(ServiceSettings):
    """SHIPOFF_WORKER_…"""

    model_config = service_config("worker")

    # Hosts, as name or name:port with commas between them, that hooks may reach although their addresses are private.
    allow_hosts: str = ""
    # How long a hook is held by one process before another may take it over; above the ten seconds that a try may take.
    lease_s: float = Field(default=30.0, gt=10)
    # How often due deliveries and removals are looked for, besides when something wakes the worker.
    sweep_s: float = Field(default=5.0, gt=0)
    # How long finished deliveries are kept, in days.
    kept_days: int = Field(default=7, ge=1)
    # A config.json with the registries' logins, to remove images by; empty: ~/.docker/config.json.
    registry_logins: str = Field(default="", validation_alias="SHIPOFF_BUILD_REGISTRY_LOGINS")

    @property
    def logins(self) -> Path:
        """Where the registries' logins are."""
        return Path(self.registry_logins) if self.registry_logins else Path.home() / ".docker" / "config.json"

    @property
    def allowed(self) -> frozenset[str]:
        """The entries of `allow_hosts`, in lower case."""
        return frozenset(listed(self.allow_hosts.lower()))
