"""The caller's side of the data plane: what frontends hold instead of routers and sockets.

`RouterClient` implements `contracts.service.Service` over two connections to each router: one of the event loop, one
that all threads that block share. It follows the routing table: which router owns a deployment, where
that router listens. When one of the two connections is lost, or the table no longer names the router, both end; the
event loop settles what was in flight there (`orphans`).
"""

from __future__ import annotations

import asyncio
import collections
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import pyarrow as pa

from flightserve.caller.async_uplink import AsyncUplink
from flightserve.caller.calls import RoutedCall, WaitingParts
from flightserve.caller.grouping import Grouping
from flightserve.caller.lane import BlockingLane, LaneConnection, Submission
from flightserve.caller.orphans import Orphans, Owner
from flightserve.caller.uplink import Deliver, MemoryFull, Pending, RequestIds, RouterSession, Sent, Uplink
from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.config import EdgeLimits, FabricLimits
from flightserve.contracts.service import Lane, PartCallback, Passed, Payload
from flightserve.errors import (
    Cancelled,
    FlightserveError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from flightserve.fabric.memory.segments import SegmentMap, SegmentPool
from flightserve.loops import Every
from flightserve.types import DeploymentSpec, MethodSpec, RequestMeta
from flightserve.wire import frames
from flightserve.wire.table import Entry, Peer, RoutingTable

log = logging.getLogger(__name__)

# Leases that found no frames to ride back with leave after this long; overdue requests are looked for then.
SWEEP_S = 0.02
# How long after a connection was lost, or was refused, it is tried again; a new table is tried at once.
RECONNECT_S = 0.1


class Route(NamedTuple):
    """Where requests for a method go: all of one routing table. `key` is the deployment's, with its version; `where`
    is the method's full name, for messages."""

    entry: Entry
    method: MethodSpec
    key: str
    deployment: str
    where: str


def _routes_of(entries: Iterable[Entry]) -> dict[tuple[str, str], Route]:
    return {
        (spec.name, method.name): Route(entry, method, spec.key, spec.name, f"{spec.name}.{method.name}")
        for entry in entries
        for spec in (entry.spec,)
        for method in spec.methods
    }


def _give_up_nothing(index: int) -> None:
    """Of requests that ended at once none is left to give up."""


class RouterClient:
    """The tiers behind a frontend (`contracts.service.Service`)."""

    def __init__(self, peer_id: int, limits: FabricLimits, edge: EdgeLimits | None = None) -> None:
        self.peer_id = peer_id
        self.fabric = limits
        self.limits = edge or EdgeLimits()
        self.pool = SegmentPool(peer_id, limits)
        self.mapped = SegmentMap(limits)
        self._table = RoutingTable(0)
        self._entries: dict[str, Entry] = {}
        self._routes: dict[tuple[str, str], Route] = {}
        self._routers: dict[int, Peer] = {}
        self._uplinks: dict[int, AsyncUplink] = {}
        # Those of lanes, by session; some may have hung up.
        self._lane_connections: dict[RouterSession, LaneConnection] = {}
        self._request_ids = RequestIds()
        # Requests from nowhere are staged here; none is ever in flight.
        self._unsent = self.bookkeeping(RouterSession(Peer(0, "router", "", "", "")))
        self._unsent.session.credits = limits.requests_per_connection_max
        self._orphans = Orphans(self.pool, self._owner_of, limits.requests_per_connection_max)
        self.grouping = Grouping(self, self.limits)
        self._lock = threading.Lock()
        self._room: collections.deque[asyncio.Future[None]] = collections.deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sweeping: Every | None = None
        self._open_lanes = 0
        self._draining = False
        self._stopped = False
        self.pool.on_freed.append(self._wake_waiting)
        self.pool.on_dropped.append(self._segment_dropped)

    # ---- life

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Connect from `loop` as tables come. Any thread."""
        self._loop = loop
        loop.call_soon_threadsafe(self._connect)
        self._sweeping = Every(loop, SWEEP_S, self._sweep, "looking after requests that nobody answers")

    def apply_table(self, table: RoutingTable) -> None:
        """Take over a newer routing table. Any thread."""
        with self._lock:
            if table.version <= self._table.version:
                return
            self._table = table
            self._entries = {entry.spec.name: entry for entry in table.deployments}
            self._routes = _routes_of(table.deployments)
            self._routers = {peer.id: peer for peer in table.peers if peer.tier == "router"}
        if self._loop is not None and not self._stopped:
            self._loop.call_soon_threadsafe(self._connect)

    def drain(self, timeout_s: float) -> bool:
        """Not ready from now on; True once nothing is in flight. Blocks; not for the event loop."""
        self._draining = True
        waited = threading.Event()
        deadline_ns = monotonic_ns() + int(timeout_s * NS_PER_S)
        while self.in_flight() and monotonic_ns() < deadline_ns:
            waited.wait(0.02)
        return not self.in_flight()

    def stop(self) -> None:
        """Close all connections. Any thread but the loop's."""
        self._stopped = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        if self._loop is not None and self._loop.is_running():
            asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(5)
        self.pool.close()
        self.mapped.close()

    async def _stop(self) -> None:
        for uplink in list(self._uplinks.values()):
            self.end_session(uplink.session, "the frontend stops")
        self._orphans.fail_all(Unavailable("the frontend stops"))

    # ---- routers

    def _connect(self) -> None:
        assert self._loop is not None
        for gone in [u for i, u in self._uplinks.items() if i not in self._routers]:
            self.end_session(gone.session, "the router left the routing table")
        for router in self._routers.values():
            if router.id in self._uplinks or self._stopped:
                continue
            try:
                self._uplinks[router.id] = AsyncUplink(self, RouterSession(router), self._loop)
            except FlightserveError as error:
                log.info("router %x cannot be reached: %s", router.id, error.message)
                self._loop.call_later(RECONNECT_S, self._connect)
        self.router_ready()

    def bookkeeping(self, session: RouterSession) -> Uplink:
        """For a new connection of the session."""
        return Uplink(self.pool, self.mapped, self.limits, session, self._request_ids, self._moved)

    def router_ready(self) -> None:
        """A router takes requests now, or the table changed. On the loop."""
        self._orphans.forget(self._entries)
        self._orphans.resubmit(monotonic_ns())

    def _moved(self, requests: list[tuple[int, Pending]]) -> None:
        """A router gave requests back. Any thread."""

        def take() -> None:
            self._orphans.take_moved(requests)
            self.router_ready()

        self._on_loop(take)

    def session_lost(self, session: RouterSession, why: str) -> None:
        """A connection of the session is lost. Any thread."""
        self._on_loop(lambda: self.end_session(session, why))

    def end_session(self, session: RouterSession, why: str) -> None:
        """Close what the session has left, and settle what was in flight. On the loop. Idempotent."""
        if session.ended:
            return
        with self._lock:
            # From here on no lane connects in this session.
            session.ended = True
            lanes = self._lane_connections.pop(session, None)
        log.info("connection to router %x ended: %s", session.router.id, why)
        uplink = self._uplinks.pop(session.router.id)
        uplink.hang_up()
        lost = uplink.state.take_pending()
        if lanes is not None:
            lanes.hang_up()
            lost += lanes.take_pending()
        if self._stopped:
            for _, pending in lost:
                pending.deliver(pending.index, None, Unavailable(why), True)
        else:
            self._orphans.take_lost(session.router.id, lost, monotonic_ns())
        # Whom the router showed them to nobody can say any more: nothing is written into those segments again.
        while session.outstanding:
            self.pool.abandon(*session.outstanding.pop())
        if self._loop is not None and not self._stopped:
            self._loop.call_later(RECONNECT_S, self._connect)
            self.router_ready()

    def _on_loop(self, action: Callable[[], None]) -> None:
        if self._loop is not None and not self._stopped:
            self._loop.call_soon_threadsafe(action)

    def _sweep(self) -> None:
        if self._stopped:
            return
        now_ns = monotonic_ns()
        for uplink in list(self._uplinks.values()):
            uplink.sweep(now_ns)
            self._orphans.were_sent(uplink.state.count_sent(), now_ns)
        if self._orphans:
            self._orphans.expire(now_ns)
            self._orphans.resubmit(now_ns)
        self._tend_lanes(now_ns)

    # ---- what is deployed

    def deployments(self) -> Sequence[DeploymentSpec]:
        """What the routing table names."""
        return [entry.spec for entry in self._entries.values()]

    def method(self, deployment: str, method: str) -> tuple[DeploymentSpec, MethodSpec]:
        """Specs of a method. Raises NotFound, naming what there is, and Unavailable before that is known."""
        route = self.route(deployment, method)
        return route.entry.spec, route.method

    def route(self, deployment: str, method: str) -> Route:
        """Where requests for a method go now. Raises as `method` does."""
        found = self._routes.get((deployment, method))
        if found is None:
            if not self._table.version:
                raise Unavailable("the frontend has just started and knows no deployments yet; try again")
            entry = self._entries.get(deployment)
            if entry is None:
                known = ", ".join(sorted(self._entries)) or "none"
                raise NotFound(f"no deployment {deployment[:128]!r}; deployed: {known}")
            names = ", ".join(sorted(m.name for m in entry.spec.methods))
            raise NotFound(f"{deployment} has no method {method[:128]!r}; it has: {names}")
        return found

    def ready(self) -> bool:
        """Every deployment has a replica that answers, its router is connected, nothing drains."""
        table = self._table
        return (
            bool(table.version)
            and not (self._draining or table.draining)
            and all(entry.ready > 0 for entry in table.deployments)
            and self.reaches(self._entries)
        )

    def reaches(self, deployments: Iterable[str]) -> bool:
        """The routers that own these deployments take requests."""
        return all(self._owner_of(name) is not None for name in deployments)

    def _owner_of(self, deployment: str) -> Owner | None:
        entry = self._entries.get(deployment)
        uplink = self._uplink_of(entry) if entry is not None else None
        return (uplink, entry) if entry is not None and uplink is not None else None

    def _uplink_of(self, entry: Entry) -> AsyncUplink | None:
        uplink = self._uplinks.get(entry.router_id)
        return uplink if uplink is not None and uplink.ready else None

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """The other tiers' statistics, as the supervisor published them last."""
        return self._table.metrics

    # ---- calls

    def call(self, deployment: str, method: str, payload: Payload, meta: RequestMeta) -> RoutedCall:
        """Start one request (`Service.call`)."""
        return RoutedCall(self, deployment, method, payload, meta)

    def submit(
        self,
        target: tuple[str, str],
        payload: Payload,
        parts: Sequence[tuple[int, RequestMeta]],
        deliver: Deliver,
        trusted: bool = False,
        first_index: int = 0,
    ) -> int:
        """Stage requests whose rows lie one after another in the payload, and send them, or keep them until there is
        a router to send them to. Each part is (rows, meta); the rows of a lone one are those of the payload. Returns
        the id of the first, which those of the others follow. On the loop. Raises MemoryFull, and what `stage` raises.
        """
        route = self.route(*target)
        spec, epoch = route.method, route.entry.epoch
        uplink = self._uplink_of(route.entry)
        if uplink is None:
            return self._keep(target, spec, payload, parts, deliver, trusted, first_index)
        state = uplink.state
        region, rows = state.stage(payload, spec, route.where, trusted, len(parts))
        if len(parts) == 1:
            parts = [(rows, parts[0][1])]
        passed = payload if isinstance(payload, Passed) and region is payload.region else None
        sent = Sent(route.deployment, spec, region, epoch, passed)
        wire_parts = state.register(sent, parts, deliver, first_index)
        uplink.send(sent.submit(route.key, wire_parts), region if passed is None else None)
        return wire_parts[0].request_id

    def flush(self) -> None:
        """Send what is queued for all routers. On the loop."""
        for uplink in list(self._uplinks.values()):
            uplink.flush()

    def _keep(
        self,
        target: tuple[str, str],
        spec: MethodSpec,
        payload: Payload,
        parts: Sequence[tuple[int, RequestMeta]],
        deliver: Deliver,
        trusted: bool,
        first_index: int,
    ) -> int:
        if self._stopped:
            raise Unavailable("the frontend stops")
        state = self._unsent
        self._orphans.check_room(len(parts))
        region, rows = state.stage(payload, spec, ".".join(target), trusted)
        state.session.outstanding.discard((region.segment, region.offset))
        if len(parts) == 1:
            parts = [(rows, parts[0][1])]
        wire_parts = state.register(Sent(target[0], spec, region, 0), parts, deliver, first_index)
        state.answered = state.registered
        self._orphans.take_new(sorted(state.take_pending()))
        return wire_parts[0].request_id

    def give_up(self, request_id: int) -> None:
        """Its caller does not want the outcome: nothing is delivered any more. On the loop."""
        for uplink in self._uplinks.values():
            if uplink.state.pending.pop(request_id, None) is not None:
                uplink.send(frames.Cancel([request_id]))
                return
        if request_id in self._orphans:
            self._orphans.drop(request_id)

    def tell(self, request_id: int, frame: frames.Taken | frames.Cancel) -> None:
        """Tell the router that has the request; where none has it, and it shall be cancelled, it is. On the loop."""
        for uplink in self._uplinks.values():
            if request_id in uplink.state.pending:
                uplink.send(frame)
                return
        if request_id in self._orphans and isinstance(frame, frames.Cancel):
            self._orphans.fail([request_id], Cancelled("the caller gave up"))

    def call_parts(
        self,
        deployment: str,
        method: str,
        batch: pa.RecordBatch | Passed,
        parts: Sequence[tuple[int, RequestMeta]],
        done: PartCallback,
    ) -> Callable[[int], None]:
        """Start a group of requests in one region (`Service.call_parts`)."""
        target = (deployment, method)
        try:
            first_id = self.submit(target, batch, parts, done, trusted=True)
        except MemoryFull as full:
            return WaitingParts(self, target, batch, parts, done, full.nbytes).give_up
        except FlightserveError as error:
            for index in range(len(parts)):
                done(index, None, error, True)
            return _give_up_nothing
        return lambda index: self.give_up(first_id + index)

    def open_lane(self) -> Lane:
        """A lane for a thread that blocks. Any thread."""
        with self._lock:
            self._open_lanes += 1
        return BlockingLane(self)

    # ---- lanes' connections

    def lane_connection(self, router_id: int) -> LaneConnection:
        """The connection that lanes to the router share. Raises Unavailable while the router does not take requests.
        Any thread."""
        uplink = self._uplinks.get(router_id)
        if uplink is None or not uplink.ready:
            raise Unavailable("the router is not connected; try again")
        session = uplink.session
        with self._lock:
            connection = self._lane_connections.get(session)
            if connection is None and not session.ended:
                connection = self._lane_connections[session] = LaneConnection(self, session)
            if connection is None or connection.channel.closed:
                raise Unavailable("the router was lost; try again")
            return connection

    def submit_late(self, submission: Submission) -> None:
        """Submit a lane's request from the loop, which also keeps those that no router takes now. Any thread."""
        lane, trusted = submission.lane, bool(submission.parts)

        def submit() -> None:
            target = (submission.route.deployment, submission.route.method.name)
            try:
                request_id = self.submit(
                    target, submission.payload, submission.requests, lane.deliver, trusted, submission.key
                )
            except MemoryFull as full:
                lane.defer(submission, full.nbytes)
            except FlightserveError as error:
                submission.fail(error)
            else:
                submission.sent(request_id)

        if self._stopped:
            submission.fail(Unavailable("the frontend stops"))
        else:
            self._on_loop(submit)

    def tell_late(self, request_id: int, frame: frames.Taken | frames.Cancel) -> None:
        """As `tell`, for a lane whose own connection does not have the request. Any thread."""
        if request_id in self._orphans or any(request_id in u.state.pending for u in list(self._uplinks.values())):
            self._on_loop(lambda: self.tell(request_id, frame))

    def lane_closed(self) -> None:
        """A lane ended. Any thread."""
        with self._lock:
            self._open_lanes -= 1

    def _tend_lanes(self, now_ns: int) -> None:
        with self._lock:
            connections = list(self._lane_connections.values())
        for connection in connections:
            connection.tend()
            self._orphans.were_sent(connection.state.count_sent(), now_ns)

    # ---- memory

    async def room(self, nbytes: int, deadline_ns: int) -> None:
        """Wait until some region came free. Raises ResourceExhausted when the deadline passes first, or at
        once when that many bytes can never be free."""
        assert self._loop is not None
        if nbytes > self.fabric.memory_bytes_max:
            raise ResourceExhausted(f"{nbytes} bytes do not fit into {self.fabric.memory_bytes_max} of shared memory")
        freed = self._loop.create_future()
        self._room.append(freed)
        try:
            timeout_s = max(0.0, (deadline_ns - monotonic_ns()) / NS_PER_S)
            await asyncio.wait_for(freed, min(timeout_s, threading.TIMEOUT_MAX))
        except TimeoutError as error:
            raise ResourceExhausted("shared memory stayed full until the deadline; retry later") from error

    def _wake_waiting(self) -> None:
        if self._room and self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake_on_loop)

    def _wake_on_loop(self) -> None:
        while self._room:
            waiting = self._room.popleft()
            if not waiting.done():
                waiting.set_result(None)

    def _segment_dropped(self, segment: int) -> None:
        if self._loop is not None and not self._stopped:
            self._loop.call_soon_threadsafe(self._tell_dropped, segment)

    def _tell_dropped(self, segment: int) -> None:
        for uplink in self._uplinks.values():
            uplink.send(frames.SegmentGone(self.peer_id, segment))

    # ---- counts

    def in_flight(self) -> int:
        """Requests of the event loop that have no outcome yet."""
        return sum(len(uplink.state.pending) for uplink in list(self._uplinks.values())) + len(self._orphans)

    @property
    def loop_waits(self) -> bool:
        """The event loop has requests in flight. Any thread."""
        return any(uplink.state.pending for uplink in list(self._uplinks.values()))

    def statistics(self) -> dict[str, float]:
        """Counts of this process's side of the data plane."""
        return {
            **self.pool.statistics(),
            "in_flight": float(self.in_flight()),
            "mapped_segments": float(len(self.mapped)),
            "lanes_open": float(self._open_lanes),
            "without_router": float(len(self._orphans)),
        }
