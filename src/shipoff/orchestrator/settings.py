"""What the orchestrator can be told."""

from __future__ import annotations

import os

import psutil
from pydantic import Field

from shipoff.common.config import ServiceSettings, service_config
from shipoff.orchestrator.domain import Resources


def _cores_millis() -> int:
    return (os.cpu_count() or 1) * 1000


def _most_memory() -> int:
    """Builds may have four fifths of the machine: the rest is the platform's and the apps'."""
    return int(psutil.virtual_memory().total * 0.8)


class OrchestratorSettings(ServiceSettings):
    """SHIPOFF_ORCHESTRATOR_…"""

    model_config = service_config("orchestrator")

    # What all builds together may hold at one time.
    budget_cpu_millis: int = Field(default_factory=_cores_millis, gt=0)
    budget_memory_bytes: int = Field(default_factory=_most_memory, gt=0)
    # What one build is given.
    build_cpu_millis: int = Field(default=1000, gt=0)
    build_memory_bytes: int = Field(default=2 << 30, gt=0)
    # The longest that a deployment may wait, build, and take to become ready, in seconds.
    queue_timeout_s: int = Field(default=24 * 3600, gt=0)
    build_timeout_s: int = Field(default=900, gt=0, le=7200)
    provision_timeout_s: int = Field(default=300, gt=0)
    # A release that breaks within this time of going live is replaced by the one before; 0: never. A project may say its own.
    bake_s: int = Field(default=60, ge=0, le=86_400)
    # How long an instruction or a delivered event is held by one process before another may take it over.
    lease_s: float = Field(default=15.0, gt=0)
    # How often the reconciler looks.
    sweep_s: float = Field(default=5.0, gt=0)
    # How many releases of an environment are kept for a rollback.
    kept_releases: int = Field(default=10, ge=1)

    @property
    def budget(self) -> Resources:
        """The whole budget."""
        return Resources(self.budget_cpu_millis, self.budget_memory_bytes)

    @property
    def build_needs(self) -> Resources:
        """What one build reserves; never more than there is."""
        return Resources(self.build_cpu_millis, self.build_memory_bytes).clamped(self.budget)
