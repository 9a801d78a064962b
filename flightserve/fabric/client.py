"""The caller's side of the data plane: what frontends hold instead of routers and sockets.

`RouterClient` implements `fabric.service.Service` over two connections to each router: one of the event loop, one
that all threads that block share. It follows the routing table: which router owns a deployment, where
that router listens.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Sequence

import pyarrow as pa

from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.config import EdgeLimits, FabricLimits
from flightserve.errors import (
    FlightserveError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from flightserve.fabric.async_uplink import AsyncUplink
from flightserve.fabric.calls import PartsCall, RoutedCall
from flightserve.fabric.lane import BlockingLane, LaneConnection
from flightserve.fabric.segments import SegmentMap, SegmentPool
from flightserve.fabric.service import Lane, PartCallback, Payload
from flightserve.fabric.uplink import Deliver
from flightserve.types import DeploymentSpec, MethodSpec, RequestMeta
from flightserve.wire import frames
from flightserve.wire.table import Entry, Peer, RoutingTable

log = logging.getLogger(__name__)

# Leases that found no frames to ride back with leave after this long; overdue requests are looked for then.
SWEEP_S = 0.02


class RouterClient:
    """The tiers behind a frontend (`fabric.service.Service`)."""

    def __init__(self, peer_id: int, limits: FabricLimits, edge: EdgeLimits | None = None) -> None:
        self.peer_id = peer_id
        self.fabric = limits
        self.limits = edge or EdgeLimits()
        self.pool = SegmentPool(peer_id, limits)
        self.mapped = SegmentMap(limits)
        self._table = RoutingTable(0)
        self._entries: dict[str, Entry] = {}
        self._methods: dict[tuple[str, str], tuple[DeploymentSpec, MethodSpec]] = {}
        self._routers: dict[int, Peer] = {}
        self._uplinks: dict[int, AsyncUplink] = {}
        self._lane_connections: dict[int, LaneConnection] = {}
        self.outstanding: dict[int, set[tuple[int, int]]] = collections.defaultdict(set)
        self._lock = threading.Lock()
        self._room: collections.deque[asyncio.Future[None]] = collections.deque()
        self._loop: asyncio.AbstractEventLoop | None = None
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
        loop.call_soon_threadsafe(self._sweep)

    def apply_table(self, table: RoutingTable) -> None:
        """Take over a newer routing table. Any thread."""
        with self._lock:
            if table.version <= self._table.version:
                return
            self._table = table
            self._entries = {entry.spec.name: entry for entry in table.deployments}
            self._methods = {(e.spec.name, m.name): (e.spec, m) for e in table.deployments for m in e.spec.methods}
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
        with self._lock:
            for connection in self._lane_connections.values():
                connection.disconnect()
            self._lane_connections.clear()
        if self._loop is not None and self._loop.is_running():
            asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(5)
        self.pool.close()
        self.mapped.close()

    async def _stop(self) -> None:
        for uplink in list(self._uplinks.values()):
            uplink.close(Unavailable("the frontend stops"))

    def _connect(self) -> None:
        assert self._loop is not None
        for gone in [u for i, u in self._uplinks.items() if i not in self._routers]:
            gone.close(Unavailable("the router left the routing table"))
        for router in self._routers.values():
            if router.id in self._uplinks or self._stopped:
                continue
            try:
                self._uplinks[router.id] = AsyncUplink(self, router, self._loop)
            except FlightserveError as error:
                log.info("router %x cannot be reached: %s", router.id, error.message)
                self._loop.call_later(0.1, self._connect)

    def uplink_lost(self, uplink: AsyncUplink) -> None:
        """Called by an uplink that ended: connect again, if the table still names its router."""
        if self._uplinks.get(uplink.router.id) is uplink:
            del self._uplinks[uplink.router.id]
        if self._loop is not None and not self._stopped:
            self._loop.call_later(0.1, self._connect)

    def _sweep(self) -> None:
        if self._stopped or self._loop is None:
            return
        now_ns = monotonic_ns()
        for uplink in list(self._uplinks.values()):
            uplink.sweep(now_ns)
        self._tend_lanes()
        self._loop.call_later(SWEEP_S, self._sweep)

    # ---- what is deployed

    def deployments(self) -> Sequence[DeploymentSpec]:
        """What the routing table names."""
        return [entry.spec for entry in self._entries.values()]

    def method(self, deployment: str, method: str) -> tuple[DeploymentSpec, MethodSpec]:
        """Specs of a method. Raises NotFound, naming what there is."""
        found = self._methods.get((deployment, method))
        if found is None:
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
            and all(entry.ready > 0 and entry.router_id in self._uplinks for entry in table.deployments)
        )

    def reaches(self, deployments: Iterable[str]) -> bool:
        """The routers that own these deployments are connected."""
        return all(
            (entry := self._entries.get(name)) is not None and entry.router_id in self._uplinks for name in deployments
        )

    def router_of(self, deployment: str) -> Peer:
        """The router that owns a deployment. Raises Unavailable while there is none."""
        entry = self._entries.get(deployment)
        router = self._routers.get(entry.router_id) if entry is not None else None
        if router is None:
            raise Unavailable(f"no router owns {deployment!r} now; try again")
        return router

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """The other tiers' statistics, as the supervisor published them last."""
        return self._table.metrics

    # ---- calls

    def _uplink(self, deployment: str) -> AsyncUplink:
        uplink = self._uplinks.get(self.router_of(deployment).id)
        if uplink is None:
            raise Unavailable(f"the router of {deployment!r} is not connected; try again")
        return uplink

    def call(self, deployment: str, method: str, payload: Payload, meta: RequestMeta) -> RoutedCall:
        """Start one request (`Service.call`)."""
        return RoutedCall(self, deployment, method, payload, meta)

    def submit(
        self, deployment: str, method: str, payload: Payload, meta: RequestMeta, deliver: Deliver
    ) -> tuple[AsyncUplink, int]:
        """Stage and send one request: its uplink and id there. Raises MemoryFull, and what `stage` raises."""
        _, spec = self.method(deployment, method)
        uplink = self._uplink(deployment)
        region, rows = uplink.state.stage(payload, spec, f"{deployment}.{method}")
        parts = uplink.state.register(region, [(rows, meta)], deliver)
        uplink.send(frames.Submit(deployment, method, region, parts), region)
        return uplink, parts[0].request_id

    def call_parts(
        self,
        deployment: str,
        method: str,
        batch: pa.RecordBatch,
        parts: Sequence[tuple[int, RequestMeta]],
        done: PartCallback,
    ) -> Callable[[int], None]:
        """Start a group of requests in one region (`Service.call_parts`)."""
        group = PartsCall(self, (deployment, method), batch, parts, done)
        group.start()
        return group.cancel

    def submit_parts(
        self, target: tuple[str, str], batch: pa.RecordBatch, parts: Sequence[tuple[int, RequestMeta]], deliver: Deliver
    ) -> tuple[AsyncUplink, int]:
        """Stage and send a group: its uplink and the id of its first request there, which those of the others
        follow. Raises as `submit` does."""
        deployment, method = target
        _, spec = self.method(deployment, method)
        uplink = self._uplink(deployment)
        region, _ = uplink.state.stage(batch, spec, f"{deployment}.{method}", trusted=True)
        wire_parts = uplink.state.register(region, parts, deliver)
        uplink.send(frames.Submit(deployment, method, region, wire_parts), region)
        return uplink, wire_parts[0].request_id

    def open_lane(self) -> Lane:
        """A lane for a thread that blocks. Any thread."""
        with self._lock:
            self._open_lanes += 1
        return BlockingLane(self)

    # ---- lanes' connections

    def lane_connection(self, deployment: str) -> LaneConnection:
        """The connection that lanes to the deployment's router share. Raises Unavailable. Any thread."""
        router = self.router_of(deployment)
        with self._lock:
            connection = self._lane_connections.get(router.id)
            if connection is None or connection.channel.closed:
                connection = self._lane_connections[router.id] = LaneConnection(self, router)
            return connection

    def lane_closed(self) -> None:
        """A lane ended. Any thread."""
        with self._lock:
            self._open_lanes -= 1

    def _tend_lanes(self) -> None:
        with self._lock:
            connections = list(self._lane_connections.values())
        for connection in connections:
            if connection.router.id not in self._routers:
                connection.disconnect()
            connection.tend()
            if connection.channel.closed:
                with self._lock:
                    if self._lane_connections.get(connection.router.id) is connection:
                        del self._lane_connections[connection.router.id]

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
            with contextlib.suppress(Unavailable):
                uplink.send(frames.SegmentGone(self.peer_id, segment))

    # ---- counts

    def in_flight(self) -> int:
        """Requests of the event loop that have no outcome yet."""
        return sum(len(uplink.state.pending) for uplink in list(self._uplinks.values()))

    def statistics(self) -> dict[str, float]:
        """Counts of this process's side of the data plane."""
        return {
            **self.pool.statistics(),
            "in_flight": float(self.in_flight()),
            "mapped_segments": float(len(self.mapped)),
            "lanes_open": float(self._open_lanes),
        }
