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
import logging
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import pyarrow as pa

from flightserve.clock import monotonic_ns
from flightserve.contracts.context import Context, enter, leave
from flightserve.core.routing.credits import SUSPENDED_MAX
from flightserve.errors import (
    Cancelled,
    DeadlineExceeded,
    FlightserveError,
    NotFound,
    ReplicaFailed,
    ResourceExhausted,
    Unavailable,
    kind_of,
)
from flightserve.fabric.memory.batches import SchemaCache, write_batch
from flightserve.fabric.memory.segments import Shown
from flightserve.fabric.memory.stored import Stored
from flightserve.fabric.transport.channels import BlockingChannel
from flightserve.fabric.transport.spinning import Spinner
from flightserve.replica.bell import Bell
from flightserve.replica.columns import Apart, MethodResult, Rows
from flightserve.replica.coroutines import STREAM_WINDOW, Run
from flightserve.replica.faults import bare, failure
from flightserve.replica.inputs import Inputs
from flightserve.replica.lane_threads import LaneThread
from flightserve.replica.origins import given, handed_back
from flightserve.replica.session import RouterSession
from flightserve.replica.turns import LOOK_S, CalleeReport, Turn, Turns
from flightserve.wire import frames

if TYPE_CHECKING:
    from flightserve.replica.binding import BoundMethod
    from flightserve.replica.service import ReplicaService

log = logging.getLogger(__name__)

# A reader that takes nothing for so long is slow.
SLOW_READER_NS = 100_000_000
# How long a lane waits for memory before the micro-batch fails.
MEMORY_WAIT_S = 10.0
PUMP_S = 0.1
# How long a lane stays awake for the next micro-batch: a caller of small calls that waits for each reply takes 60 us.
SPIN_NS_MAX = 150_000
RETIRED = "the replica makes room for another"
UNREAD = "the replica waits for the reader of a stream"

# Of the messages of all parts of a micro-batch that failed by themselves: far below what a frame may hold.
FAULT_BYTES_MAX = 1 << 20

# How a micro-batch ended: result region (none at the end of a stream) and its rows, who is answered by what where
# that is not all by one, or an error.
Answer: TypeAlias = tuple[frames.Region | None, int] | list[frames.Share | frames.PartFault] | FlightserveError


