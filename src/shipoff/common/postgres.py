"""PostgreSQL: one database a service, SQLAlchemy Core, migrations under a lock. Used by adapters and composition roots."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

import asyncpg
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from shipoff.common.errors import (
    AlreadyExists,
    Contended,
    Exhausted,
    InvalidInput,
    PreconditionFailed,
    ShipoffError,
    Unavailable,
)
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
    # Plans for given values are no better here, and making them takes longer than most statements.
    "plan_cache_mode": "force_generic_plan",
}
# Alembic keeps the running migration in module globals.
_UPGRADING = threading.Lock()
_MIGRATION_LOCK = 7_305_802_114

# A row by column name.
Row = Mapping[str, Any]
# As sqlalchemy.text reads it: a name after one colon, not a cast's two.
_PARAMETER = re.compile(r"(?<![:\w\\]):(\w+)(?!:)")


def unnested(columns: Mapping[str, str], *, ordinal: str = "") -> str:
    """A FROM item: a row of `given` for each element of the arrays that are bound by the names of its columns.

    `columns`: each one's type. The arrays are what `arrays` makes of rows. `ordinal`: a column more, with their order.
    """
    bound = ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in columns.items())
    if ordinal:
        return f"unnest({bound}) WITH ORDINALITY AS given ({', '.join([*columns, ordinal])})"
    return f"unnest({bound}) AS given ({', '.join(columns)})"


def arrays(columns: Iterable[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The rows' columns, as parameters of a statement with `unnested`."""
    return {name: [row[name] for row in rows] for name in columns}


@dataclass(frozen=True)
class Part:
    """A statement that changes rows, to be executed together with others that change other rows: see Transaction.together."""

    name: str
    statement: sa.TextClause
    values: Mapping[str, Any]
    # What the answer says of it by its name: an expression over the rows that the statement returns.
    answer: str = ""


def _named(part: str, parameter: re.Match[str]) -> str:
    return f":{part}_{parameter[1]}"


@lru_cache(maxsize=256)
def _together(parts: tuple[tuple[str, str, str], ...]) -> sa.TextClause:
    """One statement of several, each with its name before the names of its parameters."""
    done = [f"{name} AS ({_PARAMETER.sub(partial(_named, name), text)})" for name, text, _ in parts]
    answers = [f"(SELECT {answer} FROM {name}) AS {name}" for name, _, answer in parts if answer]  # noqa: S608 - constants
    return sa.text(f"WITH {', '.join(done)} SELECT {', '.join(answers) or 'NULL'}")


# What the driver says of a connection that broke, however it noticed.
_AWAY = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresConnectionError)


def translate(error: Exception) -> ShipoffError | None:
    """The error to raise instead of a driver's; None where it is a defect of ours."""
    if isinstance(error, PoolTimeout):
        return Unavailable("every database connection is in use", retry_after_s=1.0)
    driver = error.orig if isinstance(error, DBAPIError) else error
    state = getattr(driver, "sqlstate", "") or ""
    # Class 23: a broken constraint, 40: serialization or deadlock, 08: connection, 57P: shutdown, 53: out of resources.
    if state[:2] == "23":
        unique = state == asyncpg.UniqueViolationError.sqlstate
        detail = str(driver).splitlines()[0]
        return AlreadyExists(detail) if unique else PreconditionFailed(detail)
    if state[:2] == "40" or state == asyncpg.LockNotAvailableError.sqlstate:
        return Contended("another transaction holds what this one needs", retry_after_s=1.0)
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    if lost or state[:2] == "08" or state[:3] == "57P":
        return Unavailable(f"the database is away: {driver}")
    if state == asyncpg.CharacterNotInRepertoireError.sqlstate:
        return InvalidInput("text with a NUL character cannot be stored")
    if state == asyncpg.DiskFullError.sqlstate:
        return Unavailable("the database's disk is full", retry_after_s=10.0, remedy="free some room on it, then try again")
    if state[:2] == "53":
        return Exhausted(f"the database is out of resources: {driver}", retry_after_s=5.0)
    # A ValueError is one of the statement's arguments, although the driver counts it among its own errors.
    if isinstance(error, _AWAY) and not isinstance(error, ValueError):
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


@lru_cache(maxsize=1024)
def _numbered(text: str) -> tuple[str, tuple[str, ...]]:
    """A statement with `$1` … for `:name` …, as PostgreSQL's protocol has them, and the names in that order."""
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        if match[1] not in names:
            names.append(match[1])
        return f"${names.index(match[1]) + 1}"

    return _PARAMETER.sub(number, text), tuple(names)


def _touched(status: str) -> int:
    """The number of rows in a command's tag; none of a mere SELECT's."""
    verb, _, count = status.rpartition(" ")
    return int(count) if count.isdigit() and not verb.startswith("SELECT") else 0


class _Session:
    """A connection of the pool's. Text goes straight to the driver, which costs a quarter of the way through SQLAlchemy."""

    def __init__(self, connection: AsyncConnection, driver: asyncpg.Connection) -> None:
        self.connection = connection
        self.driver = driver

    async def all(self, statement: sa.Executable, parameters: Mapping[str, Any] | None) -> Sequence[Row]:
        if not isinstance(statement, sa.TextClause):
            return [dict(row) for row in (await self.connection.execute(statement, parameters)).mappings()]
        query, names = _numbered(statement.text)
        values = parameters or {}
        # The driver's records are no mappings: they are equal to none.
        return [dict(record) for record in await self.driver.fetch(query, *[values[name] for name in names])]

    async def execute(
        self, statement: sa.Executable, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
    ) -> int:
        if not isinstance(statement, sa.TextClause):
            return int((await self.connection.execute(statement, parameters)).rowcount)
        query, names = _numbered(statement.text)
        if isinstance(parameters, Sequence):
            await self.driver.executemany(query, [[values[name] for name in names] for values in parameters])
            return len(parameters)
        values = parameters or {}
        return _touched(await self.driver.execute(query, *[values[name] for name in names]))


