"""How PostgreSQL would execute the statements that a service keeps: used by the tests that hold their cost."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from types import ModuleType

import sqlalchemy as sa

from shipoff.common.postgres import Database

_PARAMETER = re.compile(r"(?<![:\w]):(\w+)(?!:)")


async def filled(database: Database, statements: Sequence[str]) -> None:
    """Executes the statements, and lets the planner know what there is."""
    async with database.transaction() as tx:
        for statement in (*statements, "ANALYZE"):
            await tx.execute(sa.text(statement))


def statements_of(*modules: ModuleType) -> Iterator[tuple[str, str]]:
    """Every statement that the modules keep, by name."""
    for module in modules:
        for name, value in vars(module).items():
            if isinstance(value, sa.TextClause):
                yield f"{module.__name__}.{name}", value.text


async def whole_scans(database: Database, text: str, tables: Sequence[str]) -> list[str]:
    """Where the statement's plan, made for unknown values, reads one of these tables from one end to the other."""
    numbered: dict[str, int] = {}
    query = _PARAMETER.sub(lambda found: f"${numbered.setdefault(found[1], len(numbered) + 1)}", text)
    values = f"({', '.join(['NULL'] * len(numbered))})" if numbered else ""
    async with database.transaction() as tx:
        await tx.execute(sa.text("SET LOCAL plan_cache_mode = force_generic_plan"))
        await tx.execute(sa.text(f"PREPARE asked AS {query}"))
        rows = await tx.all(sa.text(f"EXPLAIN EXECUTE asked{values}"))
        await tx.execute(sa.text("DEALLOCATE asked"))
    return re.findall(rf"Seq Scan on (?:{'|'.join(tables)})\b.*", "\n".join(row["QUERY PLAN"] for row in rows))


async def statements_that_read_all(
    database: Database, modules: Sequence[ModuleType], tables: Sequence[str]
) -> dict[str, list[str]]:
    """The modules' statements whose plans read one of the tables as a whole, and where."""
    found = {name: await whole_scans(database, text, tables) for name, text in statements_of(*modules)}
    return {name: scans for name, scans in found.items() if scans}
