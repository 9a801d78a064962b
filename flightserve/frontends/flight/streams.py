"""One DoExchange or DoPut stream: requests in, replies out in the order of the requests.

pyarrow's server gives each stream a thread and has two rules that shape this module. A status is sent only
when the handler returns, and the handler must not return while another thread is inside `read_chunk`: gRPC then
frees what the reader stands on, and the process aborts. So a read that waits for the client while a request
fails would keep the error from the client, who waits for it in turn.

Hence a stream is read only as far ahead as its client has shown to send ahead; `core.overload.read_ahead` decides that.
What it is told is whether a read had to wait: the kernel counted the thread as having slept in it (measured: true for
0 to 4 % of the reads of a client that sends ahead and 97 to 100 % of one that waits, where clocks told nothing on a
busy machine). Read in turn, one thread reads, submits, receives and writes; read ahead, a second one does the reading.
An error that meets a read in spite of that (a client that stops sending without half-closing) waits `ERROR_GRACE_S`
for it; then the connection is cut.

What was read ahead leaves together (`caller.lane_groups`): a request behind others that are on their way waits while
the client's next batch is there already and there is room for it, until that room is full or a reply has come. And who
reads ahead is not woken for each place that comes free, but when all replies that are there were written.

Row-aligned requests that were sliced are answered by one batch. Streaming methods run one request of a stream at a
time, so that no reply of a later request piles up behind an earlier one.
"""

from __future__ import annotations

import resource
import threading
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from flightserve import threads
from flightserve.clock import NEVER_NS, NS_PER_S, monotonic_ns
from flightserve.config import EdgeLimits
from flightserve.contracts.access import Visit
from flightserve.contracts.service import Lane, Reply
from flightserve.core.overload.read_ahead import ReadAhead
from flightserve.errors import OK, Cancelled, FlightserveError, InvalidArgument, TooLarge, Unavailable
from flightserve.fabric.memory.batches import alike
from flightserve.fabric.memory.decode import check_schema
from flightserve.frontends.edge import traced
from flightserve.frontends.flight.errors import unforeseen
from flightserve.frontends.flight.sinks import ReplySink
from flightserve.types import MethodSpec, RequestMeta

# How often a thread that waits for a reply looks whether the client is still there.
POLL_S: Final = 0.1
ERROR_GRACE_S: Final = 1.0


# Told what the trace of a request needs: its metadata, code, and when it came.
EndedSpan = Callable[[RequestMeta, int, int], None]


@dataclass(frozen=True, slots=True)
class Target:
    """What a stream's requests are for. `timeout_ns` counts from each batch's arrival."""

    deployment: str
    method: MethodSpec
    timeout_ns: int
    meta: RequestMeta

    @property
    def where(self) -> str:
        """The method's full name, for messages."""
        return f"{self.deployment}.{self.method.name}"


class _Request:
    """One batch that was read and is not answered in full."""

    __slots__ = ("arrived_ns", "held", "meta", "metadata", "parts", "rows", "visit")

    def __init__(self, metadata: pa.Buffer | None, arrived_ns: int, meta: RequestMeta) -> None:
        self.visit: Visit | None = None
        self.rows = 0
        self.metadata = metadata
        self.meta = meta
        self.arrived_ns = arrived_ns
        self.parts: list[pa.RecordBatch] | None = None
        self.held: deque[Reply] | None = None


