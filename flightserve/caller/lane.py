"""Pipelined streams of requests for blocking threads, over one connection to each router.

No thread of its own reads that connection. Whichever receiving thread comes first leads: it blocks in the read,
gives every reply that arrives to its lane, and when its own is among them it leaves the lead to a thread that
waits (leader and followers: Schmidt et al., 2000). So a lone stream reads its own replies with no hand-over, and
sixteen streams share one read, one Results frame, one lease. Sending works likewise: a thread that finds another
one sending leaves its frame for it. A connection of its own for each stream was measured at 214 us of CPU a call
in the frontend with sixteen streams, about half of it in the kernel's switching of threads; a reader thread shared by
all costs a lone stream two wake-ups a call.
"""

from __future__ import annotations

import collections
import contextlib
import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa

from flightserve.caller.uplink import MemoryFull, Pending, RouterSession, Sent, SharedSlice
from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.contracts.service import Passed, Payload, Reply
from flightserve.errors import (
    Cancelled,
    FlightserveError,
    ResourceExhausted,
    Unavailable,
)
from flightserve.fabric.transport.channels import BlockingChannel, connect
from flightserve.fabric.transport.spinning import Spinner
from flightserve.types import RequestMeta
from flightserve.wire import frames

if TYPE_CHECKING:
    from flightserve.caller.client import Route, RouterClient

# The longest a thread blocks before it looks whether its lane was closed. One value for almost all reads, because the
# kernel is told of a change by a system call; a thread that has something else to do soon takes the other.
PATIENCE_S = 0.1
HASTE_S = 0.001
# How long a thread stays awake for the only reply it waits for: a small call's way there and back takes 110 us.
SPIN_NS_MAX = 200_000


class Submission(msgspec.Struct, eq=False):
    """What a lane sends at once, not staged yet, and where it goes as of the last look at the routing table: one
    request, or `parts` of one batch, whose keys follow that of the first. `meta` is then that of the one that ends
    last."""

    lane: BlockingLane
    key: int
    route: Route
    payload: Payload
    meta: RequestMeta
    parts: Sequence[tuple[int, RequestMeta]] = ()

    @property
    def requests(self) -> Sequence[tuple[int, RequestMeta]]:
        """Each as (rows, metadata); the rows of a lone one are those of the payload."""
        return self.parts or [(0, self.meta)]

    def sent(self, request_id: int) -> None:
        """They went out, the first under this id."""
        for place in range(len(self.parts) or 1):
            self.lane.sent(self.key + place, request_id + place)

    def fail(self, error: FlightserveError) -> None:
        """They cannot go out."""
        for place in range(len(self.parts) or 1):
            self.lane.deliver(self.key + place, None, error, True)


