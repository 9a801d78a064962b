"""Which children on other nodes live. The kernel says nothing of them; Ray says when one is gone, a node's death much
later; and each has a connection, by way of its node's carrier."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Container
from typing import Final

from flightserve.control.nodes import carrier_of
from flightserve.control.ray_calls import RayCalls
from flightserve.control.roster import UNSAID, Record, Roster

log = logging.getLogger("flightserve.control.far_children")

# How long after Ray could not reach a child that lives it is asked again.
WATCH_AGAIN_S: Final = 1.0
# How long a child may be without a connection, and where it has no carrier, or one that is well.
CUT_OFF_S: Final = 1.0
CARRIED_AGAIN_S: Final = 12.0

# Has the second called, from another thread, when Ray says that the actor is gone (true), or that it cannot reach it.
WatchActor = Callable[[str, Callable[[str, bool], None]], None]


class FarChildren:
    """See above. On the event loop."""

    def __init__(
        self,
        roster: Roster,
        connected: Container[int],
        ray_calls: RayCalls,
        watch: WatchActor,
        exited: Callable[[Record], None],
        end: Callable[[Record], None],
    ) -> None:
        """`connected` are the ids of those that have a connection. `exited` is told of one that is gone, and `end` has
        Ray end one."""
        self._roster = roster
        self._connected = connected
        self._ray_calls = ray_calls
        self._watch = watch
        self._exited = exited
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._watched: set[int] = set()

    def __repr__(self) -> str:
        return f"<FarChildren: {len(self._watched)} are watched>"

    def watch(self, record: Record) -> None:
        """It has announced itself."""
        if record.peer_id in self._watched:
            return
        self._watched.add(record.peer_id)

        def told(message: str, gone: bool) -> None:
            self._loop.call_soon_threadsafe(self._told, record, message, gone)

        self._ray_calls.submit(lambda: self._watch(record.actor, told))

    def _told(self, record: Record, message: str, gone: bool) -> None:
        """Where Ray only cannot reach it, and it has a connection here, it lives: watch on. One that comes back after
        it was given up is one too many, and is drained."""
        self._watched.discard(record.peer_id)
        if not gone and record.peer_id in self._connected:
            self._loop.call_later(WATCH_AGAIN_S, self.watch, record)
            return
        self._give_up(record, message)

    def disconnected(self, record: Record) -> None:
        """Its connection ended. It makes another, unless its node is gone, or its network."""
        self._loop.call_later(CUT_OFF_S, self._judge, record, CARRIED_AGAIN_S)

    def _judge(self, record: Record, patience_s: float) -> None:
        if record.peer_id in self._connected:
            return
        # Where a carrier died, the others wait for the next one.
        cut_off = self._carried(self._roster.node) and self._carried(record.node) is False
        if not cut_off and patience_s > 0:
            self._loop.call_later(CUT_OFF_S, self._judge, record, patience_s - CUT_OFF_S)
            return
        self._give_up(record, f"its node {record.node[:8]} cannot be reached")

    def _carried(self, node: str) -> bool | None:
        """Whether the node's carrier is connected; None where it has none, because that died."""
        found = carrier_of(self._roster.records.values(), node)
        return found.peer_id in self._connected if found is not None else None

    def _give_up(self, record: Record, why: str) -> None:
        if self._roster.records.get(record.peer_id) is not record:
            return
        if record.last_words == UNSAID:
            record.last_words = why
        # Where it lives after all, nobody wants it any more.
        self._end(record)
        self._exited(record)
