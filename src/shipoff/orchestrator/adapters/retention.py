"""Which kept artifacts are let go: those beyond the newest of their environment. Called by PostgresStore.

A pass looks at so many environments and the next one goes on behind them, so that it costs the same however many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa

from shipoff.common.postgres import Row, Transaction
from shipoff.orchestrator.adapters.rows import COLUMNS

# So many go in one transaction.
AT_MOST = 100
_KEPT = "artifact_key <> '' AND NOT artifact_expired"
_NEXT = f"SELECT project_id, environment FROM deployments WHERE {_KEPT} AND (project_id, environment) >"
# From one environment to the next along the index kept_releases, whatever lies between ("Loose indexscan", PostgreSQL wiki).
PLACES = sa.text(
    f"WITH RECURSIVE places AS ((SELECT project_id, environment, 1 AS n FROM ({_NEXT} (CAST(:project_id AS uuid), :environment)"
    "  ORDER BY project_id, environment LIMIT 1) AS first)"
    f" UNION ALL SELECT beyond.project_id, beyond.environment, n + 1 FROM places, LATERAL ({_NEXT}"
    "   (places.project_id, places.environment) ORDER BY project_id, environment LIMIT 1) AS beyond WHERE n < :places)"
    " SELECT CAST(project_id AS text) AS project_id, environment FROM places ORDER BY n"
)
# An array, so that the rows are fetched by their ids, whatever the planner expects of their number.
EXPIRE = sa.text(
    "UPDATE deployments SET artifact_expired = true WHERE id = ANY(ARRAY(SELECT beyond.id FROM"
    " unnest(CAST(:projects AS uuid[]), CAST(:environments AS text[])) AS place (project_id, environment),"
    " LATERAL (SELECT id, state FROM deployments WHERE deployments.project_id = place.project_id"
    f"  AND deployments.environment = place.environment AND {_KEPT} ORDER BY accepted_at DESC, id DESC OFFSET :keep) AS beyond"
    f" WHERE beyond.state IN ('failed', 'inactive') LIMIT {AT_MOST})) RETURNING {COLUMNS}"
)
_FIRST = ("00000000-0000-0000-0000-000000000000", "")
# A pass a minute comes by each of ten thousand environments within two hours.
_AT_ONCE = 100


@dataclass
class Retention:
    """Where the last pass ended; a new process begins at the start."""

    behind: tuple[str, str] = _FIRST

    async def expire(self, tx: Transaction, keep: int) -> Sequence[Row]:
        """Marks what the next environments hold beyond their newest `keep`; the deployments that lost their artifact.

        Where there were more than `AT_MOST`, the next pass looks at the same environments again.
        """
        after = {"project_id": self.behind[0], "environment": self.behind[1], "places": _AT_ONCE}
        places = [(row["project_id"], row["environment"]) for row in await tx.all(PLACES, after)]
        values = {"projects": [place[0] for place in places], "environments": [place[1] for place in places], "keep": keep}
        expired = await tx.all(EXPIRE, values)
        if len(expired) < AT_MOST:
            tx.after_commit(partial(setattr, self, "behind", places[-1] if len(places) == _AT_ONCE else _FIRST))
        return expired
