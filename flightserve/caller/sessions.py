"""The connections of this process to routers: made as the routing table comes, looked after, ended.

With each router there is a session of two connections: one of the event loop, one that all threads that block share.
When one of the two is lost, or the table no longer names the router, both end; what was in flight there goes to
`orphans`, and what those keep leaves as soon as a router takes it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable

from flightserve.caller.async_uplink import AsyncUplink
from flightserve.caller.destinations import Destinations
from flightserve.caller.lane_connection import LaneConnection
from flightserve.caller.memory import CallerMemory
from flightserve.caller.orphans import Orphans, Owner
from flightserve.caller.uplink import CallerSession, Pending, RequestIds, Uplink
from flightserve.clock import monotonic_ns
from flightserve.config import EdgeLimits
from flightserve.errors import FlightserveError, Unavailable
from flightserve.loops import Every
from flightserve.threads import Loss
from flightserve.wire import frames
from flightserve.wire.table import Peer

log = logging.getLogger(__name__)

# Leases that found no frames to ride back with leave after this long; overdue requests are looked for then.
SWEEP_S = 0.02
# How long after a connection was lost, or was refused, it is tried again; a new table is tried at once.
RECONNECT_S = 0.1


class CallerSessions:
    """See above (`uplink.SessionEvents`). Used on the event loop, where not said otherwise."""

    def __init__(self, destinations: Destinations, memory: CallerMemory, orphans: Orphans, limits: EdgeLimits) -> None:
        self._destinations = destinations
        self._memory = memory
        self._orphans = orphans
        self._limits = limits
        self._request_ids = RequestIds()
        self.stopped = False
        # Requests of pipelines that a router gave back in the middle, by their ids, and who sends them on, on the loop.
        self.between: dict[int, Pending] = {}
        self.on_partway: Callable[[list[tuple[int, int]]], None] = lambda _: None
        # By the router's id.
        self.uplinks: dict[int, AsyncUplink] = {}
        # Those of lanes; some may have hung up.
        self._lane_connections: dict[CallerSession, LaneConnection] = {}
        self.lanes_open = 0
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sweeping: Every | None = None
        # The next try to connect, while something is to be tried again.
        self._retrying: asyncio.TimerHandle | None = None
        memory.pool.on_dropped.append(self._segment_dropped)

    def __repr__(self) -> str:
        return f"<CallerSessions with {len(self.uplinks)} routers, {self.lanes_open} lanes>"

    # ---- life

    def start(self, loop: asyncio.AbstractEventLoop, on_loss: Loss | None = None) -> None:
        """Connect from `loop` as tables come. Any thread."""
        self._loop = loop
        self.connect_soon()
        self._sweeping = Every(loop, SWEEP_S, self._sweep, "looking after requests that nobody answers", on_loss)

    def stop(self) -> None:
        """End all sessions. Any thread but the loop's."""
        self.stopped = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        if self._loop is not None and self._loop.is_running():
            asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(5)

    async def _stop(self) -> None:
        for uplink in list(self.uplinks.values()):
            self._end(uplink.session, "the frontend stops")
        error = Unavailable("the frontend stops")
        self._orphans.fail_all(error)
        while self.between:
            _, pending = self.between.popitem()
            pending.deliver(pending.index, None, error, True)

    def run_soon(self, action: Callable[[], None]) -> None:
        """Run it on the loop, where that turns. Any thread."""
        if self._loop is not None and not self.stopped:
            self._loop.call_soon_threadsafe(action)

    # ---- connecting

    def connect_soon(self) -> None:
        """The routing table changed. Any thread."""
        self.run_soon(self._connect)

    def _connect(self) -> None:
        assert self._loop is not None
        routers = self._destinations.routers
        for gone in [uplink for router_id, uplink in self.uplinks.items() if router_id not in routers]:
            self._end(gone.session, "the router left the routing table")
        for router in routers.values():
            if router.id in self.uplinks or self.stopped:
                continue
            try:
                state = self.open_uplink(router)
                self.uplinks[router.id] = AsyncUplink(state, self._memory, self._loop)
            except FlightserveError as error:
                log.info("router %x cannot be reached: %s", router.id, error.message)
                self._connect_later()
        self.router_ready()

    def _connect_later(self) -> None:
        """Once, however many connections are missing: a try is for all of them, and each of its failures would begin
        another."""
        if self._retrying is None and self._loop is not None:
            self._retrying = self._loop.call_later(RECONNECT_S, self._retry)

    def _retry(self) -> None:
        self._retrying = None
        self._connect()

    def open_uplink(self, router: Peer) -> Uplink:
        """What a first connection to the router begins with."""
        return self._uplink(CallerSession(router, self))

    def _uplink(self, session: CallerSession) -> Uplink:
        return Uplink(session, self._memory, self._limits, self._request_ids)

    def lane_connection(self, router_id: int) -> LaneConnection:
        """The connection that lanes to the router share. Raises Unavailable while the router does not take requests.
        Any thread."""
        uplink = self.uplink_to(router_id)
        if uplink is None:
            raise Unavailable("the router is not connected; try again")
        session = uplink.session
        with self._lock:
            connection = self._lane_connections.get(session)
            if connection is None and not session.ended:
                connection = LaneConnection(self._uplink(session), self._memory, self._limits, self.has_pending)
                self._lane_connections[session] = connection
            if connection is None or connection.channel.closed:
                raise Unavailable("the router was lost; try again")
            return connection

    def count_lanes(self, more: int) -> None:
        """So many lanes were opened, or closed. Any thread."""
        with self._lock:
            self.lanes_open += more

    # ---- what connections tell

    def session_lost(self, session: CallerSession, why: str) -> None:
        """See `SessionEvents`."""
        self.run_soon(lambda: self._end(session, why))

    def requests_moved(self, requests: list[tuple[int, Pending]]) -> None:
        """See `SessionEvents`."""

        def take() -> None:
            self._orphans.take_moved(requests)
            self.router_ready()

        self.run_soon(take)

    def requests_partway(self, requests: list[tuple[int, int]]) -> None:
        """See `SessionEvents`."""
        self.run_soon(lambda: self.on_partway(requests))

    def router_ready(self) -> None:
        """A router takes requests now, or the table changed."""
        self._orphans.forget(self._destinations.entries)
        self._orphans.resubmit(self.owner_of, monotonic_ns())

    def _end(self, session: CallerSession, why: str) -> None:
        """Close what the session has left, and settle what was in flight. Idempotent."""
        if session.ended:
            return
        with self._lock:
            # From here on no lane connects in this session.
            session.ended = True
            lanes = self._lane_connections.pop(session, None)
        log.info("connection to router %x ended: %s", session.router.id, why)
        uplink = self.uplinks.pop(session.router.id)
        uplink.hang_up()
        lost = uplink.state.take_pending()
        if lanes is not None:
            lanes.hang_up()
            lost += lanes.take_pending()
        if self.stopped:
            for _, pending in lost:
                pending.deliver(pending.index, None, Unavailable(why), True)
        else:
            self._orphans.take_lost(session.router.id, lost, monotonic_ns())
        # Whom the router showed them to nobody can say any more: nothing is written into those segments again.
        while session.outstanding:
            self._memory.pool.abandon(*session.outstanding.pop())
        if self._loop is not None and not self.stopped:
            self._connect_later()
            self.router_ready()

    # ---- looking after them

    def _sweep(self) -> None:
        if self.stopped:
            return
        now_ns = monotonic_ns()
        for uplink in list(self.uplinks.values()):
            uplink.sweep(now_ns)
            self._orphans.note_sent(uplink.state.count_sent(), now_ns)
        if self._orphans:
            self._orphans.expire(now_ns)
            self._orphans.resubmit(self.owner_of, now_ns)
        with self._lock:
            connections = list(self._lane_connections.values())
        for connection in connections:
            connection.tend()
            self._orphans.note_sent(connection.state.count_sent(), now_ns)

    def _segment_dropped(self, segment: int) -> None:
        def tell() -> None:
            for uplink in self.uplinks.values():
                uplink.send(frames.SegmentGone(self._memory.pool.owner, segment))

        self.run_soon(tell)

    # ---- who takes requests

    def uplink_to(self, router_id: int) -> AsyncUplink | None:
        """The connection to a router that takes requests now. Any thread."""
        uplink = self.uplinks.get(router_id)
        # Until the router greeted it said of no request that it takes it.
        return uplink if uplink is not None and uplink.session.credits and not uplink.closed else None

    def owner_of(self, deployment: str) -> Owner | None:
        """Who takes requests of the deployment now. Any thread."""
        entry = self._destinations.entries.get(deployment)
        uplink = self.uplink_to(entry.router_id) if entry is not None else None
        return (uplink, entry) if entry is not None and uplink is not None else None

    def reaches(self, deployments: Iterable[str]) -> bool:
        """The routers that own these deployments take requests. Any thread."""
        return all(self.owner_of(name) is not None for name in deployments)

    def in_flight(self) -> int:
        """Requests of the event loop that a router has. Any thread."""
        return sum(len(uplink.state.pending) for uplink in list(self.uplinks.values()))

    def has_pending(self) -> bool:
        """Whether the event loop waits for a router. Any thread."""
        # No generator, which costs two calls more: a thread that waits for a lone reply asks this before each.
        return any([uplink.state.pending for uplink in list(self.uplinks.values())])  # noqa: C419
