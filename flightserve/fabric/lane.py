"""A pipelined stream of requests for blocking threads: one submits, another receives, nobody hands over.

The receiving thread reads the socket itself. A reader thread shared by all streams would be simpler, but was
measured to cost 100 us a call and 70 % of the throughput: each reply then wakes two threads.

A lane carries the requests of one deployment, the first it is used for. Its connection outlives it: a clean
one (nothing in flight) waits in the client's pool for the next lane.
"""

from __future__ import annotations

import collections
import contextlib
import os
import threading
from typing import TYPE_CHECKING

from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.errors import (
    Cancelled,
    DeadlineExceeded,
    FlightserveError,
    ResourceExhausted,
    Unavailable,
)
from flightserve.fabric.channels import BlockingChannel, connect
from flightserve.fabric.service import Payload, Reply
from flightserve.fabric.uplink import MemoryFull, SharedSlice, Uplink
from flightserve.types import RequestMeta
from flightserve.wire import frames
from flightserve.wire.table import Peer

if TYPE_CHECKING:
    from flightserve.fabric.client import RouterClient

# A receiver that waits longer than this is idle: leases it gave back are then sent alone.
IDLE_S = 0.02
WAIT_S = 0.5
GRACE_NS = 1 * NS_PER_S


class LaneConnection:
    """A connection to one router, used by one lane at a time."""

    def __init__(self, client: RouterClient, router: Peer) -> None:
        self.router = router
        self.state = Uplink(client.pool, client.mapped, client.limits, client.outstanding[router.id])
        self._pool = client.pool
        self.channel = BlockingChannel(connect(router.endpoint, client.fabric.connect_timeout_s), client.mapped.add)
        self.channel.send([frames.Hello(frames.PROTOCOL_VERSION, client.peer_id, "frontend", False, pid=os.getpid())])

    def send(self, frame: frames.Frame, region: frames.Region | None = None) -> None:
        """Send a frame, with the leases that wait to go back; shows the region's segment first if need be."""
        release = self.state.releases()
        announcements: tuple[tuple[frames.Segment, int], ...] = ()
        if region is not None and (region.owner, region.segment) not in self.channel.known:
            announcements = (self._pool.announcement(region.segment),)
        self.channel.send([frame] if release is None else [frame, release], announcements)

    def receive(self, timeout_s: float) -> bool:
        """Act on what arrives within the time; False when nothing did. A lost connection fails all that is
        in flight and is closed."""
        try:
            received = self.channel.receive(timeout_s)
            for frame in received:
                self.state.receive(frame)
            return bool(received)
        except FlightserveError:
            self.channel.close()
            lost = Unavailable("the router was lost while the request was in flight")
            self.state.fail(list(self.state.pending), lost)
            return True

    def idle(self) -> None:
        """Nothing arrives: send leases that wait, and end requests whose router forgot them."""
        release = self.state.releases()
        if release is not None:
            self.channel.send([release])
        overdue = self.state.overdue(monotonic_ns() - GRACE_NS)
        self.state.fail(overdue, DeadlineExceeded("the deadline passed and the router did not answer"))

    def tend(self) -> bool:
        """Look after a connection no lane uses, without blocking. False when it is lost."""
        if not self.channel.closed:
            while self.receive(0) and not self.channel.closed:
                pass
        if self.channel.closed:
            return False
        try:
            self.idle()
        except FlightserveError:
            return False
        return True

    def disconnect(self) -> None:
        """Close for good. Idempotent."""
        self.channel.close()
        self.state.fail(list(self.state.pending), Unavailable("the connection was closed"))


