"""What the orchestrator can be told."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import psutil
from pydantic import Field

from shipoff.common.config import ServiceSettings, service_config
from shipoff.orchestrator.admission import Terms
from shipoff.orchestrator.domain import Resources


def _cores_millis() -> int:
    return (os.cpu_count() or 1) * 1000


def _most_memory() -> int:
    """Builds and apps may have four fifths of the machine: the rest is the platform's."""
    return int(psutil.virtual_memory().total * 0.8)


class OrchestratorSettings(ServiceSettings):
    """SHIPOFF_ORCHESTRATOR_…"""

    model_config = service_config("orchestrator")

    # What all builds and apps together may hold at one time.
    budget_cpu_millis: int = Field(default_factory=_cores_millis, gt=0)
    budget_memory_bytes: int = Field(default_factory=_most_memory, gt=0)
    # Where apps run; on a cluster they reserve what that has, and the budget above is for builds alone.
    driver: Literal["process", "kubernetes"] = Field(default="process", validation_alias="SHIPOFF_RUNTIME_DRIVER")
    # What all apps together may hold of the cluster; 0: what its nodes have to give, as the runtime tells.
    cluster_cpu_millis: int = Field(default=0, ge=0)
    cluster_memory_bytes: int = Field(default=0, ge=0)
    # What an instance requests there whose project says nothing: the runtime's own settings.
    on_cluster_cpu_millis: int = Field(default=100, ge=1, validation_alias="SHIPOFF_KUBERNETES_CPU_MILLIS")
    on_cluster_memory_bytes: int = Field(default=512 << 20, gt=0, validation_alias="SHIPOFF_RUNTIME_DEFAULT_MEMORY_BYTES")
    # What a build is given until one of its project has been measured; later ones get what was used and a quarter more,
    # between the least and the most. The most: zero is the whole budget.
    build_cpu_millis: int = Field(default=1000, gt=0)
    build_memory_bytes: int = Field(default=2 << 30, gt=0)
    build_least_cpu_millis: int = Field(default=250, gt=0)
    build_least_memory_bytes: int = Field(default=256 << 20, gt=0)
    build_most_memory_bytes: int = Field(default=0, ge=0)
    # What an instance of an app reserves whose project says nothing.
    app_cpu_millis: int = Field(default=100, gt=0)
    app_memory_bytes: int = Field(default=256 << 20, gt=0)
    # Turns of a team for one of the others', by the team's id; one where it is not named.
    team_weights: dict[str, Annotated[int, Field(ge=1, le=100)]] = Field(default_factory=dict)
    # The longest that a deployment may wait, build, and take to become ready, in seconds.
    queue_timeout_s: int = Field(default=24 * 3600, gt=0)
    build_timeout_s: int = Field(default=900, gt=0, le=7200)
    provision_timeout_s: int = Field(default=300, gt=0)
    # The longest that a release command (a Procfile's `release`) may take before that.
    release_timeout_s: int = Field(default=900, gt=0, le=7200)
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
        """The whole budget, as far as it is set."""
        machine = Resources(self.budget_cpu_millis, self.budget_memory_bytes)
        return machine.plus(Resources(self.cluster_cpu_millis, self.cluster_memory_bytes).on_cluster)

    @property
    def asks_for_capacity(self) -> bool:
        """Whether the cluster's part is the runtime's to tell."""
        return self.driver == "kubernetes" and not (self.cluster_cpu_millis and self.cluster_memory_bytes)

    def with_capacity(self, cluster: Resources) -> Resources:
        """The whole budget, with what the cluster has where nothing is set."""
        cpu, memory = self.cluster_cpu_millis or cluster.cpu_millis, self.cluster_memory_bytes or cluster.memory_bytes
        return Resources(self.budget_cpu_millis, self.budget_memory_bytes, cpu, memory)

    @property
    def _instance(self) -> Resources:
        """What an instance reserves whose project says nothing."""
        if self.driver == "kubernetes":
            return Resources(self.on_cluster_cpu_millis, self.on_cluster_memory_bytes)
        return Resources(self.app_cpu_millis, self.app_memory_bytes)

    @property
    def terms(self) -> Terms:
        """How large slots are, and whose turn it is."""
        most = self.build_most_memory_bytes or self.budget_memory_bytes
        return Terms(
            first_build=Resources(self.build_cpu_millis, self.build_memory_bytes).clamped(self.budget),
            least_build=Resources(self.build_least_cpu_millis, self.build_least_memory_bytes).clamped(self.budget),
            most_build=Resources(self.budget_cpu_millis, most).clamped(self.budget),
            instance=self._instance,
            on_cluster=self.driver == "kubernetes",
            weights=self.team_weights,
        )
