"""What a platform holds that has been used for long, for the scale figure: projects that serve, each with past deployments."""

from __future__ import annotations

import asyncpg

from shipoff.contracts.types.v1 import types_pb2

_ARTIFACT = types_pb2.Artifact(
    kind=types_pb2.ARTIFACT_KIND_APP, object_key="artifacts/past", digest="sha256:" + "0" * 64
).SerializeToString()

# As many projects as are wanted, beside those that were made through the API: like the first of these, under other names.
_PROJECTS = """INSERT INTO projects (id, team_id, name, build, run, repository_url, repository_branch, repository_key, data_key,
        configuration_version)
    SELECT gen_random_uuid(), gen_random_uuid(), 'past-' || n, like_it.build, like_it.run, 'https://git.example/past/' || n,
        '', 'git.example/past/' || n, like_it.data_key, 1
    FROM (SELECT * FROM projects LIMIT 1) AS like_it, generate_series(1, $1::int) AS n"""
_PROJECT = [
    "INSERT INTO environments (project_id, name, label) SELECT id, 'production', name FROM projects ON CONFLICT DO NOTHING",
    """INSERT INTO deployment_requests (deployment_id, project_id, environment, request)
    SELECT gen_random_uuid(), id, 'production', convert_to(repeat('x', 400), 'UTF8') FROM projects, generate_series(1, 10)""",
    """INSERT INTO deliveries (provider, delivery_id, event)
    SELECT 'github', gen_random_uuid()::text, 'push' FROM projects, generate_series(1, 10)""",
]
# Ten releases of each, the newest of which serves.
_DEPLOYMENTS = """INSERT INTO deployments (id, project_id, project_name, team_id, environment, number, accepted_at, changed_at,
        state, version, attempt, request, artifact, artifact_key, trigger, requested_by, queued_limit_s, building_limit_s,
        provisioning_limit_s)
    SELECT gen_random_uuid(), project.id, project.name, project.team_id, 'production', n,
        now() - make_interval(hours => 11 - n), now() - make_interval(hours => 11 - n),
        CASE WHEN n = 10 THEN 'production' ELSE 'inactive' END, 5, 1, '', $1::bytea,
        'artifacts/past/' || project.name || n, 2, 'github:bench', 60, 60, 60
    FROM unnest($2::uuid[], $3::text[], $4::uuid[]) AS project (id, name, team_id), generate_series(1, 10) AS n"""
_ORCHESTRATOR = [
    """INSERT INTO transitions (deployment_id, version, from_state, to_state, reason, actor, time)
    SELECT id, step.version, from_state, to_state, '', 'system', changed_at FROM deployments, (VALUES
        (2, 'queued', 'building'), (3, 'building', 'provisioning'), (4, 'provisioning', 'production'),
        (5, 'production', 'inactive')) AS step (version, from_state, to_state)
    WHERE state = 'inactive' OR step.version < 5""",
    "INSERT INTO project_numbers SELECT project_id, max(number) FROM deployments GROUP BY project_id",
    "INSERT INTO environments (project_id, environment) SELECT DISTINCT project_id, environment FROM deployments",
    """INSERT INTO build_usage (deployment_id, attempt, project_id, succeeded, cpu_millis, memory_bytes, wall_s)
    SELECT id, 1, project_id, true, 1, 1, 1 FROM deployments ORDER BY number""",
    "INSERT INTO reservations SELECT id, 1, 1, true FROM deployments WHERE state = 'production'",
    """UPDATE budget SET cpu_millis = cpu_millis + apps.n, memory_bytes = memory_bytes + apps.n, cpu_millis_reserved = apps.n,
        memory_bytes_reserved = apps.n, cpu_millis_lasting = apps.n, memory_bytes_lasting = apps.n
    FROM (SELECT count(*) AS n FROM reservations) AS apps""",
    "INSERT INTO inbox SELECT 'orchestrator', gen_random_uuid() FROM deployments, generate_series(1, 4)",
]


async def fill(project: asyncpg.Connection, orchestrator: asyncpg.Connection, projects: int) -> None:
    """Makes them `projects` in all, each of which serves and has nine releases behind it."""
    there = await project.fetchval("SELECT count(*) FROM projects")
    await project.execute(_PROJECTS, projects - there)
    for statement in _PROJECT:
        await project.execute(statement)
    rows = await project.fetch("SELECT id, name, team_id FROM projects")
    columns = ([row[name] for row in rows] for name in ("id", "name", "team_id"))
    await orchestrator.execute(_DEPLOYMENTS, _ARTIFACT, *columns)
    for statement in _ORCHESTRATOR:
        await orchestrator.execute(statement)
    for connection in (project, orchestrator):
        await connection.execute("VACUUM ANALYZE")
        await connection.execute("CHECKPOINT")