class BlockingLane:
    """A lane of a frontend (`fabric.service.Lane`)."""

    def __init__(self, client: RouterClient) -> None:
        self._client = client
        self._connection: LaneConnection | None = None
        self._connected = threading.Event()
        self._replies: collections.deque[Reply] = collections.deque()
        self._request_ids: dict[int, int] = {}
        self._reading = threading.Lock()
        self._closed = False

    def submit(self, key: int, deployment: str, method: str, payload: Payload, meta: RequestMeta) -> None:
        """Send one request; see `Lane.submit`."""
        _, spec = self._client.method(deployment, method)
        connection = self._connect(deployment)
        where = f"{deployment}.{method}"
        while True:
            try:
                region, rows = connection.state.stage(payload, spec, where)
                break
            except MemoryFull as full:
                self._wait_for_room(full.nbytes, meta.deadline_ns)
        parts = connection.state.register(region, [(rows, meta)], self._deliver, key)
        self._request_ids[key] = parts[0].request_id
        try:
            connection.send(frames.Submit(deployment, method, region, parts), region)
        except FlightserveError:
            self._request_ids.pop(key, None)
            # Where the receiving thread saw the loss first, it has delivered the error already.
            if connection.state.pending.pop(parts[0].request_id, None) is not None:
                raise

    def _connect(self, deployment: str) -> LaneConnection:
        if self._closed:
            raise Cancelled("the stream is closed")
        connection = self._connection
        if connection is None or connection.channel.closed:
            connection = self._connection = self._client.lane_connection(self._client.router_of(deployment))
            self._connected.set()
        return connection

    def _wait_for_room(self, nbytes: int, deadline_ns: int) -> None:
        if nbytes > self._client.fabric.memory_bytes_max:
            raise ResourceExhausted(f"{nbytes} bytes do not fit into the shared memory of this frontend")
        timeout_s = (deadline_ns - monotonic_ns()) / NS_PER_S
        got = self._client.pool.wait(nbytes, max(0.0, min(timeout_s, threading.TIMEOUT_MAX)))
        if got is None:
            raise ResourceExhausted("shared memory stayed full until the deadline; retry later")
        region, _ = got
        self._client.pool.free(region.segment, region.offset)

    def _deliver(self, key: int, result: SharedSlice | None, error: FlightserveError | None, last: bool) -> None:
        if last:
            self._request_ids.pop(key, None)
        self._replies.append(Reply(key, result, error, last))

    def receive(self, timeout_s: float | None = None) -> Reply | None:
        """The next reply; see `Lane.receive`. Raises Cancelled once the lane is closed."""
        with self._reading:
            reply = self._receive(timeout_s)
        if self._closed:
            self._give_back()
            raise Cancelled("the stream is closed")
        if reply is not None and not reply.last:
            self._took(reply.key)
        return reply

    def _took(self, key: int) -> None:
        request_id = self._request_ids.get(key)
        if request_id is not None and self._connection is not None:
            with contextlib.suppress(Unavailable):
                self._connection.send(frames.Taken(request_id, 1))

    def _receive(self, timeout_s: float | None) -> Reply | None:
        if self._replies:
            return self._replies.popleft()
        deadline_ns = None if timeout_s is None else monotonic_ns() + int(timeout_s * NS_PER_S)
        wait_s = IDLE_S
        while not self._replies and not self._closed:
            left_s = WAIT_S if deadline_ns is None else (deadline_ns - monotonic_ns()) / NS_PER_S
            if left_s <= 0:
                return None
            self._wait(min(wait_s, left_s))
            wait_s = WAIT_S
        return self._replies.popleft() if self._replies else None

    def _wait(self, timeout_s: float) -> None:
        connection = self._connection
        if connection is None or connection.channel.closed:
            self._connected.wait(timeout_s)
            self._connected.clear()
        elif not connection.receive(timeout_s):
            with contextlib.suppress(Unavailable):
                connection.idle()

    def cancel(self, key: int) -> None:
        """Give one request up; its reply is Cancelled."""
        request_id = self._request_ids.get(key)
        if request_id is not None and self._connection is not None:
            with contextlib.suppress(Unavailable):
                self._connection.send(frames.Cancel([request_id]))

    def close(self) -> None:
        """Cancel what is in flight and give the connection back."""
        if self._closed:
            return
        if self._request_ids and self._connection is not None:
            with contextlib.suppress(Unavailable):
                self._connection.send(frames.Cancel(list(self._request_ids.values())))
        self._closed = True
        self._connected.set()
        # A thread inside `receive` still reads the connection; it gives it back on its way out.
        self._give_back()

    def _give_back(self) -> None:
        if self._reading.acquire(blocking=False):
            try:
                if not self._given_back:
                    self._given_back = True
                    connection, self._connection = self._connection, None
                    self._replies.clear()
                    self._client.lane_closed(connection)
            finally:
                self._reading.release()

    _given_back = False