def _writes(statement: sa.Executable) -> bool:
    """Whether rows that it returns are rows that it changed."""
    return isinstance(statement, sa.TextClause) and statement.text.lstrip().startswith(("INSERT", "UPDATE", "DELETE"))


def _only(rows: Sequence[Row]) -> Row | None:
    if len(rows) > 1:
        raise LookupError(f"one row was expected, and there are {len(rows)}")
    return rows[0] if rows else None


class Transaction:
    """One transaction: everything in it happens, or nothing."""

    def __init__(self, session: _Session) -> None:
        self.connection = session.connection
        self._session = session
        self._callbacks: list[Callable[[], None]] = []
        self._wrote = False

    async def execute(
        self, statement: sa.Executable, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    ) -> int:
        """Runs a statement; the number of rows it touched. With a sequence: once for each, and their number."""
        touched = await self._session.execute(statement, parameters)
        self._wrote = self._wrote or touched > 0
        return touched

    async def all(self, statement: sa.Executable, parameters: Mapping[str, Any] | None = None) -> Sequence[Row]:
        """Every row, by column name."""
        rows = await self._session.all(statement, parameters)
        self._wrote = self._wrote or (bool(rows) and _writes(statement))
        return rows

    async def one_or_none(self, statement: sa.Executable, parameters: Mapping[str, Any] | None = None) -> Row | None:
        """The only row, or None. Raises when there are more."""
        return _only(await self.all(statement, parameters))

    async def scalar(self, statement: sa.Executable, parameters: Mapping[str, Any] | None = None) -> Any:
        """The first column of the first row, or None."""
        rows = await self.all(statement, parameters)
        return next(iter(rows[0].values())) if rows else None

    async def together(self, parts: Sequence[Part]) -> Row:
        """Executes all of them in one go, none of which sees what another one changes: their answers, by their names.

        It is one round trip where each would be one, which is most of what a small statement costs.
        """
        asked = _together(tuple((part.name, part.statement.text, part.answer) for part in parts))
        values = {f"{part.name}_{name}": value for part in parts for name, value in part.values.items()}
        (row,) = await self._session.all(asked, values)
        self._wrote = True
        return row

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


@asynccontextmanager
async def _engine(url: str, pool_size: int) -> AsyncIterator[AsyncEngine]:
    """A pool of connections, closed on leaving."""
    engine = create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=_POOL_WAIT_S,
        pool_pre_ping=False,
        # Transactions are begun on the driver's connection, so that SQLAlchemy's statements and ours share one.
        isolation_level="AUTOCOMMIT",
        connect_args={"command_timeout": _COMMAND_S, "server_settings": _SESSION},
    )
    try:
        yield engine
    finally:
        await engine.dispose()


class Database:
    """A service's own database."""

    def __init__(self, engine: AsyncEngine, reading: AsyncEngine | None = None) -> None:
        self._engine = engine
        self._reading = reading or engine

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, pool_size: int = 5, read_pool_size: int = 0) -> AsyncIterator[Database]:
        """Connects on first use; closes every connection on leaving.

        With `read_pool_size` what only reads has connections of its own, and never waits for those who write.
        """
        async with _engine(url, pool_size) as engine:
            if not read_pool_size:
                yield cls(engine)
                return
            async with _engine(url, read_pool_size) as reading:
                yield cls(engine, reading)

    @asynccontextmanager
    async def transaction(self, *, reading: bool = False) -> AsyncIterator[Transaction]:
        """Commits when the block ends, rolls back when it raises. `reading`: it writes nothing.

        Raises Unavailable when the database is away or no connection gets free, AlreadyExists and
        PreconditionFailed for broken constraints.
        """
        async with self._session(self._reading if reading else self._engine) as session:
            async with session.driver.transaction():
                transaction = Transaction(session)
                yield transaction
                transaction.crossing("before commit")
            transaction.crossing("after commit")
            transaction.committed()

    async def all(self, statement: sa.Executable, parameters: Mapping[str, Any] | None = None) -> Sequence[Row]:
        """Every row of one statement, which is a transaction of its own: no BEGIN and COMMIT around it."""
        async with self._session(self._reading) as session:
            return await session.all(statement, parameters)

    async def one_or_none(self, statement: sa.Executable, parameters: Mapping[str, Any] | None = None) -> Row | None:
        """The only row of such a statement, or None. Raises when there are more."""
        return _only(await self.all(statement, parameters))

    @staticmethod
    @asynccontextmanager
    async def _session(engine: AsyncEngine) -> AsyncIterator[_Session]:
        async with _translated(), engine.connect() as connection:
            driver = await _driver_of(connection)
            try:
                yield _Session(connection, driver)
            except (asyncio.CancelledError, asyncpg.InternalClientError):
                # In the middle of a statement: where its protocol stands is not known.
                await connection.invalidate()
                raise
            finally:
                if driver.is_closed():
                    await connection.invalidate()


async def _driver_of(connection: AsyncConnection) -> asyncpg.Connection:
    """The driver's own connection; a new one where the server has closed what the pool kept."""
    driver = (await connection.get_raw_connection()).driver_connection
    if driver is not None and driver.is_closed():
        await connection.invalidate()
        driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None  # the pool's connections have one
    return cast(asyncpg.Connection, driver)


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
