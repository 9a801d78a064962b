"""A lane: one connection of a replica to its router, one thread that reads it, one micro-batch at a time.

The thread that reads the socket runs the method and writes the result, so that a micro-batch costs no hand-over
between threads. One whose method waits for a call onwards lets another thread have the lane (`replica.turns`). While
it is in user code nobody reads its socket; that is what the replica's main connection is for (heartbeats, abandoned
requests). A lane that waits for memory, or for a slow reader of its stream, reads its socket while it waits, because
that is where regions come back.
"""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from flightserve.clock import NS_PER_MS, monotonic_ns
from flightserve.contracts.context import Context, enter, leave
from flightserve.core.routing.credits import SUSPENDED_MAX
from flightserve.errors import Cancelled, FlightserveError, NotFound, Unavailable
from flightserve.fabric.memory.segments import SegmentPool, Shown
from flightserve.fabric.transport.channels import BlockingChannel
from flightserve.fabric.transport.spinning import Spinner
from flightserve.replica.apart import Rows
from flightserve.replica.bell import Bell
from flightserve.replica.binding import BoundMethod
from flightserve.replica.coroutines import STREAM_WINDOW, Coroutines
from flightserve.replica.lane_threads import LaneThread, LaneThreads
from flightserve.replica.outbox import Outbox
from flightserve.replica.run import Run, RunAnswer, RunParts
from flightserve.replica.session import ReplicaSession
from flightserve.replica.turns import LOOK_S, CalleeReport, Turn, Turns
from flightserve.wire import frames

# A reader that takes nothing for so long is slow.
SLOW_READER_NS: Final = 100 * NS_PER_MS
# How long a wait for something else reads the connection before it looks again.
PUMP_S: Final = 0.1
# How long a lane stays awake for the next micro-batch: a caller of small calls that waits for each reply takes 60 us.
SPIN_NS_MAX: Final = 150_000
RETIRED: Final = "the replica makes room for another"
UNREAD: Final = "the replica waits for the reader of a stream"


class LaneParts(NamedTuple):
    """What all lanes of a replica use. `coroutines` is there where it has `async def` methods, `turns` where its
    methods may wait for others."""

    runs: RunParts
    methods: Mapping[str, BoundMethod]
    pool: SegmentPool
    lane_threads: LaneThreads
    turns: Turns | None
    coroutines: Coroutines | None


