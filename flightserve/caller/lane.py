"""Pipelined streams of requests for blocking threads. All of a process share one connection to each router."""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Sequence

import pyarrow as pa

from flightserve.caller.destinations import Destinations, Target, target_of
from flightserve.caller.lane_connection import HASTE_S, PATIENCE_S, LaneConnection
from flightserve.caller.lane_groups import small_batch
from flightserve.caller.memory import CallerMemory
from flightserve.caller.results import SharedSlice
from flightserve.caller.sessions import CallerSessions
from flightserve.caller.staging import MemoryFull, Staged
from flightserve.caller.submission import Submission
from flightserve.caller.submitter import RouterSubmitter
from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.contracts.service import Passed, Payload, Reply
from flightserve.errors import Cancelled, FlightserveError, Unavailable
from flightserve.types import RequestMeta
from flightserve.wire import frames


class BlockingLane:
    """A lane of a frontend (`contracts.service.Lane`)."""

    def __init__(
        self, destinations: Destinations, sessions: CallerSessions, submitter: RouterSubmitter, memory: CallerMemory
    ) -> None:
        self._destinations = destinations
        self._sessions = sessions
        self._submitter = submitter
        self._memory = memory
        sessions.count_lanes(1)
        self._connection: LaneConnection | None = None
        self._replies: collections.deque[Reply] = collections.deque()
        self._request_ids: dict[int, int] = {}
        self._deferred: collections.deque[tuple[Submission, int]] = collections.deque()
        # Keys that were given up before they had a request id, or after.
        self._given_up: set[int] = set()
        self.has_unwanted = False
        self._waking = threading.Lock()
        self._waking.acquire()
        self._closed = False

    # ---- requests

    def submit(
        self,
        key: int,
        deployment: str,
        method: str,
        payload: Payload,
        meta: RequestMeta,
        then: Sequence[tuple[str, str]] = (),
        patient: bool = False,
    ) -> None:
        """Send one request; see `Lane.submit`."""
        if self.has_unwanted:
            self._given_up.discard(key)
        target = target_of(deployment, method, then) if then else (deployment, method)
        destination = self._destinations.known.get(target) or self._destinations.find(target)
        self._submit(Submission(self, key, destination, payload, meta), patient)
        while self._deferred:
            self._submit_deferred()

    def submit_parts(
        self,
        key: int,
        deployment: str,
        method: str,
        batch: pa.RecordBatch | Passed,
        parts: Sequence[tuple[int, RequestMeta]],
        then: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Send requests whose rows lie one after another in one region; see `Lane.submit_parts`."""
        self._given_up.difference_update(range(key, key + len(parts)))
        last = max([meta for _, meta in parts], key=lambda meta: meta.deadline_ns)
        target = target_of(deployment, method, then) if then else (deployment, method)
        self._submit(Submission(self, key, self._destinations.find(target), batch, last, parts))
        while self._deferred:
            self._submit_deferred()

    def _submit(self, submission: Submission, patient: bool = False) -> None:
        try:
            connection = self._connect(submission.destination.entry.router_id)
        except Unavailable:
            self.submit_late(submission)
        else:
            connection.leave(submission)
            # What is large gains nothing by company, and would be copied later, by whoever comes for it.
            if not patient or small_batch(submission) is None:
                connection.send_left()

    def hurry(self) -> None:
        """Send what waits; see `Lane.submit`."""
        connection = self._connection
        if connection is not None and connection.has_left:
            connection.send_left()

    def submit_late(self, submission: Submission) -> None:
        """No connection takes the request now: it waits where requests without a router do. Any thread."""
        self._submitter.submit_late(submission)

    def note_sent(self, key: int, request_id: int) -> None:
        """The request goes out under this id. Any thread."""
        self._request_ids[key] = request_id

    def cancel_unwanted(self, submission: Submission) -> None:
        """It went out: what was given up meanwhile is cancelled. Any thread."""
        for key in submission.keys:
            if self._closed or key in self._given_up:
                self.cancel(key)

    def defer(self, submission: Submission, nbytes: int) -> None:
        """It is the lane's own thread that waits for memory, and that stages what others should not wait for."""
        self._deferred.append((submission, nbytes))
        self.wake()

    def _submit_deferred(self) -> None:
        try:
            submission, nbytes = self._deferred.popleft()
        except IndexError:
            return
        try:
            before = submission.destination
            target = before.target
            if nbytes:
                self._wait_for_room(submission, nbytes)
            else:
                self._stage_apart(submission, target)
            submission.destination = self._destinations.find(target)
            self._submit(submission)
        except Exception as error:
            submission.fail(error)

    def _wait_for_room(self, submission: Submission, nbytes: int) -> None:
        self._memory.block_for_room(
            nbytes,
            submission.meta.deadline_ns,
            lambda: self._closed or self._given_up.issuperset(submission.keys),
        )

    def _stage_apart(self, submission: Submission, target: Target) -> None:
        payload = submission.payload.payload if isinstance(submission.payload, Staged) else submission.payload
        assert not isinstance(payload, Passed)
        try:
            submission.payload = self._submitter.block_to_stage(target, payload)
        except MemoryFull as full:
            self._wait_for_room(submission, full.nbytes)

    def _connect(self, router_id: int) -> LaneConnection:
        """The connection to the router that owns the deployment now."""
        if self._closed:
            raise Cancelled("the stream is closed")
        connection = self._connection
        if connection is None or connection.channel.closed or connection.session.router.id != router_id:
            before, self._connection = connection, self._sessions.lane_connection(router_id)
            connection = self._connection
            if before is not None:
                before.send_left()
            self.wake()
        return connection

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
        if not self._replies:
            self.hurry()
            self._await_reply(timeout_s)
            self.hurry()
            if not self._replies:
                return None
        reply = self._replies.popleft()
        if not reply.last:
            self._tell_taken(reply.key)
        return reply

    def _await_reply(self, timeout_s: float | None) -> None:
        until_ns = None if timeout_s is None else monotonic_ns() + int(timeout_s * NS_PER_S)
        patience_s = PATIENCE_S if timeout_s is None or timeout_s > HASTE_S else HASTE_S
        while not self._replies:
            if self._closed:
                raise Cancelled("the stream is closed")
            if until_ns is not None and monotonic_ns() >= until_ns:
                return
            connection = self._connection
            if self._deferred:
                self._submit_deferred()
            elif connection is None or connection.channel.closed:
                self.sleep(patience_s)
            else:
                connection.wait(self, patience_s)

    def _tell_taken(self, key: int) -> None:
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
            self._submitter.tell_late(request_id, frame)

    def cancel(self, key: int) -> None:
        """Give one request up; its reply is Cancelled. Any thread."""
        # Before its id is looked for: it may just be given one.
        self._given_up.add(key)
        self.has_unwanted = True
        request_id = self._request_ids.get(key)
        if request_id is not None:
            self._tell(request_id, frames.Cancel([request_id]))

    def close(self) -> None:
        """Cancel what is in flight. A thread inside `receive` gets Cancelled."""
        if self._closed:
            return
        self._closed = self.has_unwanted = True
        connection = self._connection
        request_ids = list(self._request_ids.values())
        here = [number for number in request_ids if connection and connection.state.pending.pop(number, None)]
        if connection is not None and here:
            with contextlib.suppress(Unavailable):
                connection.send(frames.Cancel(here))
        for request_id in set(request_ids).difference(here):
            self._submitter.tell_late(request_id, frames.Cancel([request_id]))
        self._replies.clear()
        self.wake()
        self._sessions.count_lanes(-1)
