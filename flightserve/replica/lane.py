"""A lane: one connection of a replica to its router, one thread that reads it, one micro-batch at a time.

The thread that reads the socket runs the method and writes the result, so that a micro-batch costs no hand-over
between threads. One whose method waits for a call onwards lets another thread have the lane (`replica.turns`). While
it is in user code nobody reads its socket; that is what the replica's main connection is for (heartbeats, abandoned
requests). A lane that waits for memory, or for slow readers of its streams, reads its socket while it waits, because
that is where regions come back. Generators give a part each in turn (`replica.lane_streams`).
"""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, ParamSpec, TypeVar

from flightserve.clock import NS_PER_MS, monotonic_ns
from flightserve.contracts.context import enter, leave
from flightserve.core.routing.credits import SUSPENDED_MAX
from flightserve.errors import Cancelled, FlightserveError, NotFound, Unavailable
from flightserve.fabric.memory.segments import SegmentPool, Shown
from flightserve.fabric.transport.channels import BlockingChannel
from flightserve.fabric.transport.spinning import Spinner
from flightserve.replica.bell import Bell
from flightserve.replica.binding import BoundMethod
from flightserve.replica.coroutines import Coroutines
from flightserve.replica.lane_streams import LaneStream, LaneStreams
from flightserve.replica.lane_threads import LaneThread, LaneThreads
from flightserve.replica.outbox import Outbox
from flightserve.replica.run import Run, RunAnswer, RunParts
from flightserve.replica.session import ReplicaSession
from flightserve.replica.turns import LOOK_S, CalleeReport, Turn, Turns
from flightserve.wire import frames

P = ParamSpec("P")
T = TypeVar("T")

# A reader that takes nothing for so long is slow.
SLOW_READER_NS: Final = 100 * NS_PER_MS
# How long a wait for something else reads the connection before it looks again.
PUMP_S: Final = 0.1
# How old what a lane knows of its connection may be between two parts of streams: looking behind each costs a fifth.
STALE_NS: Final = NS_PER_MS
RETIRED: Final = "the replica makes room for another"
UNREAD: Final = "the replica waits for the reader of a stream"


