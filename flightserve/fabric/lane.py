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
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.errors import (
    Cancelled,
    FlightserveError,
    ResourceExhausted,
    Unavailable,
)
from flightserve.fabric.channels import BlockingChannel, connect
from flightserve.fabric.service import Payload, Reply
from flightserve.fabric.uplink import MemoryFull, SharedSlice, Uplink
from flightserve.types import MethodSpec, RequestMeta
from flightserve.wire import frames
from flightserve.wire.table import Peer

if TYPE_CHECKING:
    from flightserve.fabric.client import RouterClient

# The longest a thread blocks before it looks whether its lane was closed. One value for all reads, because the
# kernel is told of a change by a system call.
PATIENCE_S = 0.1


@dataclass(slots=True)
class Submission:
    """One request of a lane, not staged yet."""

    lane: BlockingLane
    key: int
    deployment: str
    spec: MethodSpec
    where: str
    payload: Payload
    meta: RequestMeta


class LaneConnection:
    """A connection to one router that all lanes to it share."""

    def __init__(self, client: RouterClient, router: Peer) -> None:
        self.router = router
        self.state = Uplink(client.pool, client.mapped, client.limits, client.outstanding[router.id])
        self.channel = BlockingChannel(connect(router.endpoint, client.fabric.connect_timeout_s), client.mapped.add)
        self._submissions: collections.deque[Submission] = collections.deque()
        self._staging = threading.Lock()
        self._pool = client.pool
        self._outbox: collections.deque[tuple[frames.Frame, int]] = collections.deque()
        self._sending = threading.Lock()
        self._leading = threading.Lock()
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
        with contextlib.suppress(Unavailable):
            self._flush()
        if self.channel.closed:
            self.disconnect()

    def _stage(self, submission: Submission) -> None:
        lane, key, meta = submission.lane, submission.key, submission.meta
        try:
            region, rows = self.state.stage(submission.payload, submission.spec, submission.where)
        except MemoryFull as full:
            lane.defer(submission, full.nbytes)
            return
        except FlightserveError as error:
            lane.deliver(key, None, error, True)
            return
        parts = self.state.register(region, [(rows, meta)], lane.deliver, key)
        lane.sent(key, parts[0].request_id)
        submit = frames.Submit(submission.deployment, submission.spec.name, region, parts)
        self._outbox.append((submit, region.segment))

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
        release = self.state.releases()
        if release is not None:
            out.append(release)
        if out:
            self.channel.send(out, announcements)

    # ---- receiving

    def wait(self, lane: BlockingLane) -> None:
        """Wait for a reply to the lane, or PATIENCE_S: by reading for all, or for the thread that reads."""
        if self._leading.acquire(blocking=False):
            try:
                self.receive(PATIENCE_S)
            finally:
                self._leading.release()
                self._promote()
            return
        self._followers.append(lane)
        # The leader may have left between the two lines above, with nobody to wake.
        if self._leading.locked() or lane.has_replies:
            lane.sleep(PATIENCE_S)
        with contextlib.suppress(ValueError):
            self._followers.remove(lane)

    def _promote(self) -> None:
        with contextlib.suppress(IndexError):
            self._followers.popleft().wake()

    def receive(self, timeout_s: float) -> bool:
        """Act on what arrives within the time; False when nothing did. A lost connection fails all that is
        in flight and is closed. For the leader only."""
        try:
            received = self.channel.receive(timeout_s)
            for frame in received:
                self.state.receive(frame)
            return bool(received)
        except FlightserveError:
            self.disconnect()
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

    def disconnect(self) -> None:
        """Close for good; what is in flight fails. Idempotent."""
        self.channel.shutdown()
        self.channel.close()
        self.state.fail(
            list(self.state.pending), Unavailable("the router was lost while the request was in flight; try again")
        )


class BlockingLane:
    """A lane of a frontend (`fabric.service.Lane`)."""

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
        _, spec = self._client.method(deployment, method)
        submission = Submission(self, key, deployment, spec, f"{deployment}.{method}", payload, meta)
        self._connect(deployment).submit(submission)
        while self._deferred:
            self._submit_deferred()

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
            self._connect(submission.deployment).submit(submission)
        except FlightserveError as error:
            self.deliver(submission.key, None, error, True)

    def _connect(self, deployment: str) -> LaneConnection:
        if self._closed:
            raise Cancelled("the stream is closed")
        connection = self._connection
        if connection is None or connection.channel.closed:
            connection = self._connection = self._client.lane_connection(deployment)
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
        with contextlib.suppress(RuntimeError):
            self._waking.release()

    def receive(self, timeout_s: float | None = None) -> Reply | None:
        """The next reply; see `Lane.receive`. Raises Cancelled once the lane is closed."""
        until_ns = None if timeout_s is None else monotonic_ns() + int(timeout_s * NS_PER_S)
        while not self._replies:
            if self._closed:
                raise Cancelled("the stream is closed")
            if until_ns is not None and monotonic_ns() >= until_ns:
                return None
            connection = self._connection
            if self._deferred:
                self._submit_deferred()
            elif connection is None or connection.channel.closed:
                self.sleep(PATIENCE_S)
            else:
                connection.wait(self)
        reply = self._replies.popleft()
        if not reply.last:
            self._took(reply.key)
        return reply

    def _took(self, key: int) -> None:
        request_id = self._request_ids.get(key)
        if request_id is not None:
            self._tell(frames.Taken(request_id, 1))

    def _tell(self, frame: frames.Frame) -> None:
        if self._connection is not None:
            with contextlib.suppress(Unavailable):
                self._connection.send(frame)

    def cancel(self, key: int) -> None:
        """Give one request up; its reply is Cancelled."""
        request_id = self._request_ids.get(key)
        if request_id is not None:
            self._tell(frames.Cancel([request_id]))

    def close(self) -> None:
        """Cancel what is in flight. A thread inside `receive` gets Cancelled."""
        if self._closed:
            return
        self._closed = True
        connection = self._connection
        if connection is not None and self._request_ids:
            request_ids = list(self._request_ids.values())
            for request_id in request_ids:
                connection.state.pending.pop(request_id, None)
            self._tell(frames.Cancel(request_ids))
        self._replies.clear()
        self.wake()
        self._client.lane_closed()
