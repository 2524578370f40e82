"""Connections that open together, and routes that leave the loop to others."""

from __future__ import annotations

import asyncio
import inspect
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from shipoff.gateway import routes
from shipoff.gateway.opening import Opening


class Connection:
    def __init__(self, number: int, begun: list[list[int]]) -> None:
        self.number, self._begun = number, begun

    def begin(self, data: bytes) -> None:
        assert data == b"GET"
        self._begun[-1].append(self.number)


async def test_a_few_of_many_connections_are_read_in_a_turn_and_the_newest_do_not_wait_for_the_oldest() -> None:
    opening, turns = Opening(), [[]]
    for number in range(10):
        opening.add(Connection(number, turns), b"GET")  # type: ignore[arg-type]  # all that it is asked for
    assert turns == [[]]

    while len(turns) < 4:
        await one_turn()
        turns.append([])
    assert turns == [[0, 9, 1, 8], [2, 7, 3, 6], [4, 5], []]

    opening.add(Connection(10, turns), b"GET")  # type: ignore[arg-type]
    await one_turn()
    assert turns[-1] == [10]


async def one_turn() -> None:
    await asyncio.sleep(0)


def dependencies(dependant: Any) -> Iterator[Any]:
    for one in dependant.dependencies:
        yield one.call
        yield from dependencies(one)


def is_asynchronous(call: Any) -> bool:
    function = call if inspect.isroutine(call) else type(call).__call__
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def test_neither_a_route_nor_what_it_depends_on_runs_in_a_thread() -> None:
    """FastAPI gives what is not asynchronous to a thread: in a busy process the way there and back is most of an answer."""
    modules = [import_module(f"{routes.__name__}.{module.name}") for module in pkgutil.iter_modules(routes.__path__)]
    found = [route for module in modules if hasattr(module, "router") for route in module.router.routes]
    assert len(found) > 40
    for route in found:
        for call in (route.endpoint, *dependencies(route.dependant)):
            assert is_asynchronous(call), (route.path, call)