class RequestStream:
    """Runs one stream in the RPC's thread; see the module's text. `peer` names the client's connection."""

    def __init__(
        self,
        reader: Any,
        sink: ReplySink,
        lane: Lane,
        target: Target,
        limits: EdgeLimits,
        is_cancelled: Callable[[], bool],
        cut: Callable[[], bool],
        took: Callable[[int], None],
        answered: Callable[[int, float], None],
        ended_span: EndedSpan | None = None,
        begin: Callable[[RequestMeta, int], Visit] | None = None,
    ) -> None:
        """`is_cancelled` says whether the client is gone, `cut` ends its connection, `took` is told the bytes of each
        batch that came, `answered` each request's code and seconds; `ended_span` is there where some are traced, and
        `begin` lets a request of so many bytes in, where callers have to say who they are."""
        self._reader = reader
        self._sink = sink
        self._lane = lane
        self._target = target
        self._limits = limits
        self._schema_checked = False
        self._is_cancelled = is_cancelled
        self._cut = cut
        self._took = took
        self._answered = answered
        self._ended_span = ended_span
        self._begin = begin
        self._ahead = ReadAhead(1 if target.method.streaming else limits.stream_window)
        self._row_aligned = target.method.row_aligned and not target.method.streaming
        self._requests: dict[int, _Request] = {}
        self._order: deque[int] = deque()
        self._next_key = 1
        self._input_ended = False
        self._input_error: FlightserveError | None = None
        self._read_waited = False
        self._read_bytes = 0
        self._write_began_ns = 0
        self._written = 0
        self._second: threading.Thread | None = None
        self._changed = threading.Condition(threading.Lock())
        self._first_waits = self._second_waits = False
        self._ended: FlightserveError | None = None
        self._refusal: FlightserveError | None = None
        self.moved_ns = monotonic_ns()
        self.writing = False

    # ---- for the watchdog and for the shutdown, from other threads

    @property
    def in_flight(self) -> int:
        """Requests that were read and are not answered."""
        return len(self._order)

    def idle_s(self, now_ns: int) -> float:
        """How long nothing moved for the client's sake; 0 while a request of it runs."""
        return 0.0 if self._order and not self.writing else (now_ns - self.moved_ns) / NS_PER_S

    def refuse_input(self, error: FlightserveError) -> None:
        """Take no further batch; the stream ends with this error at the next one."""
        self._refusal = error

    def end(self, error: FlightserveError) -> None:
        """Make the stream fail with this error as soon as it can be told; its requests are cancelled."""
        self._ended = self._ended or error
        self._lane.close()
        with self._changed:
            self._changed.notify_all()

    # ---- the RPC's thread

    def run(self) -> None:
        """Serve the stream to its end. Raises the FlightserveError that it ends with."""
        try:
            while self._step():
                pass
        except FlightserveError as error:
            # They hold replies, whose rows are leased and whose errors hold them in turn.
            traceback.clear_frames(error.__traceback__)
            self._ended = self._ended or error
            if self._ended is error:
                # Not "from" itself: an error that is its own cause is never freed by counting references.
                raise
            raise self._ended from error
        except BaseException as error:
            self._ended = unforeseen(self._target.where, error)
            traceback.clear_frames(error.__traceback__)
            raise self._ended from error
        finally:
            self._lane.close()
            self._retire()
            self._count_unanswered()
            self._forget()

    def _forget(self) -> None:
        """Break the cycle of this object, the error it ended with, and the frames of that error's traceback, which
        hold the last reply's rows, hence a lease, until some collection of garbage."""
        self._ended = Unavailable("the stream has ended")
        self._input_error = None
        self._refusal = None
        self._requests.clear()
        self._order.clear()

    def _count_unanswered(self) -> None:
        """The oldest request got the stream's error; those behind it were cancelled."""
        now_ns = monotonic_ns()
        code = Cancelled.code if self._ended is None else self._ended.code
        for request in self._requests.values():
            self._answered(code, (now_ns - request.arrived_ns) / NS_PER_S)
            if self._ended_span is not None:
                self._ended_span(request.meta, code, request.arrived_ns)
            if request.visit is not None:
                request.visit.end(code, request.rows)
            code = Cancelled.code

    def _step(self) -> bool:
        if self._ended is not None:
            raise self._ended
        if self._second is None:
            if not self._order:
                return self._read_in_turn()
            if len(self._order) < self._ahead.allowed and not self._input_ended:
                self._start_second()
        elif not self._order:
            self._await_second()
            return True
        self._receive()
        return True

    def _read_in_turn(self) -> bool:
        """With nothing in flight: read one batch and submit it. False at the end of the stream."""
        if self._input_ended:
            if self._input_error is not None:
                raise self._input_error
            return False
        if self._read_one():
            since_reply_ns = self.moved_ns - self._write_began_ns if self._written else None
            self._ahead.note_turn(self._read_waited, since_reply_ns, self._read_bytes)
        return True

    def _receive(self) -> None:
        if self._input_ended:
            # The last request may have failed at its submission: then no reply will come for it.
            self._answer_held()
            if not self._order:
                return
        reply = self._lane.receive(0) if self._second_waits else None
        if reply is None:
            # Only now: who is woken for each place that comes free reads one batch at a time.
            self._let_read()
            reply = self._lane.receive(POLL_S)
        if reply is None:
            if self._is_cancelled():
                raise Cancelled("the client is gone")
            self._answer_held()
        elif reply.key == self._order[0]:
            self._answer(self._requests[reply.key], reply)
            if self._order and self._requests[self._order[0]].held:
                self._answer_held()
        elif (later := self._requests.get(reply.key)) is not None:
            later.held = later.held or deque()
            later.held.append(reply)

    def _answer_held(self) -> None:
        while self._order:
            request = self._requests[self._order[0]]
            if not request.held:
                return
            self._answer(request, request.held.popleft())

    def _answer(self, request: _Request, reply: Reply) -> None:
        """Write a reply of the oldest request; with the last one the request is done."""
        if reply.error is not None:
            raise reply.error
        if reply.result is not None:
            batch = reply.result.batch()
            request.rows += batch.num_rows
            if not self._row_aligned or (reply.last and request.parts is None):
                self._write(batch, request.metadata)
            else:
                request.parts = request.parts or []
                request.parts.append(batch)
        if reply.last:
            if request.parts is not None:
                self._write(pa.concat_batches(alike(request.parts, self._target.method)), request.metadata)
            self._answered(OK, (monotonic_ns() - request.arrived_ns) / NS_PER_S)
            if self._ended_span is not None:
                self._ended_span(request.meta, OK, request.arrived_ns)
            if request.visit is not None:
                request.visit.end(OK, request.rows)
            del self._requests[reply.key]
            self._order.popleft()

    def _let_read(self) -> None:
        if self._second_waits and len(self._order) < self._ahead.allowed:
            with self._changed:
                self._changed.notify_all()

    def _write(self, batch: pa.RecordBatch, metadata: pa.Buffer | None) -> None:
        self._write_began_ns = monotonic_ns()
        self.writing = True
        self._sink.write(batch, metadata)
        self._written += 1
        self.moved_ns = monotonic_ns()
        self.writing = False

    # ---- reading, by whichever thread has the turn

    def _read_one(self) -> bool:
        """Read a batch and submit it. False, and `_input_ended` set, when none came."""
        # How often this thread has slept so far.
        sleeps = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        try:
            chunk = self._reader.read_chunk()
            self._read_waited = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw != sleeps
            self.moved_ns = arrived_ns = monotonic_ns()
            batch = chunk.data
            if self._refusal is not None:
                raise self._refusal
            if batch is None:
                raise InvalidArgument("a message without a record batch: every message is one request")
            self._read_bytes = nbytes = batch.get_total_buffer_size()
            self._took(nbytes)
            if nbytes > self._limits.body_bytes_max:
                raise TooLarge(f"a batch of {nbytes} bytes; at most {self._limits.body_bytes_max} are taken")
            if not self._schema_checked:
                check_schema(batch.schema, self._limits)
                self._schema_checked = True
        except StopIteration:
            self._input_ended = True
            return False
        except FlightserveError as error:
            return self._fail_input(error)
        except (pa.ArrowException, ValueError, OSError) as error:
            return self._fail_input(Cancelled("the client is gone") if self._is_cancelled() else _unreadable(error))
        self._submit(batch, chunk.app_metadata, arrived_ns)
        return True

    def _fail_input(self, error: FlightserveError) -> bool:
        self._input_error = error
        self._input_ended = True
        return False

    def _submit(self, batch: pa.RecordBatch, metadata: pa.Buffer | None, arrived_ns: int) -> None:
        target = self._target
        meta = target.meta
        deadline_ns = min(arrived_ns + target.timeout_ns, NEVER_NS)
        key = self._next_key
        self._next_key = key + 1
        own = RequestMeta(
            deadline_ns, meta.priority, meta.request_id, meta.traceparent, meta.key, meta.caller, "",
            None if meta.tables is None else [], meta.tracestate,
        )  # fmt: skip
        if self._ended_span is not None:
            own = traced(own)
        request = self._requests[key] = _Request(metadata, arrived_ns, own)
        self._order.append(key)
        try:
            if self._begin is not None:
                request.visit = self._begin(own, self._read_bytes)
            self._lane.submit(key, target.deployment, target.method.name, batch, own, patient=self._second is not None)
            # Behind those that are on their way it may wait for what the client, who is ahead, has sent already. The
            # thread that receives looks for what waits when it has answered one: here that was before, or it will be.
            if self._read_waited or not 1 < len(self._order) < self._ahead.allowed:
                self._lane.hurry()
        except FlightserveError as error:
            # Told in its turn: the replies of earlier requests come first.
            request.held = deque([Reply(key, None, error, True)])
            self._input_ended = True

    # ---- reading ahead

    def _start_second(self) -> None:
        with self._changed:
            # It may end at once, and says so under the lock.
            self._second = threads.start("flightserve-flight-read", self._run_second, lambda: True)

    def _run_second(self) -> None:
        try:
            while self._second_step():
                pass
        except BaseException as error:
            self._fail_input(unforeseen(self._target.where, error))
        finally:
            self._lane.hurry()
            with self._changed:
                self._second = None
                self._changed.notify_all()

    def _second_step(self) -> bool:
        """Read one batch when there is room for it. False when the reading goes back to the RPC's thread."""
        if not self._await_room():
            return False
        written, in_flight = self._written, len(self._order)
        if not self._read_one():
            return False
        stays = self._ahead.note_ahead(self._read_waited, in_flight, len(self._order), self._written != written)
        return stays and not self._input_ended

    def _await_room(self) -> bool:
        with self._changed:
            if self._first_waits:
                self._changed.notify_all()
            self._second_waits = True
            while len(self._order) >= self._ahead.allowed and self._ended is None:
                self._changed.wait()
            self._second_waits = False
        return self._ended is None

    def _await_second(self) -> None:
        """Nothing is in flight and the other thread reads: wait for what it brings."""
        with self._changed:
            self._first_waits = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._order or self._second is None or self._ended, POLL_S)
            self._first_waits = False

    def _retire(self) -> None:
        """Wait until the other thread is out of gRPC; see the module's text for why this must be."""
        second = self._second
        if second is None:
            return
        with self._changed:
            if self._ended is None:
                self._ended = Unavailable("the stream has ended")
            self._changed.notify_all()
        second.join(ERROR_GRACE_S)
        while second.is_alive():
            self._cut()
            second.join(ERROR_GRACE_S)


def _unreadable(error: BaseException) -> InvalidArgument:
    return InvalidArgument(f"the batch cannot be read: {error}")
