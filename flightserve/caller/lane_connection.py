"""The connection to a router that all blocking threads of this process share.

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
import logging
import os
import threading
from collections.abc import Callable, Sequence

from flightserve.caller.lane_groups import SubmissionGroup, SubmissionGroups
from flightserve.caller.memory import CallerMemory
from flightserve.caller.staging import MemoryFull, TooMuchWork
from flightserve.caller.submission import Submission, SubmittingLane
from flightserve.caller.uplink import Pending, Uplink
from flightserve.clock import monotonic_ns
from flightserve.config import EdgeLimits
from flightserve.errors import FlightserveError, Unavailable
from flightserve.fabric.transport.channels import BlockingChannel, connect
from flightserve.fabric.transport.spinning import Spinner
from flightserve.wire import frames

log = logging.getLogger(__name__)

# The longest a thread blocks before it looks whether its lane was closed. One value for almost all reads, because the
# kernel is told of a change by a system call; a thread that has something else to do soon takes the other.
PATIENCE_S = 0.1
HASTE_S = 0.001


class LaneConnection:
    """A connection to one router that all lanes to it share."""

    def __init__(
        self, state: Uplink, memory: CallerMemory, limits: EdgeLimits, others_wait: Callable[[], bool]
    ) -> None:
        """`others_wait()` says whether this process waits for replies on other connections. Raises Unavailable."""
        self.session = state.session
        self.state = state
        self._pool = memory.pool
        self._others_wait = others_wait
        sock = connect(self.session.router.endpoint, memory.limits.connect_timeout_s)
        self.channel = BlockingChannel(sock, state.shown.add)
        self._submissions: collections.deque[Submission] = collections.deque()
        self._groups = SubmissionGroups(limits)
        self._staging = threading.Lock()
        self._outbox: collections.deque[frames.Frame] = collections.deque()
        self._sending = threading.Lock()
        self._leading = threading.Lock()
        self._spinner = Spinner.of_percent(memory.limits.awake_percent_max)
        self._followers: collections.deque[SubmittingLane] = collections.deque()
        self.channel.send([frames.Hello(frames.PROTOCOL_VERSION, self._pool.owner, "frontend", False, pid=os.getpid())])

    # ---- sending

    def leave(self, submission: Submission) -> None:
        """Have a request go out with the next `send_left`."""
        self._submissions.append(submission)

    @property
    def has_left(self) -> bool:
        """A request waits here."""
        return bool(self._submissions)

    def send_left(self) -> None:
        """Stage and send what was left here; where another thread is staging, that one does it, and this one goes on to
        wait for its reply. Arrow lets go of the interpreter's lock in calls of a microsecond: threads that stage
        side by side take it from each other at each of them."""
        while self._submissions and self._staging.acquire(blocking=False):
            try:
                while self._submissions:
                    if len(self._submissions) == 1:
                        self._stage(self._submissions.popleft())
                    else:
                        self._stage_all(self._groups.take(self._submissions))
            finally:
                self._staging.release()
        try:
            self._flush()
        except Unavailable as error:
            self._lose(error.message)

    def _stage_all(self, group: list[Submission]) -> None:
        """Together, or where that cannot be each by itself, to be told why."""
        if len(group) > 1 and not self.channel.closed:
            try:
                together = SubmissionGroup(group, self._groups.limits)
                frame = self.state.stage(together.destination, together.batch, together.parts, together.deliver, True)
            except (MemoryFull, FlightserveError):
                # There may be room for some, and each is told what is wrong with it.
                pass
            except Exception:
                log.warning("requests could not be sent together, and go one by one", exc_info=True)
            else:
                for request_id, submission in enumerate(group, frame.parts[0].request_id):
                    submission.note_sent(request_id)
                self._outbox.append(frame)
                for submission in group:
                    if submission.lane.has_unwanted:
                        submission.lane.cancel_unwanted(submission)
                return
        for submission in group:
            self._stage(submission)

    def _stage(self, submission: Submission) -> None:
        lane = submission.lane
        if self.channel.closed:
            # What was pending here has been taken already.
            lane.submit_late(submission)
            return
        try:
            frame = self.state.stage(
                submission.destination,
                submission.payload,
                submission.parts or ((0, submission.meta),),
                lane.deliver,
                bool(submission.parts),
                submission.key,
            )
        except MemoryFull as full:
            lane.defer(submission, full.nbytes)
            return
        except TooMuchWork:
            lane.defer(submission, 0)
            return
        except Exception as error:
            submission.fail(error)
            return
        # Before the frame is there for others to send: its reply may come at once.
        if submission.parts:
            submission.note_sent(frame.parts[0].request_id)
        else:
            lane.note_sent(submission.key, frame.parts[0].request_id)
        self._outbox.append(frame)
        if lane.has_unwanted:
            lane.cancel_unwanted(submission)

    def send(self, frame: frames.Frame) -> None:
        """Send a frame; where another thread is sending, that one sends it. Raises Unavailable when this thread finds
        the connection lost."""
        self._outbox.append(frame)
        self._flush()

    def _flush(self) -> None:
        # Looked at again after each release: a frame may have been left to this thread in between.
        while (self._outbox or self.state.has_released) and self._sending.acquire(blocking=False):
            try:
                self._send_all()
            finally:
                self._sending.release()

    def _send_all(self) -> None:
        out: list[frames.Frame] = []
        announcements: list[tuple[frames.Segment, int]] = []
        while self._outbox:
            frame = self._outbox.popleft()
            out.append(frame)
            if type(frame) is not frames.Submit or frame.rows:
                continue
            owner, segment = frame.region.owner, frame.region.segment
            if (owner, segment) not in self.channel.known:
                announcements.append(self._pool.announcement(segment))
        if self.state.has_released:
            self.state.ride(out)
        if out:
            self.channel.send(out, announcements)

    # ---- receiving

    def wait(self, lane: SubmittingLane, patience_s: float = PATIENCE_S) -> None:
        """Wait for a reply to the lane, or so long: by reading for all, or for the thread that reads."""
        if self._leading.acquire(blocking=False):
            try:
                self._lead(patience_s)
            finally:
                self._leading.release()
                if self._followers:
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
        in_flight = self.state.in_flight
        if not in_flight:
            # What the lane waits for comes by another connection, and nobody wakes who reads.
            patience_s = min(patience_s, HASTE_S)
        # Awake, where this process waits for one reply and for nothing else.
        lone = in_flight == 1 and not self._others_wait()
        if not lone:
            self.receive(patience_s)
        elif not self._spinner.look(self._look):
            self.receive(patience_s)
            self._spinner.slept()

    def _look(self) -> Sequence[bool]:
        return (True,) if self.channel.ready() and self.receive(0) else ()

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
            self._lose(error.message)
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
        self.state.press()
        # What was left here by a lane whose thread does not come back to it: its client does not read.
        self.send_left()
        self.state.end_overdue(monotonic_ns())

    def _lose(self, why: str) -> None:
        """The connection is of no further use, and with it the session; the event loop settles what was in flight."""
        self.hang_up()
        self.session.events.session_lost(self.session, why)

    def hang_up(self) -> None:
        """Close the connection. Idempotent. What was in flight is for the others to settle."""
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
            submission = self._submissions.popleft()
            submission.lane.submit_late(submission)
        return pending
