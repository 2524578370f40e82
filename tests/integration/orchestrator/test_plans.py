"""What the orchestrator asks of the database does not grow with the past: no plan reads all of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from neighbours.plans import filled, statements_that_read_all, whole_scans

from shipoff.common.postgres import Database
from shipoff.orchestrator.adapters import admission, changes, postgres, putting_back, retention, work

# Enough that a plan which reads everything costs more than one that does not.
SEED = [
    """INSERT INTO deployments (id, project_id, project_name, team_id, environment, number, accepted_at, state, request,
        artifact, artifact_key, trigger, requested_by, queued_limit_s, building_limit_s, provisioning_limit_s)
    SELECT gen_random_uuid(), md5((n % 1000)::text)::uuid, 'p', md5('t')::uuid, 'production', n / 1000 + 1,
        now() - make_interval(secs => 20000 - n), CASE WHEN n / 1000 = 9 THEN 'production' ELSE 'inactive' END, '',
        'a', 'artifacts/' || n, 1, 'ada', 1, 1, 1 FROM generate_series(0, 9999) AS n""",
    """INSERT INTO transitions (deployment_id, version, from_state, to_state, reason, actor)
    SELECT id, step.version, from_state, to_state, '', 'system' FROM deployments, (VALUES (2, 'queued', 'building'),
        (3, 'building', 'provisioning'), (4, 'provisioning', 'production')) AS step (version, from_state, to_state)""",
    """INSERT INTO build_usage (deployment_id, attempt, project_id, succeeded, cpu_millis, memory_bytes, wall_s)
    SELECT id, 1, project_id, true, 100, 1000, 1 FROM deployments""",
    "INSERT INTO reservations SELECT id, 1, 1, true FROM deployments WHERE state = 'production'",
    "INSERT INTO project_numbers SELECT project_id, max(number) FROM deployments GROUP BY project_id",
    "INSERT INTO environments (project_id, environment) SELECT DISTINCT project_id, environment FROM deployments",
    "INSERT INTO inbox SELECT 'orchestrator', id FROM deployments",
]
PAST = ("deployments", "transitions", "reservations", "build_usage", "project_numbers", "environments", "inbox")
MODULES = (postgres, work, changes, admission, putting_back, retention)


@pytest.fixture
async def seeded(database_url_for) -> AsyncIterator[Database]:
    async with Database.open(await database_url_for("orchestrator"), pool_size=1) as database:
        await filled(database, SEED)
        yield database


async def test_no_statement_of_the_orchestrator_reads_the_whole_past(seeded):
    assert await statements_that_read_all(seeded, MODULES, PAST) == {}
    for text in (work.BY_ID, work.PRODUCTION):
        assert await whole_scans(seeded, text, PAST) == []


async def test_the_retention_comes_by_every_environment_a_part_at_a_time(seeded, monkeypatch):
    monkeypatch.setattr(retention, "_AT_ONCE", 150)
    passes, expired = retention.Retention(), []
    # Ten releases in each of a thousand environments, a hundred and fifty at a time, twice each.
    for _ in range(15):
        async with seeded.transaction() as tx:
            found = await passes.expire(tx, 9)
            assert len(found) <= retention.AT_MOST
            expired += found
    assert len({row["id"] for row in expired}) == len(expired) == 1000
    assert all(row["number"] == 1 for row in expired)
