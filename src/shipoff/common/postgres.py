"""PostgreSQL: one database a service, SQLAlchemy Core, migrations under a lock. Used by adapters and composition roots."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from shipoff.common.errors import AlreadyExists, Exhausted, InvalidInput, PreconditionFailed, ShipoffError, Unavailable
from shipoff.common.failpoints import crossing

_POOL_WAIT_S = 5.0
_COMMAND_S = 30.0
# A process that stops in mid-transaction (paused, swapped out, cut off) must not hold its locks for longer. A limit on idle
# transactions is not enough: between the two messages of one statement a transaction counts as active.
_TRANSACTION_MS = 10_000
# Its other transactions may stand in line for the same row: unbounded, each would get the lock in turn and hold it as long.
_LOCK_WAIT_MS = 4000
_SESSION = {
    "application_name": "shipoff",
    "transaction_timeout": str(_TRANSACTION_MS),
    "lock_timeout": str(_LOCK_WAIT_MS),
}
# Alembic keeps the running migration in module globals.
_UPGRADING = threading.Lock()
_MIGRATION_LOCK = 7_305_802_114

Row = sa.RowMapping


def unnested(columns: Mapping[str, str]) -> str:
    """A FROM item: a row of `given` for each element of the arrays that are bound by the names of its columns.

    `columns`: each one's type. The arrays are what `arrays` makes of rows.
    """
    bound = ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in columns.items())
    return f"unnest({bound}) AS given ({', '.join(columns)})"


def arrays(columns: Iterable[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The rows' columns, as parameters of a statement with `unnested`."""
    return {name: [row[name] for row in rows] for name in columns}


def translate(error: Exception) -> ShipoffError | None:
    """The error to raise instead of a driver's; None where it is a defect of ours."""
    if isinstance(error, PoolTimeout):
        return Unavailable("every database connection is in use", retry_after_s=1.0)
    if isinstance(error, IntegrityError):
        unique = getattr(error.orig, "sqlstate", "") == asyncpg.UniqueViolationError.sqlstate
        detail = str(error.orig).splitlines()[0]
        return AlreadyExists(detail) if unique else PreconditionFailed(detail)
    if isinstance(error, DBAPIError):
        state = getattr(error.orig, "sqlstate", "") or ""
        # Class 08: connection, 57P: shutdown, 40: serialization or deadlock, 53: out of resources.
        if error.connection_invalidated or state[:2] in ("08", "40") or state[:3] == "57P":
            return Unavailable(f"the database is away: {error.orig}")
        if state == asyncpg.LockNotAvailableError.sqlstate:
            return Unavailable("another transaction holds what this one needs", retry_after_s=1.0)
        if state == asyncpg.CharacterNotInRepertoireError.sqlstate:
            return InvalidInput("text with a NUL character cannot be stored")
        if state == asyncpg.DiskFullError.sqlstate:
            return Unavailable("the database's disk is full", retry_after_s=10.0, remedy="free some room on it, then try again")
        if state[:2] == "53":
            return Exhausted(f"the database is out of resources: {error.orig}", retry_after_s=5.0)
    if isinstance(error, (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError)):
        return Unavailable(f"the database is away: {error}")
    return None


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except ShipoffError:
        raise
    except Exception as error:
        better = translate(error)
        if better is None:
            raise
        raise better from error


def _writes(statement: sa.Executable) -> bool:
    """Whether the rows that it returns are rows that it changed."""
    return isinstance(statement, sa.TextClause) and statement.text.startswith(("INSERT", "UPDATE", "DELETE"))


class Transaction:
    """One transaction: everything in it happens, or nothing."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection
        self._callbacks: list[Callable[[], None]] = []
        self._wrote = False

    async def execute(
        self, statement: sa.Executable, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    ) -> int:
        """Runs a statement; the number of rows it touched."""
        result = await self.connection.execute(statement, parameters)
        self._wrote = self._wrote or result.rowcount > 0
        return int(result.rowcount)

    async def all(self, statement: sa.Executable, parameters: Mapping[str, Any] | None = None) -> Sequence[Row]:
        """Every row, by column name."""
        result = await self.connection.execute(statement, parameters)
        rows = result.mappings().all()
        self._wrote = self._wrote or (bool(rows) and _writes(statement))
        return rows

    async def one_or_none(self, statement: sa.Executable, parameters: Mapping[str, Any] | None = None) -> Row | None:
        """The only row, or None. Raises when there are more."""
        return (await self.connection.execute(statement, parameters)).mappings().one_or_none()

    async def scalar(self, statement: sa.Executable, parameters: Mapping[str, Any] | None = None) -> Any:
        """The first column of the first row, or None."""
        return await self.connection.scalar(statement, parameters)

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """A part that can fail without the rest: what raises out of the block is undone."""
        kept = len(self._callbacks)
        try:
            async with self.connection.begin_nested():
                yield
        except BaseException:
            del self._callbacks[kept:]
            raise

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Calls back once this transaction is durable; never when it is rolled back."""
        if callback not in self._callbacks:
            self._callbacks.append(callback)

    def crossing(self, point: str) -> None:
        """A failpoint, where there is something to lose. Called by Database only."""
        if self._wrote:
            crossing(point)

    def committed(self) -> None:
        """Runs the callbacks. Called by Database only."""
        for callback in self._callbacks:
            callback()


class Database:
    """A service's own database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._reads = engine.execution_options(isolation_level="AUTOCOMMIT")

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, pool_size: int = 5) -> AsyncIterator[Database]:
        """Connects on first use; closes every connection on leaving."""
        engine = create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=_POOL_WAIT_S,
            pool_pre_ping=False,
            connect_args={"command_timeout": _COMMAND_S, "server_settings": _SESSION},
        )
        try:
            yield cls(engine)
        finally:
            await engine.dispose()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Commits when the block ends, rolls back when it raises.

        Raises Unavailable when the database is away or no connection gets free, AlreadyExists and
        PreconditionFailed for broken constraints.
        """
        async with _translated():
            async with self._engine.begin() as connection:
                transaction = Transaction(connection)
                yield transaction
                transaction.crossing("before commit")
            transaction.crossing("after commit")
            transaction.committed()

    async def all(self, statement: sa.Executable, parameters: Mapping[str, Any] | None = None) -> Sequence[Row]:
        """Reads every row outside any other transaction."""
        async with self._reading() as connection:
            return (await connection.execute(statement, parameters)).mappings().all()

    async def one_or_none(self, statement: sa.Executable, parameters: Mapping[str, Any] | None = None) -> Row | None:
        """Reads the only row, or None."""
        async with self._reading() as connection:
            return (await connection.execute(statement, parameters)).mappings().one_or_none()

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection for one statement, which is a transaction of its own: no BEGIN and COMMIT around it."""
        async with _translated(), self._reads.connect() as connection:
            yield connection


def _upgrade(service: str, url: str) -> None:
    # Imported here: it takes a quarter of a second that nobody else should wait for.
    from alembic import command
    from alembic.config import Config

    package = Path(__file__).resolve().parent.parent / service
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).resolve().parent / "alembic"))
    config.set_main_option("version_locations", str(package / "migrations"))
    config.set_main_option("path_separator", "newline")
    config.attributes["url"] = url
    config.attributes["lock"] = _MIGRATION_LOCK
    with _UPGRADING:
        command.upgrade(config, "head")


async def migrate(service: str, url: str) -> None:
    """Brings a service's database to its newest schema. Safe when several processes do it at once."""
    async with _translated():
        await asyncio.to_thread(_upgrade, service, url)