class ReplicaLane:
    """Runs micro-batches that its router sends, until the connection ends."""

    def __init__(
        self,
        service: ReplicaService,
        channel: BlockingChannel,
        session: RouterSession,
        shown: Shown,
        side_by_side: bool,
    ) -> None:
        """`side_by_side`: it hands `async def` methods to the event loop and takes the next; others run one micro-batch
        after another, whatever the method."""
        self.service = service
        self.channel = channel
        self.session = session
        self._shown = shown
        # The router has nothing left for this lane: the deployment is another's.
        self.dismissed = False
        self._schemas = SchemaCache()
        self._waiting: collections.deque[frames.Execute] = collections.deque()
        self._spinner = Spinner(SPIN_NS_MAX)
        # What the router said is gone, from behind the last of those that wait.
        self._gone: collections.deque[frames.SegmentGone | frames.PeerGone] = collections.deque()
        self._keeping: list[Inputs] = []
        self._flushing = threading.Lock()
        # Who reads the connection, and the micro-batches whose threads did so before.
        self.thread: LaneThread | None = None
        self._reader = 0
        self.suspended: set[int] = set()
        # The micro-batch whose method the reading thread is in. Meanwhile another thread may read the connection,
        # which it does under the lock (`give_back`).
        self.inside = 0
        self._reading = threading.Lock()
        # The micro-batch of an `async def` method that this lane waits for, and who tells when it has ended.
        self.awaits = 0
        self._bell = None if side_by_side or service.coroutines is None else Bell(channel.socket)
        # The micro-batch whose reply this thread streams, and its parts that the reader has not taken.
        self._streaming = 0
        self._unread = 0

    # ---- frames in

    def serve(self, thread: LaneThread) -> None:
        """Work until the connection ends, which raises Unavailable, or another thread has taken this one's place."""
        self.thread, self._reader = thread, threading.get_ident()
        while True:
            while self._waiting:
                self._execute(self._waiting.popleft())
                if self.thread is not thread:
                    return
            while self._gone:
                self._shown.gone(self._gone.popleft())
            # Awake, where the process has nothing else to do and the next one came soon the last time.
            idle = not self.session.contexts
            if idle and self._spinner.look(lambda: self.pump(0)):
                continue
            self.pump(None)
            if idle:
                self._spinner.slept()

    def pump(self, timeout_s: float | None) -> Sequence[frames.Frame]:
        """Read the connection once: act on releases, set micro-batches aside. What now waits to be acted on."""
        for frame in self.channel.receive(timeout_s):
            if type(frame) is frames.Execute:
                self._waiting.append(frame)
                if frame.released:
                    self.session.released(frame.released)
            elif type(frame) is frames.Release:
                self.session.released(frame.regions, frame.lost)
            elif type(frame) is frames.Taken:
                if frame.id == self._streaming:
                    self._unread -= frame.parts
                else:
                    self.session.taken(frame.id, frame.parts)
            elif type(frame) is frames.Segment:
                self.channel.take_segment()
            elif isinstance(frame, (frames.SegmentGone, frames.PeerGone)):
                self._gone.append(frame)
            elif type(frame) is frames.Goodbye:
                self.dismissed = True
                raise Unavailable("the router has nothing more for it")
        return self._waiting or self._gone

    def close(self) -> None:
        """Close the connection; what it showed is unmapped when nobody reads it any more."""
        if self._bell is not None:
            self._bell.close()
        self.channel.close()
        self._shown.end()

    # ---- one micro-batch

    def _execute(self, frame: frames.Execute) -> None:
        started_ns = monotonic_ns()
        inputs = Inputs()
        if self.service.retired:
            self.refuse(frame, Unavailable(RETIRED))
            return
        method = self.service.methods.get(frame.method)
        if method is None:
            self.refuse(frame, NotFound(f"this replica has no method {frame.method!r}"))
            return
        turns = self.service.turns
        if turns is not None and (self._bell is not None or not method.spec.is_async):
            self._take_turn(turns, frame, inputs, method)
            return
        answer = self._answer(frame, inputs, method, started_ns)
        if answer is not None:
            self.finish(frame, inputs, answer, started_ns)

    def _take_turn(self, turns: Turns, frame: frames.Execute, inputs: Inputs, method: BoundMethod) -> None:
        """Run the micro-batch when it may, so that its method may step aside."""
        while not turns.take(LOOK_S):
            if self.service.retired:
                self.refuse(frame, Unavailable(RETIRED))
                return
        started_ns = monotonic_ns()
        turn = Turn(self, turns, frame.batch_id, method.where)
        try:
            answer = self._answer(frame, inputs, method, started_ns, turn)
        finally:
            turns.give()
        try:
            if answer is not None:
                self.finish(frame, inputs, answer, started_ns + turn.waited_ns)
        finally:
            self.suspended.discard(frame.batch_id)

    def _answer(
        self, frame: frames.Execute, inputs: Inputs, method: BoundMethod, now_ns: int, turn: Turn | None = None
    ) -> Answer | None:
        """What `answered` gives, or why there is nothing; None where that is sent already, or will be."""
        context = self._admit(frame, inputs, now_ns)
        if context is None:
            return None
        context.calls = CalleeReport(self, frame.batch_id) if turn is None or method.spec.streaming else turn
        handed_on = False
        context.idempotent = method.spec.idempotent
        try:
            pieces = inputs.pieces(frame, self.service.mapped, self._schemas)
            given(self.service.origins, pieces, inputs, self.session)
            if method.spec.is_async:
                assert self.service.coroutines is not None
                run = Run(self, frame, inputs, method, pieces, context)
                del pieces
                self.service.coroutines.start(run)
                handed_on = True
                if self._bell is not None:
                    self._await(run, self._bell)
                return None
            token = enter(context)
            try:
                self.inside = frame.batch_id
                try:
                    result = method.run(pieces)
                finally:
                    if turn is None or not turn.suspended:
                        self._outside()
                del pieces
                if method.spec.streaming:
                    return self._stream(frame, result, context)
                return self.answered(result, inputs)
            finally:
                leave(token)
        except BaseException as error:
            # Whatever it is: a lane that ends here would leave its micro-batches to their deadlines.
            return bare(failure(error, method.where, log, context.described()))
        finally:
            if not handed_on:
                self.session.left(frame.batch_id)

    def _admit(self, frame: frames.Execute, inputs: Inputs, now_ns: int) -> Context | None:
        """The door: the micro-batch's context, or None where nobody could use its result any more. Requests that are
        late do not run, if the others can do without them (`Inputs.drop_late`)."""
        name = self.service.spec.name
        context = self.session.begin(name, frame)
        if context.earliest_ns <= now_ns:
            dead = context.deadline <= now_ns
            late = len(frame.parts) if dead else inputs.drop_late(frame, now_ns)
            self.service.count(f"{name}.expired_at_door", late)
            if late and not dead:
                everybodys, context = context, self.session.begin(name, frame)
                if everybodys.cancelled:
                    context.cancel()
            elif dead:
                self.session.left(frame.batch_id)
                self.refuse(frame, DeadlineExceeded("the deadline passed before the method could start"))
                return None
        if context.cancelled:
            self.session.left(frame.batch_id)
            self.refuse(frame, Cancelled("nobody waits for the result any more"))
            return None
        return context

    def refuse(self, frame: frames.Execute, error: FlightserveError) -> None:
        """Turn the micro-batch away at the door: it did not run."""
        self.service.count("refused")
        self.channel.send([frames.Failed(frame.batch_id, kind_of(error), error.message, ran=False)])

    def finish(self, frame: frames.Execute, inputs: Inputs, answer: Answer, started_ns: int) -> None:
        """Send the micro-batch's last frame, with word of the regions user code keeps."""
        busy_ns = monotonic_ns() - started_ns
        kept = inputs.settle()
        if isinstance(answer, FlightserveError):
            self.send(frames.Failed(frame.batch_id, kind_of(answer), answer.message, True, kept))
        elif isinstance(answer, list):
            shares = [each for each in answer if isinstance(each, frames.Share)]
            faults = [each for each in answer if isinstance(each, frames.PartFault)]
            done = frames.Done(frame.batch_id, None, 0, True, kept, busy_ns, shares, faults)
            self.send(done, *[share.region for share in shares])
        else:
            region, rows = answer
            self.send(frames.Done(frame.batch_id, region, rows, True, kept, busy_ns), *([region] if region else ()))
        if kept:
            # Behind the frame that says what is kept: another thread may flush at any moment, and a release of what
            # the router does not know to be kept would be lost.
            with self._flushing:
                self._keeping.append(inputs)
        self.service.ran(frame, busy_ns)
        if isinstance(answer, ReplicaFailed):
            self.service.broken(answer)

    def _stream(
        self, frame: frames.Execute, batches: Iterator[pa.RecordBatch], context: Context
    ) -> tuple[frames.Region | None, int]:
        """Send each batch as it is made; wait while too many lie unread. The stream's end has no region, or that of the
        batch which the method said is its last."""
        self._streaming, self._unread = frame.batch_id, 0
        try:
            for batch in self._made(frame, batches):
                if context.last:
                    return self.write(batch), batch.num_rows
                self.send_part(frame, batch)
                self._unread += 1
                self._await_reader(context)
                if context.cancelled:
                    raise Cancelled("nobody waits for the stream any more")
        finally:
            close = getattr(batches, "close", None)
            if close is not None:
                close()
            self._streaming = 0
        return None, 0

    def _made(self, frame: frames.Execute, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        while True:
            self.inside = frame.batch_id
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self._outside()
            yield batch

    def _outside(self) -> None:
        """The method let go of this thread."""
        self.inside = 0
        if self.service.retired:
            # Not while another thread reads the connection. In this order: that one looks at `inside` behind `retired`.
            with self._reading:
                pass

    def suspend(self, turn: Turn, batch_id: int) -> bool:
        """The micro-batch's method waits, and another thread serves the lane. False where there is none, or too many
        wait already. For the thread that runs it."""
        if turn.suspended:
            return True
        thread = self.thread
        if thread is None or len(self.suspended) >= SUSPENDED_MAX:
            return False
        self._outside()
        reader, self._reader, self.thread = self._reader, 0, None
        self.suspended.add(batch_id)
        turn.suspended = self.service.lane_threads.hand_over(thread)
        if not turn.suspended:
            self.suspended.discard(batch_id)
            self._reader, self.thread, self.inside = reader, thread, batch_id
            return False
        with contextlib.suppress(Unavailable):
            self.channel.send([frames.Suspended(batch_id, turn.callee)])
        return True

    def give_back(self) -> None:
        """The replica is retired: what waits behind the method goes to others. For another thread than the lane's."""
        with self._reading, contextlib.suppress(FlightserveError):
            if self.inside:
                self.pump(0)
                self._refuse_waiting(RETIRED)

    def _await_reader(self, context: Context) -> None:
        """Wait while too many parts lie unread. What waits behind the stream is given back once the reader turns out
        to be slow: another lane may be free."""
        if self._unread < STREAM_WINDOW:
            return
        until_ns = monotonic_ns() + SLOW_READER_NS
        turns = self.service.turns
        if turns is not None:
            turns.give()
        try:
            while self._unread >= STREAM_WINDOW and not context.cancelled:
                if monotonic_ns() >= until_ns:
                    self._refuse_waiting(UNREAD)
                self.pump(PUMP_S)
        finally:
            if turns is not None:
                turns.retake(f"{context.deployment}.{context.method}")

    def _await(self, run: Run, bell: Bell) -> None:
        """Until a coroutine has ended. The connection is read meanwhile: there a reader says what it took."""
        self.awaits = run.frame.batch_id
        try:
            while not run.answered:
                if bell.wait(PUMP_S):
                    self.pump(0)
                elif self.service.retired:
                    self._refuse_waiting(RETIRED)
                elif self.session.is_unread(run.frame.batch_id):
                    self._refuse_waiting(UNREAD)
        finally:
            self.awaits = 0

    def ended(self) -> None:
        """A coroutine of this lane's has ended. Any thread."""
        if self._bell is not None:
            self._bell.ring()

    def _refuse_waiting(self, why: str) -> None:
        """Other lanes may be free for what waits here."""
        while self._waiting:
            self.refuse(self._waiting.popleft(), Unavailable(why))

    def send_part(self, frame: frames.Execute, batch: Rows) -> None:
        """Send one batch of a streamed reply."""
        region = self.write(batch)
        self.send(frames.Done(frame.batch_id, region, batch.num_rows, False), region)

    # ---- memory and frames out

    def write(self, batch: Rows) -> frames.Region:
        """The result in a region of this process, written unless it lies there; one lease on it is the answer's.
        Raises ResourceExhausted where memory stays full."""
        if type(batch) is pa.RecordBatch:
            return write_batch(batch, self._schemas, self._allocate)
        if isinstance(batch, Stored):
            return batch.taken()
        region = self.write(batch.batch)
        try:
            batch.written(region)
        except BaseException:
            self.service.pool.free(region.segment, region.offset)
            raise
        return region

    def answered(self, result: MethodResult, inputs: Inputs) -> Answer:
        """A method's result, written. Raises ResourceExhausted where memory stays full."""
        places = inputs.parts
        if passed := handed_back(self.service.origins, result, inputs, self.session):
            return [passed]
        if isinstance(result, Stored) and result.offsets:
            result = [Apart([0], result, result.counts)]
        if not isinstance(result, list):
            region = self.write(result)
            return (region, result.num_rows) if places is None else [frames.Share(region, result.num_rows, places)]
        shares: list[frames.Share | frames.PartFault] = []
        text_bytes_max = FAULT_BYTES_MAX // max(1, len(result))
        try:
            for parts, batch, counts in result:
                own = list(parts) if places is None else [places[part] for part in parts]
                if isinstance(batch, FlightserveError):
                    shares.append(frames.PartFault(own, kind_of(batch), batch.message[: text_bytes_max // 4]))
                else:
                    offsets = batch.offsets if isinstance(batch, Stored) else []
                    shares.append(frames.Share(self.write(batch), batch.num_rows, own, list(counts), offsets))
        except BaseException:
            for share in shares:
                if isinstance(share, frames.Share):
                    self.service.pool.free(share.region.segment, share.region.offset)
            raise
        return shares

    def _allocate(self, nbytes: int) -> tuple[frames.Region, memoryview]:
        pool = self.service.pool
        got = pool.allocate(nbytes)
        if got is None:
            until_ns = monotonic_ns() + int(MEMORY_WAIT_S * 1e9)
            while got is None and monotonic_ns() < until_ns:
                if self._reader == threading.get_ident():
                    self.pump(PUMP_S)
                    got = pool.allocate(nbytes)
                else:
                    got = pool.wait(nbytes, PUMP_S)
        if got is None:
            raise ResourceExhausted(
                f"the replica's shared memory stayed full; a result of {nbytes} bytes found no room"
            )
        return got

    def send(self, frame: frames.Frame, *regions: frames.Region) -> None:
        """Send a frame and the releases that wait; shows the segments of its regions first if need be."""
        out = [frame, *self._late_releases()] if self._keeping else [frame]
        announcements: tuple[tuple[frames.Segment, int], ...] = ()
        for region in [each for each in regions if each.owner == self.service.peer_id]:
            self.session.sent(region.segment, region.offset)
            if (region.owner, region.segment) not in self.channel.known:
                announcements += (self.service.pool.announcement(region.segment),)
        try:
            self.channel.send(out, announcements)
        except Unavailable:
            self.session.released([(region.owner, region.segment, region.offset) for region in regions], lost=True)
            raise

    def flush(self) -> None:
        """Send releases of regions that user code kept and has let go. Any thread."""
        if self._keeping:
            late = self._late_releases()
            if late:
                with contextlib.suppress(Unavailable):
                    self.channel.send(late)

    def _late_releases(self) -> list[frames.Frame]:
        with self._flushing:
            keys = [key for inputs in self._keeping for key in inputs.returned()]
            self._keeping = [inputs for inputs in self._keeping if inputs.holding]
        return [frames.Release(keys)] if keys else []