class LaneConnection:
    """A connection to one router that all lanes to it share."""

    def __init__(self, client: RouterClient, session: RouterSession) -> None:
        self.session = session
        self.state = client.bookkeeping(session)
        self.channel = BlockingChannel(
            connect(session.router.endpoint, client.fabric.connect_timeout_s),
            self.state.shown.add,
        )
        self._submissions: collections.deque[Submission] = collections.deque()
        self._staging = threading.Lock()
        self._client = client
        self._pool = client.pool
        self._outbox: collections.deque[tuple[frames.Frame, int]] = collections.deque()
        self._sending = threading.Lock()
        self._leading = threading.Lock()
        self._spinner = Spinner(SPIN_NS_MAX)
        self._followers: collections.deque[BlockingLane] = collections.deque()
        hello = frames.Hello(frames.PROTOCOL_VERSION, client.peer_id, "frontend", False, pid=os.getpid())
        self.channel.send([hello])

    # ---- sending

    def submit(self, submission: Submission) -> None:
        """Stage and send a request; where another thread is staging, that one does it, and this one goes on to
        wait for its reply. Arrow lets go of the interpreter's lock in calls of a microsecond: threads that stage
        side by side take it from each other at each of them."""
        self._submissions.append(submission)
        while self._submissions and self._staging.acquire(blocking=False):
            try:
                while self._submissions:
                    self._stage(self._submissions.popleft())
            finally:
                self._staging.release()
        try:
            self._flush()
        except Unavailable as error:
            self._lost(error)

    def _stage(self, submission: Submission) -> None:
        lane, route, requests = submission.lane, submission.route, submission.parts
        if self.channel.closed:
            # What was pending here has been taken already.
            self._client.submit_late(submission)
            return
        try:
            region, rows = self.state.stage(
                submission.payload, route.method, route.where, bool(requests), len(requests) or 1
            )
        except MemoryFull as full:
            lane.defer(submission, full.nbytes)
            return
        except FlightserveError as error:
            submission.fail(error)
            return
        epoch = route.entry.epoch
        payload = submission.payload
        passed = payload if isinstance(payload, Passed) and region is payload.region else None
        sent = Sent(route.deployment, route.method, region, epoch, passed)
        parts = self.state.register(sent, requests or [(rows, submission.meta)], lane.deliver, submission.key)
        submission.sent(parts[0].request_id)
        self._outbox.append((sent.submit(route.key, parts), region.segment if passed is None else -1))

    def send(self, frame: frames.Frame, segment: int = -1) -> None:
        """Send a frame; where another thread is sending, that one sends it. `segment` is the one it refers to.
        Raises Unavailable when this thread finds the connection lost."""
        self._outbox.append((frame, segment))
        self._flush()

    def _flush(self) -> None:
        # Looked at again after each release: a frame may have been left to this thread in between.
        while (self._outbox or self.state.released) and self._sending.acquire(blocking=False):
            try:
                self._send_all()
            finally:
                self._sending.release()

    def _send_all(self) -> None:
        out: list[frames.Frame] = []
        announcements: list[tuple[frames.Segment, int]] = []
        while self._outbox:
            frame, segment = self._outbox.popleft()
            out.append(frame)
            if segment >= 0 and (self._pool.owner, segment) not in self.channel.known:
                announcements.append(self._pool.announcement(segment))
        self.state.ride(out)
        if out:
            self.channel.send(out, announcements)

    # ---- receiving

    def wait(self, lane: BlockingLane, patience_s: float = PATIENCE_S) -> None:
        """Wait for a reply to the lane, or so long: by reading for all, or for the thread that reads."""
        if self._leading.acquire(blocking=False):
            try:
                self._lead(patience_s)
            finally:
                self._leading.release()
                self._promote()
            return
        self._followers.append(lane)
        # The leader may have left between the two lines above, with nobody to wake.
        if self._leading.locked() or lane.has_replies:
            lane.sleep(patience_s)
        with contextlib.suppress(ValueError):
            self._followers.remove(lane)

    def _promote(self) -> None:
        if self._followers:
            with contextlib.suppress(IndexError):
                self._followers.popleft().wake()

    def _lead(self, patience_s: float) -> None:
        # Awake, where this process waits for one reply and for nothing else.
        lone = self.state.in_flight == 1 and not self._client.loop_waits
        if not lone:
            self.receive(patience_s)
        elif not self._spinner.look(self._look):
            self.receive(patience_s)
            self._spinner.slept()

    def _look(self) -> Sequence[bool]:
        return (True,) if self.receive(0) else ()

    def receive(self, timeout_s: float) -> bool:
        """Act on what arrives within the time; False when nothing did. For the leader only."""
        try:
            received = self.channel.receive(timeout_s)
            for frame in received:
                if type(frame) is frames.Segment:
                    self.channel.take_segment()
                else:
                    self.state.receive(frame)
            return bool(received)
        except FlightserveError as error:
            self._lost(error)
            return True

    def tend(self) -> None:
        """Called now and then, from the event loop: send leases that wait, read what no lane waits for, end
        requests whose router forgot them. Never blocks."""
        if self._leading.acquire(blocking=False):
            try:
                while not self.channel.closed and self.receive(0):
                    pass
            finally:
                self._leading.release()
                self._promote()
        if self.channel.closed:
            return
        with contextlib.suppress(Unavailable):
            self._flush()
        self.state.end_overdue(monotonic_ns())

    def _lost(self, error: FlightserveError) -> None:
        """The connection is of no further use, and with it the session; the event loop settles what was in flight."""
        self.hang_up()
        self._client.session_lost(self.session, error.message)

    def hang_up(self) -> None:
        """Close the connection. Idempotent. What was in flight is the client's to settle."""
        self.channel.shutdown()
        self.channel.close()
        self.state.shown.end()

    def take_pending(self) -> list[tuple[int, Pending]]:
        """Once hung up: what was in flight. Requests that are not staged yet go the way of late ones."""
        with self._staging:
            pending = self.state.take_pending()
        # Their regions may be gone soon: nobody shall announce those any more.
        with self._sending:
            self._outbox.clear()
        # A thread that met the first lock left its request to its holder.
        while self._submissions:
            self._client.submit_late(self._submissions.popleft())
        return pending


