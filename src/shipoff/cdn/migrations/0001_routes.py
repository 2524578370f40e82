"""The routing table and the register of releases."""

from alembic import op

from shipoff.common.outbox import INBOX_DDL

revision = "0001"
down_revision = None

_STATEMENTS = [
    """CREATE TABLE routes (
        project_id uuid NOT NULL,
        environment text NOT NULL,
        -- Null: taken off the edge; the fence stays, so that nothing stale comes back.
        deployment_id uuid,
        fence bigint NOT NULL,
        target jsonb,
        changed_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (project_id, environment),
        CHECK ((deployment_id IS NULL) = (target IS NULL))
    )""",
    "CREATE INDEX routes_deployment ON routes (deployment_id)",
    """CREATE TABLE hosts (
        host text PRIMARY KEY,
        project_id uuid NOT NULL,
        environment text NOT NULL,
        FOREIGN KEY (project_id, environment) REFERENCES routes
    )""",
    "CREATE INDEX hosts_route ON hosts (project_id, environment)",
    """CREATE TABLE releases (
        deployment_id uuid PRIMARY KEY,
        object_key text NOT NULL,
        digest text NOT NULL,
        published_at timestamptz NOT NULL DEFAULT now(),
        expired_at timestamptz
    )""",
    "CREATE INDEX releases_expired ON releases (expired_at) WHERE expired_at IS NOT NULL",
]


def upgrade() -> None:
    """Makes the first tables."""
    for statement in [*_STATEMENTS, *INBOX_DDL]:
        op.execute(statement)
