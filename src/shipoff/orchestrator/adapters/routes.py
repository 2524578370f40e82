"""The routes' fences for claimed instructions. Called by PostgresStore and PostgresWork."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import sqlalchemy as sa

from shipoff.common.postgres import Row, Transaction, unnested
from shipoff.orchestrator.records import ROUTING, Held, Record, Route, Task

# In one order: see PostgresWork.
_FENCES = sa.text(
    "INSERT INTO environments (project_id, environment, generation)"
    " SELECT DISTINCT d.project_id, d.environment, 1 FROM deployments d WHERE d.id = ANY(CAST(:ids AS uuid[])) ORDER BY 1, 2"
    " ON CONFLICT (project_id, environment) DO UPDATE SET generation = environments.generation + 1"
    " RETURNING project_id, environment, floor, generation"
)
_SERVING_NUMBERS = sa.text(
    f"SELECT d.project_id, d.environment, d.number FROM {unnested({'project_id': 'uuid', 'environment': 'text'})}"
    " JOIN deployments d ON d.project_id = given.project_id AND d.environment = given.environment AND d.state = 'production'"
)

Routes = Mapping[tuple[str, str], Route]


def routed(tasks: Iterable[Task]) -> list[str]:
    """Whose routes these switch."""
    return [task.deployment_id for task in tasks if task.instruction in ROUTING]


async def taken(tx: Transaction, deployment_ids: Sequence[str]) -> Routes:
    """By the place, for deployments whose route is to be switched: a new fence, and the number of what serves there."""
    if not deployment_ids:
        return {}
    fences = {_place(row): row for row in await tx.all(_FENCES, {"ids": deployment_ids})}
    places = {"project_id": [place[0] for place in fences], "environment": [place[1] for place in fences]}
    numbers = {_place(row): row["number"] for row in await tx.all(_SERVING_NUMBERS, places)}
    return {place: Route(row["floor"], row["generation"], numbers.get(place, 0)) for place, row in fences.items()}


def held(tasks: Sequence[Task], records: Mapping[str, Record], routes: Routes) -> list[Held]:
    """The instructions with what they are about."""
    found = []
    for task in tasks:
        record = records[task.deployment_id]
        place = (record.deployment.project_id, record.deployment.environment)
        found.append(Held(task, record, routes.get(place) if task.instruction in ROUTING else None))
    return found


def _place(row: Row) -> tuple[str, str]:
    return str(row["project_id"]), row["environment"]
