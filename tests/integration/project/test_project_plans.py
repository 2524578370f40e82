"""What a delivery and a request cost does not grow with the projects and what they asked for before."""

from __future__ import annotations

from neighbours.plans import filled, statements_that_read_all

from shipoff.common.postgres import Database
from shipoff.project.adapters import postgres

SEED = [
    """INSERT INTO projects (id, team_id, name, build, run, repository_url, repository_key, data_key, configuration_version)
    SELECT md5(n::text)::uuid, md5((n % 500)::text)::uuid, 'p-' || n, '{}', '{}', 'https://git.example/' || n,
        CASE WHEN n % 2 = 0 THEN 'git.example/' || n ELSE '' END, '', 1 FROM generate_series(1, 5000) AS n""",
    "INSERT INTO environments (project_id, name, label) SELECT id, 'production', name FROM projects",
    "INSERT INTO variables SELECT id, 'production', 'KEY', 1, '', 'ada' FROM projects",
    "INSERT INTO sources SELECT id, 'sha256:' || repeat('0', 64), 'key', 1 FROM projects",
    """INSERT INTO deployment_requests (deployment_id, project_id, environment, idempotency_key, request)
    SELECT gen_random_uuid(), id, 'production', n::text, '' FROM projects, generate_series(1, 2) AS n""",
    "INSERT INTO deliveries (provider, delivery_id, event) SELECT 'github', n::text, 'push' FROM generate_series(1, 9000) AS n",
    "INSERT INTO pushes SELECT id, 'production', 'main', now(), '', '' FROM projects",
]
GROWING = ("projects", "environments", "variables", "sources", "deployment_requests", "deliveries", "pushes")


async def test_no_statement_of_project_reads_all_there_is(database_url_for):
    async with Database.open(await database_url_for("project"), pool_size=1) as database:
        await filled(database, SEED)
        found = await statements_that_read_all(database, [postgres], GROWING)
    # An hourly sweep, whose few rows the planner does not foresee.
    found.pop("shipoff.project.adapters.postgres._TAKE_STALE", None)
    assert found == {}
