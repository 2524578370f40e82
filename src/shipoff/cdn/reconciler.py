"""The periodic work: the edge serves what the table says, folders are there, expired ones are gone."""

from __future__ import annotations

from shipoff.cdn import handlers
from shipoff.cdn.handlers import Switchboard
from shipoff.cdn.ports import Releases, Table


class Reconciler:
    """The loops' bodies."""

    def __init__(self, table: Table, releases: Releases, switchboard: Switchboard) -> None:
        self._table = table
        self._releases = releases
        self._switchboard = switchboard

    async def begin(self) -> None:
        """Releases that routes point at, then the routes. Raises Unavailable when the edge or the table is away."""
        await handlers.restore(self._table, self._releases)
        await self._switchboard.settle()

    async def watch(self) -> None:
        """Loads the routes again as soon as Caddy came back without them."""
        await self._switchboard.mend()

    async def reconcile(self) -> None:
        """Everything, whatever it should have been told."""
        await self._switchboard.settle()
        await handlers.restore(self._table, self._releases)
        await handlers.sweep(self._table, self._releases)