class LaneParts(NamedTuple):
    """What all lanes of a replica use. `coroutines` is there where it has `async def` methods, `turns` where its
    methods may wait for others; `takes_turns` is the deployment's (`DeploymentSpec`), `awake_percent_max` the
    fabric's (`FabricLimits`)."""

    runs: RunParts
    methods: Mapping[str, BoundMethod]
    pool: SegmentPool
    lane_threads: LaneThreads
    turns: Turns | None
    coroutines: Coroutines | None
    takes_turns: bool
    awake_percent_max: int


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
        self._spinner = Spinner.of_percent(parts.awake_percent_max)
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
        self._streams = LaneStreams()
        # When it was last read between two parts of them.
        self._looked_ns = 0

    def __repr__(self) -> str:
        return f"<ReplicaLane to router {self.session.router.id:x}: {len(self._waiting)} micro-batches wait>"

    # ---- the connection

    def serve(self, thread: LaneThread) -> None:
        """Work until the connection ends, which raises Unavailable, or another thread has taken this one's place."""
        self._thread, self._reader = thread, threading.get_ident()
        while True:
            while self._waiting and not (self._streams and not self._parts.takes_turns):
                self._execute(self._waiting.popleft())
                if self._thread is not thread:
                    return
                if self._streams:
                    break
            while self._gone and not self._waiting:
                self._shown.gone(self._gone.popleft())
            if self._streams:
                self._stream_on()
                continue
            # Awake, where the process has nothing else to do and the next one came soon the last time.
            idle = not self.session.contexts
            if idle and self._spinner.look(self._look):
                continue
            self._pump(None)
            if idle:
                self._spinner.slept()

    def _look(self) -> Sequence[frames.Frame]:
        return self._pump(0) if self.channel.ready() else ()

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
                if not self._streams.note_taken(frame.id, frame.parts):
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
        for stream in self._streams:
            with contextlib.suppress(Unavailable):
                self._end_stream(stream, Unavailable("the connection to the router has ended"))
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
        """The micro-batches that keep the lane from being done, by their ids: those whose methods wait for others, or
        have begun to stream, and the one that runs."""
        streams = [stream.run.frame.batch_id for stream in self._streams]
        return [*self._suspended, *streams, *(each for each in (self._inside, self._awaited) if each)]

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
        stream: LaneStream | None = None
        try:
            pieces = run.read()
            if run.method.spec.is_async:
                assert self._parts.coroutines is not None
                run.pieces, run.bell = pieces, self._bell
                del pieces
                self._parts.coroutines.start(run)
            elif run.method.spec.streaming:
                stream = LaneStream(run, run.method.run(pieces))
                del pieces
            else:
                token = enter(run.context)
                try:
                    self._inside = run.frame.batch_id
                    try:
                        result = run.method.run(pieces)
                    finally:
                        if turn is None or not turn.suspended:
                            self._inside = 0
                            if self._retirement.reason:
                                self._leave_method()
                    del pieces
                    return run.write(result)
                finally:
                    leave(token)
        except BaseException as error:
            # Whatever it is: a lane that ends here would leave its micro-batches to their deadlines.
            return run.explain(error)
        if stream is not None:
            self._streams.add(stream)
            self._step(stream)
        elif self._bell is not None:
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

    def _stream_on(self) -> None:
        """Have the next part made of the stream whose turn it is, and read the connection."""
        stream = self._streams.next()
        if stream is None:
            self._pump(PUMP_S)
            if not self._parts.takes_turns:
                self._refuse_behind_slow()
            return
        turns = self._parts.turns
        if turns is None:
            self._step(stream)
        else:
            while not turns.take(LOOK_S):
                pass
            try:
                self._step(stream)
            finally:
                turns.give()
        now_ns = monotonic_ns()
        if now_ns - self._looked_ns >= STALE_NS:
            self._looked_ns = now_ns
            self._pump(0)

    def _refuse_behind_slow(self) -> None:
        """Give back what waits behind a stream whose reader turns out to be slow: another lane may be free."""
        now_ns = monotonic_ns()
        for stream in self._streams:
            stream.waits_since_ns = stream.waits_since_ns or now_ns
            if now_ns - stream.waits_since_ns >= SLOW_READER_NS:
                self._refuse_waiting(UNREAD)

    def _step(self, stream: LaneStream) -> None:
        """Ask a generator for its next part and send it, or its end."""
        began_ns = monotonic_ns()
        try:
            answer = self._part(stream)
        except BaseException as error:
            answer = stream.run.explain(error)
        stream.busy_ns += monotonic_ns() - began_ns
        if answer is not None:
            self._end_stream(stream, answer)
        if self._parts.takes_turns and (aside := self._streams.suspend()) is not None:
            self.channel.send([frames.Suspended(aside.run.frame.batch_id)])

    def _part(self, stream: LaneStream) -> RunAnswer | None:
        """Send the next part, unless it is what the stream is to be answered by. The end has no region, or that of the
        part which the method said is its last."""
        batch_id, context = stream.run.frame.batch_id, stream.run.context
        if context.cancelled:
            raise Cancelled("nobody waits for the stream any more")
        batch = self._inside_of(stream, next, stream.batches, None)
        if batch is None:
            return frames.Done(batch_id, None, 0, True)
        if context.last and stream.run.alone and not isinstance(batch, list):
            return frames.Done(batch_id, self.outbox.write(batch), batch.num_rows, True)
        stream.unread += stream.run.send_part(batch)
        return frames.Done(batch_id, None, 0, True) if context.last else None

    def _end_stream(self, stream: LaneStream, answer: RunAnswer) -> None:
        """The generator is over, or is closed, and its micro-batch is answered. Raises as `Run.finish`."""
        self._streams.remove(stream)
        close = getattr(stream.batches, "close", None)
        if close is not None:
            self._inside_of(stream, close)
        run = stream.run
        run.finish(answer, monotonic_ns() - run.started_ns - stream.busy_ns)

    def _inside_of(self, stream: LaneStream, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call what runs the generator's code."""
        self._inside = stream.run.frame.batch_id
        try:
            return stream.variables.run(function, *args, **kwargs)
        finally:
            self._leave_method()