class BlockingLane:
    """A lane of a frontend (`contracts.service.Lane`)."""

    def __init__(self, client: RouterClient) -> None:
        self._client = client
        self._connection: LaneConnection | None = None
        self._replies: collections.deque[Reply] = collections.deque()
        self._request_ids: dict[int, int] = {}
        self._deferred: collections.deque[tuple[Submission, int]] = collections.deque()
        self._waking = threading.Lock()
        self._waking.acquire()
        self._closed = False

    # ---- requests

    def submit(self, key: int, deployment: str, method: str, payload: Payload, meta: RequestMeta) -> None:
        """Send one request; see `Lane.submit`."""
        self._submit(Submission(self, key, self._client.route(deployment, method), payload, meta))
        while self._deferred:
            self._submit_deferred()

    def submit_parts(
        self,
        key: int,
        deployment: str,
        method: str,
        batch: pa.RecordBatch | Passed,
        parts: Sequence[tuple[int, RequestMeta]],
    ) -> None:
        """Send requests whose rows lie one after another in one region; see `Lane.submit_parts`."""
        last = max([meta for _, meta in parts], key=lambda meta: meta.deadline_ns)
        self._submit(Submission(self, key, self._client.route(deployment, method), batch, last, parts))
        while self._deferred:
            self._submit_deferred()

    def _submit(self, submission: Submission) -> None:
        try:
            connection = self._connect(submission.route.entry.router_id)
        except Unavailable:
            # It waits where requests without a router do.
            self._client.submit_late(submission)
        else:
            connection.submit(submission)

    def sent(self, key: int, request_id: int) -> None:
        """The request went out under this id; gives it up at once where the lane was closed meanwhile."""
        self._request_ids[key] = request_id
        if self._closed:
            self.cancel(key)

    def defer(self, submission: Submission, nbytes: int) -> None:
        """There was no memory for the request: the lane's own thread waits for it."""
        self._deferred.append((submission, nbytes))
        self.wake()

    def _submit_deferred(self) -> None:
        try:
            submission, nbytes = self._deferred.popleft()
        except IndexError:
            return
        try:
            self._wait_for_room(nbytes, submission.meta.deadline_ns)
            route = submission.route
            submission.route = self._client.route(route.deployment, route.method.name)
            self._submit(submission)
        except FlightserveError as error:
            submission.fail(error)

    def _connect(self, router_id: int) -> LaneConnection:
        """The connection to the router that owns the deployment now."""
        if self._closed:
            raise Cancelled("the stream is closed")
        connection = self._connection
        if connection is None or connection.channel.closed or connection.session.router.id != router_id:
            connection = self._connection = self._client.lane_connection(router_id)
            self.wake()
        return connection

    def _wait_for_room(self, nbytes: int, deadline_ns: int) -> None:
        timeout_s = (deadline_ns - monotonic_ns()) / NS_PER_S
        got = self._client.pool.wait(nbytes, max(0.0, min(timeout_s, threading.TIMEOUT_MAX)))
        if got is None:
            raise ResourceExhausted("shared memory stayed full until the deadline; retry later")
        region, _ = got
        self._client.pool.free(region.segment, region.offset)

    # ---- replies

    def deliver(self, key: int, result: SharedSlice | None, error: FlightserveError | None, last: bool) -> None:
        """A reply for the lane arrived. Any thread."""
        if last:
            self._request_ids.pop(key, None)
        self._replies.append(Reply(key, result, error, last))
        self.wake()

    @property
    def has_replies(self) -> bool:
        return bool(self._replies or self._deferred)

    def sleep(self, timeout_s: float) -> None:
        """Until `wake`, or the time has passed."""
        self._waking.acquire(timeout=timeout_s)

    def wake(self) -> None:
        """End the current or the next `sleep`."""
        # Asked first: who leads never sleeps, and is told of each of its own replies.
        if self._waking.locked():
            with contextlib.suppress(RuntimeError):
                self._waking.release()

    def receive(self, timeout_s: float | None = None) -> Reply | None:
        """The next reply; see `Lane.receive`. Raises Cancelled once the lane is closed."""
        until_ns = None if timeout_s is None else monotonic_ns() + int(timeout_s * NS_PER_S)
        patience_s = PATIENCE_S if timeout_s is None or timeout_s > HASTE_S else HASTE_S
        while not self._replies:
            if self._closed:
                raise Cancelled("the stream is closed")
            if until_ns is not None and monotonic_ns() >= until_ns:
                return None
            connection = self._connection
            if self._deferred:
                self._submit_deferred()
            elif connection is None or connection.channel.closed:
                self.sleep(patience_s)
            else:
                connection.wait(self, patience_s)
        reply = self._replies.popleft()
        if not reply.last:
            self._took(reply.key)
        return reply

    def _took(self, key: int) -> None:
        request_id = self._request_ids.get(key)
        if request_id is not None:
            self._tell(request_id, frames.Taken(request_id, 1))

    def _tell(self, request_id: int, frame: frames.Taken | frames.Cancel) -> None:
        """Tell the router that has the request."""
        connection = self._connection
        if connection is not None and request_id in connection.state.pending:
            with contextlib.suppress(Unavailable):
                connection.send(frame)
        else:
            self._client.tell_late(request_id, frame)

    def cancel(self, key: int) -> None:
        """Give one request up; its reply is Cancelled."""
        request_id = self._request_ids.get(key)
        if request_id is not None:
            self._tell(request_id, frames.Cancel([request_id]))

    def close(self) -> None:
        """Cancel what is in flight. A thread inside `receive` gets Cancelled."""
        if self._closed:
            return
        self._closed = True
        connection = self._connection
        request_ids = list(self._request_ids.values())
        here = [number for number in request_ids if connection and connection.state.pending.pop(number, None)]
        if connection is not None and here:
            with contextlib.suppress(Unavailable):
                connection.send(frames.Cancel(here))
        for request_id in set(request_ids).difference(here):
            self._client.tell_late(request_id, frames.Cancel([request_id]))
        self._replies.clear()
        self.wake()
        self._client.lane_closed()
