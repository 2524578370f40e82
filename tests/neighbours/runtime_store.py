"""The runtime's store in memory, for tests of what surrounds it; it remembers every emission in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from shipoff.common.errors import Aborted
from shipoff.runtime.domain import Emission, Instance, Workload
from shipoff.runtime.ports import Stored


@dataclass
class MemoryStore:
    """`ports.Store`."""

    rows: dict[str, Stored] = field(default_factory=dict)
    emissions: list[tuple[str, Emission]] = field(default_factory=list)

    async def insert(self, workload: Workload) -> bool:
        if workload.deployment_id in self.rows:
            return False
        self.rows[workload.deployment_id] = workload, ()
        return True

    async def load(self, deployment_id: str) -> Stored | None:
        return self.rows.get(deployment_id)

    async def save(
        self, workload: Workload, instances: Sequence[Instance] | None = None, *, emissions: Sequence[Emission] = ()
    ) -> Workload:
        stored, before = self.rows[workload.deployment_id]
        if stored.version != workload.version:
            raise Aborted("somebody else was faster")
        saved = replace(workload, version=workload.version + 1)
        self.rows[workload.deployment_id] = saved, before if instances is None else tuple(instances)
        self.emissions += [(workload.deployment_id, one) for one in emissions]
        return saved

    async def unsettled(self) -> Mapping[str, int]:
        return {one: workload.version for one, (workload, _) in self.rows.items() if not workload.settled}

    async def live_ports(self) -> frozenset[int]:
        return frozenset()

    async def forget_settled(self, *, older_than_s: float) -> None:
        pass
