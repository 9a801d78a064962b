"""A replica as a caller: its own client of the data plane, for the calls that its methods make onwards.

To the routers it is one more process that submits requests, with an id, a segment pool and connections of its own.
Its event loop is not the one that `async def` methods run on: those may keep theirs busy, and a router takes a
caller that answers no heartbeats for dead.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

from flightserve import threads
from flightserve.caller.client import RouterClient
from flightserve.config import FabricLimits
from flightserve.contracts.access import OPEN, Access
from flightserve.replica.origins import Origins
from flightserve.replica.remote import Remote
from flightserve.wire.table import RoutingTable

STOP_TIMEOUT_S = 5.0


class Onward:
    """The way from a replica to the deployments that it calls, by their names."""

    def __init__(self, peer_id: int, limits: FabricLimits, callees: Sequence[str], access: Access = OPEN) -> None:
        """`access` says what those for whom methods call may."""
        self._access = access
        self.client = RouterClient(peer_id, limits)
        self.origins = Origins()
        self._callees = callees
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self._stopping = False

    def remote(self, name: str) -> Remote:
        """What methods call a deployment by. Calls can be made once the replica is ready."""
        return Remote(name, self.client, self._loop, self.origins, self._access)

    def start(self) -> None:
        """Connect as tables come."""
        self._thread = threads.start("onward", self._loop.run_forever, lambda: self._stopping)
        self.client.start(self._loop)

    def apply_table(self, table: RoutingTable) -> None:
        """Follow the deployments to the routers that own them. Any thread."""
        self.client.apply_table(table)

    def ready(self) -> bool:
        """The routers of all deployments that are called are connected. Whether those have replicas is theirs to
        say: a request waits for one in its router's queue."""
        return self.client.reaches(self._callees)

    def statistics(self) -> dict[str, float]:
        """The client's counts."""
        return self.client.statistics()

    def stop(self) -> None:
        """Close all connections; calls in flight end with Unavailable."""
        self.client.stop()
        self._stopping = True
        self._loop.call_soon_threadsafe(self._end)
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT_S)
        if not self._loop.is_running():
            self._loop.close()

    def _end(self) -> None:
        """Let go of calls that still run, which would be let go of when nothing runs any more."""
        calls = asyncio.all_tasks(self._loop)
        for call in calls:
            call.cancel()
        if calls:
            asyncio.gather(*calls, return_exceptions=True).add_done_callback(lambda _: self._loop.stop())
        else:
            self._loop.stop()