class ReplicaLane:
    """Runs micro-batches that its router sends, until the connection ends."""

    def __init__(
        self, parts: LaneParts, channel: BlockingChannel, session: ReplicaSession, shown: Shown, side_by_side: bool
    ) -> None:
        """`side_by_side`: it hands `async def` methods to the event loop and takes the next; others run one micro-batch
        after another, whatever the method."""
        self.channel = channel
        self.session = session
        self.outbox = Outbox(channel, session, parts.pool, parts.runs.counts, self._read_meanwhile)
        # The router has nothing left for this lane: the deployment is another's.
        self.dismissed = False
        self._parts = parts
        self._retirement = parts.runs.retirement
        self._shown = shown
        self._waiting: collections.deque[frames.Execute] = collections.deque()
        self._spinner = Spinner(SPIN_NS_MAX)
        # What the router said is gone, from behind the last of those that wait.
        self._gone: collections.deque[frames.SegmentGone | frames.PeerGone] = collections.deque()
        # Who reads the connection, and the micro-batches whose threads did so before.
        self._thread: LaneThread | None = None
        self._reader = 0
        self._suspended: set[int] = set()
        # The micro-batch whose method the reading thread is in. Meanwhile another thread may read the connection,
        # which it does under the lock (`give_back`).
        self._inside = 0
        self._reading = threading.Lock()
        # The micro-batch of an `async def` method that this lane waits for, and who tells when it has ended.
        self._awaited = 0
        self._bell = None if side_by_side or parts.coroutines is None else Bell(channel.socket)
        # The micro-batch whose reply this thread streams, and its parts that the reader has not taken.
        self._streaming = 0
        self._unread = 0

    def __repr__(self) -> str:
        return f"<ReplicaLane to router {self.session.router.id:x}: {len(self._waiting)} micro-batches wait>"

    # ---- the connection

    def serve(self, thread: LaneThread) -> None:
        """Work until the connection ends, which raises Unavailable, or another thread has taken this one's place."""
        self._thread, self._reader = thread, threading.get_ident()
        while True:
            while self._waiting:
                self._execute(self._waiting.popleft())
                if self._thread is not thread:
                    return
            while self._gone:
                self._shown.gone(self._gone.popleft())
            # Awake, where the process has nothing else to do and the next one came soon the last time.
            idle = not self.session.contexts
            if idle and self._spinner.look(lambda: self._pump(0)):
                continue
            self._pump(None)
            if idle:
                self._spinner.slept()

    def _pump(self, timeout_s: float | None) -> Sequence[frames.Frame]:
        """Read the connection once: act on releases, set micro-batches aside. What now waits to be acted on."""
        for frame in self.channel.receive(timeout_s):
            if type(frame) is frames.Execute:
                self._waiting.append(frame)
                if frame.released:
                    self.session.release(frame.released)
            elif type(frame) is frames.Release:
                self.session.release(frame.regions, frame.lost)
            elif type(frame) is frames.Taken:
                if frame.id == self._streaming:
                    self._unread -= frame.parts
                else:
                    self.session.let_on(frame.id, frame.parts)
            elif type(frame) is frames.Segment:
                self.channel.take_segment()
            elif isinstance(frame, (frames.SegmentGone, frames.PeerGone)):
                self._gone.append(frame)
            elif type(frame) is frames.Goodbye:
                self.dismissed = True
                raise Unavailable("the router has nothing more for it")
        return self._waiting or self._gone

    def _read_meanwhile(self, timeout_s: float) -> bool:
        if self._reader != threading.get_ident():
            return False
        self._pump(timeout_s)
        return True

    def _refuse_waiting(self, why: str) -> None:
        """Other lanes may be free for what waits here."""
        while self._waiting:
            self.outbox.refuse(self._waiting.popleft(), Unavailable(why))

    def close(self) -> None:
        """Close the connection; what it showed is unmapped when nobody reads it any more."""
        if self._bell is not None:
            self._bell.close()
        self.channel.close()
        self._shown.end()

    # ---- for other threads

    def say_goodbye(self) -> None:
        """Ask the router for nothing more."""
        with contextlib.suppress(Unavailable):
            self.channel.send([frames.Goodbye()])

    def give_back(self) -> None:
        """The replica is retired: what waits behind the method goes to others. For another thread than the lane's."""
        with self._reading, contextlib.suppress(FlightserveError):
            if self._inside:
                self._pump(0)
                self._refuse_waiting(RETIRED)

    def held_by(self) -> list[int]:
        """The micro-batches that keep the lane from being done, by their ids: those whose methods wait for others, and
        the one that runs."""
        return [*self._suspended, *(each for each in (self._inside, self._awaited) if each)]

    # ---- one micro-batch

    def _execute(self, frame: frames.Execute) -> None:
        parts = self._parts
        method = parts.methods.get(frame.method)
        if self._retirement.reason:
            self.outbox.refuse(frame, Unavailable(RETIRED))
        elif method is None:
            self.outbox.refuse(frame, NotFound(f"this replica has no method {frame.method!r}"))
        elif parts.turns is not None and (self._bell is not None or not method.spec.is_async):
            self._take_turn(parts.turns, frame, method)
        else:
            run = Run(frame, method, self.outbox, parts.runs)
            answer = self._run(run)
            if answer is not None:
                run.finish(answer)

    def _take_turn(self, turns: Turns, frame: frames.Execute, method: BoundMethod) -> None:
        """Run the micro-batch when it may, so that its method may step aside."""
        while not turns.take(LOOK_S):
            if self._retirement.reason:
                self.outbox.refuse(frame, Unavailable(RETIRED))
                return
        try:
            turn = Turn(self, self.channel, turns, frame.batch_id, method.where)
            run = Run(frame, method, self.outbox, self._parts.runs)
            answer = self._run(run, turn)
        finally:
            turns.give()
        try:
            if answer is not None:
                run.finish(answer, turn.waited_ns)
        finally:
            self._suspended.discard(frame.batch_id)

    def _run(self, run: Run, turn: Turn | None = None) -> RunAnswer | None:
        """What the micro-batch is to be answered by; None where it has been refused, or answers by itself."""
        if not run.admit():
            return None
        if turn is not None and not run.method.spec.streaming:
            run.context.calls = turn
        elif self._parts.runs.origins is not None:
            run.context.calls = CalleeReport(self.channel, run.frame.batch_id)
        try:
            pieces = run.read()
            if not run.method.spec.is_async:
                token = enter(run.context)
                try:
                    self._inside = run.frame.batch_id
                    try:
                        result = run.method.run(pieces)
                    finally:
                        if turn is None or not turn.suspended:
                            self._leave_method()
                    del pieces
                    if run.method.spec.streaming:
                        return self._stream(run, result)
                    return run.write(result)
                finally:
                    leave(token)
            assert self._parts.coroutines is not None
            run.pieces, run.bell = pieces, self._bell
            del pieces
            self._parts.coroutines.start(run)
        except BaseException as error:
            # Whatever it is: a lane that ends here would leave its micro-batches to their deadlines.
            return run.explain(error)
        if self._bell is not None:
            self._await(run, self._bell)
        return None

    def _leave_method(self) -> None:
        """The method let go of this thread."""
        self._inside = 0
        if self._retirement.reason:
            # Not while another thread reads the connection. In this order: that one looks at `_inside` behind `reason`.
            with self._reading:
                pass

    def _await(self, run: Run, bell: Bell) -> None:
        """Until a coroutine has ended. The connection is read meanwhile: there a reader says what it took."""
        self._awaited = run.frame.batch_id
        try:
            while not run.answered:
                if bell.wait(PUMP_S):
                    self._pump(0)
                elif self._retirement.reason:
                    self._refuse_waiting(RETIRED)
                elif self.session.is_unread(run.frame.batch_id):
                    self._refuse_waiting(UNREAD)
        finally:
            self._awaited = 0

    def suspend(self, turn: Turn) -> bool:
        """The micro-batch's method waits, and another thread serves the lane. False where there is none, or too many
        wait already. For the thread that runs it."""
        if turn.suspended:
            return True
        thread, batch_id = self._thread, turn.batch_id
        if thread is None or len(self._suspended) >= SUSPENDED_MAX:
            return False
        self._leave_method()
        reader, self._reader, self._thread = self._reader, 0, None
        self._suspended.add(batch_id)
        turn.suspended = self._parts.lane_threads.hand_over(thread)
        if not turn.suspended:
            self._suspended.discard(batch_id)
            self._reader, self._thread, self._inside = reader, thread, batch_id
            return False
        with contextlib.suppress(Unavailable):
            self.channel.send([frames.Suspended(batch_id, turn.callee)])
        return True

    # ---- streams

    def _stream(self, run: Run, batches: Iterator[Rows]) -> frames.Done:
        """Send each batch as it is made; wait while too many lie unread. The stream's end has no region, or that of the
        batch which the method said is its last."""
        batch_id, context = run.frame.batch_id, run.context
        self._streaming, self._unread = batch_id, 0
        try:
            for batch in self._each(batch_id, batches):
                if context.last:
                    return frames.Done(batch_id, self.outbox.write(batch), batch.num_rows, True)
                self.outbox.send_part(batch_id, batch)
                self._unread += 1
                self._await_reader(context)
                if context.cancelled:
                    raise Cancelled("nobody waits for the stream any more")
        finally:
            close = getattr(batches, "close", None)
            if close is not None:
                close()
            self._streaming = 0
        return frames.Done(batch_id, None, 0, True)

    def _each(self, batch_id: int, batches: Iterator[Rows]) -> Iterator[Rows]:
        while True:
            self._inside = batch_id
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self._leave_method()
            yield batch

    def _await_reader(self, context: Context) -> None:
        """Wait while too many parts lie unread. What waits behind the stream is given back once the reader turns out
        to be slow: another lane may be free."""
        if self._unread < STREAM_WINDOW:
            return
        until_ns = monotonic_ns() + SLOW_READER_NS
        turns = self._parts.turns
        if turns is not None:
            turns.give()
        try:
            while self._unread >= STREAM_WINDOW and not context.cancelled:
                if monotonic_ns() >= until_ns:
                    self._refuse_waiting(UNREAD)
                self._pump(PUMP_S)
        finally:
            if turns is not None:
                turns.retake(f"{context.deployment}.{context.method}")
