"""Runs a service's migrations, one process at a time. Called by shipoff.common.postgres.migrate through Alembic."""

from __future__ import annotations

import asyncio

import sqlalchemy as sa
from alembic import context
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool


def _run(connection: sa.Connection) -> None:
    context.configure(connection=connection, transaction_per_migration=False)
    with context.begin_transaction():
        # Held until the transaction ends: concurrent upgrades wait here, then find nothing left to do.
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": context.config.attributes["lock"]})
        context.run_migrations()


async def _main() -> None:
    engine = create_async_engine(context.config.attributes["url"], poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(_run)
    await engine.dispose()


asyncio.run(_main())
