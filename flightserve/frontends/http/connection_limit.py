"""The limit on HTTP connections: idle ones are closed for one more, those first that are idle for longest."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Collection
from typing import Final, Protocol

from flightserve.fabric.transport import descriptors

# Of all connections one in so many is closed at a time, so that looking at each of them is seldom.
ROOM_SHARE: Final = 100
# Where descriptors are short: what goes leaves low numbers, and whoever gets those does not see that they are short.
SHORT_SHARE: Final = 8


class HttpConnection(Protocol):
    """What is known of each."""

    transport: asyncio.Transport
    expires: float

    @property
    def idle(self) -> bool: ...


def make_room(newcomer: HttpConnection, connections: Collection[HttpConnection], connections_max: int) -> bool:
    """Whether it can stay: there is room, or idle ones were closed for it. `connections` are all, it among them."""
    if len(connections) > connections_max:
        return _close_idle(newcomer, connections, ROOM_SHARE)
    if descriptors.short(newcomer.transport.get_extra_info("socket").fileno()):
        return _close_idle(newcomer, connections, SHORT_SHARE)
    return True


def _close_idle(newcomer: HttpConnection, connections: Collection[HttpConnection], share: int) -> bool:
    """Close those idle for longest; false where all others are in use."""
    idle = [one for one in connections if one.idle and one is not newcomer and not one.transport.is_closing()]
    for one in heapq.nsmallest(1 + len(connections) // share, idle, key=lambda one: one.expires):
        one.transport.close()
    return bool(idle)
