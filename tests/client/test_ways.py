"""The way that a client's calls go: none is left of a client that is closed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flightserve.client.aio import AsyncWays
from flightserve.client.blocking import Ways


class Found:
    lost = False

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class FoundAsync(Found):
    async def close(self) -> None:  # type: ignore[override]
        self.closed += 1


def test_a_client_that_is_closed_while_its_way_is_found() -> None:
    way: Any = Found()

    def find() -> Any:
        ways.close()
        return way

    ways = Ways(find)
    with pytest.raises(RuntimeError, match="the client is closed"):
        ways.current()
    assert way.closed == 1


def test_a_client_of_coroutines_that_is_closed_while_its_way_is_found() -> None:
    way: Any = FoundAsync()

    async def find() -> Any:
        await ways.close()
        return way

    ways = AsyncWays(find)

    async def current() -> None:
        with pytest.raises(RuntimeError, match="the client is closed"):
            await ways.current()

    asyncio.run(current())
    assert way.closed == 1
