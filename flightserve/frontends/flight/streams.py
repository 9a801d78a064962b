"""One DoExchange or DoPut stream: requests in, replies out in the order of the requests.

pyarrow's server gives each stream a thread and has two rules that shape this module. A status is sent only
when the handler returns, and the handler must not return while another thread is inside `read_chunk`: gRPC then
frees what the reader stands on, and the process aborts. So a read that waits for the client while a request
fails would keep the error from the client, who waits for it in turn.

Hence a stream is read only as far ahead as its client has shown to send ahead. It starts with one thread that
reads, submits, receives and writes: the fastest way for a client that waits for each reply. When several
batches in a row are found waiting (the kernel did not count the thread as having slept in the read: measured true
for 96 to 100 % of the reads of a client that sends ahead and 0 to 3 % of one that waits, where clocks told nothing
on a busy machine), a second thread takes over the reading, and may have `ahead` requests in
flight; each batch that is found waiting raises that number by one, to `window` at most, and a client that
is seen to wait for a reply lowers it to what it had outstanding. An error that meets a read in spite of that
(a client that stops sending without half-closing) waits `ERROR_GRACE_S` for it; then the connection is cut.

Row-aligned requests that were sliced are answered by one batch. Streaming methods run one request of a stream at a
time, so that no reply of a later request piles up behind an earlier one.
"""

from __future__ import annotations

import resource
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import pyarrow as pa

from flightserve import threads
from flightserve.clock import NEVER_NS, NS_PER_S, monotonic_ns
from flightserve.config import EdgeLimits
from flightserve.contracts.service import Lane, Reply
from flightserve.errors import OK, Cancelled, FlightserveError, InvalidArgument, MethodFailed, TooLarge, Unavailable
from flightserve.fabric.conversion.exact import Misfit, as_schema
from flightserve.fabric.memory.batches import alike
from flightserve.frontends.flight.errors import unforeseen
from flightserve.types import MethodSpec, RequestMeta

# A batch found waiting later than this after the last reply began to be written is weak evidence: on a busy
# machine the client's whole round fits between the two (measured: 60 us and more), while this thread waits for
# its turn. It still counts, because on a busy machine no other is to be had.
ROUND_NS: Final = 100_000
STRONG: Final = 4
WEAK: Final = 1
# The evidence that must come in a row, with no read that had to wait between, before the stream is read ahead.
AHEAD_AFTER: Final = 8
# How often a thread that waits for a reply looks whether the client is still there.
POLL_S: Final = 0.1
ERROR_GRACE_S: Final = 1.0


class ReplySink(Protocol):
    """Where a stream's replies go."""

    def write(self, batch: pa.RecordBatch, metadata: pa.Buffer | None) -> None:
        """Send one reply with its request's metadata; blocks while the client does not read."""
        ...


class ExchangeSink:
    """Replies written to the client of a DoExchange. The first reply's schema is the stream's: where types follow from
    the rows, later replies are given its types if those hold their values."""

    def __init__(self, writer: Any, where: str) -> None:
        self._writer = writer
        self._where = where
        self.schema: pa.Schema | None = None

    def write(self, batch: pa.RecordBatch, metadata: pa.Buffer | None) -> None:
        """See `ReplySink`. Raises MethodFailed when the schema changed, Cancelled when the client is gone."""
        if self.schema is None:
            self.begin(batch.schema)
        elif not self.schema.equals(batch.schema):
            batch = self._alike(batch, self.schema)
        try:
            if metadata is None:
                self._writer.write_batch(batch)
            else:
                self._writer.write_with_metadata(batch, metadata)
        except pa.ArrowInvalid as error:
            raise Cancelled(f"the reply could not be sent: {error}") from error
        except (pa.ArrowException, OSError) as error:
            raise Cancelled("the client is gone") from error

    def _alike(self, batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
        try:
            return as_schema(batch, schema)
        except Misfit as error:
            reason = str(error)
        before = f"{self._where} answered with another schema than before ({reason})"
        raise MethodFailed(f"{before}: a Flight stream has one schema")

    def begin(self, schema: pa.Schema) -> None:
        """Send the stream's schema."""
        self.schema = schema
        try:
            self._writer.begin(schema)
        except (pa.ArrowException, OSError) as error:
            raise Cancelled("the client is gone") from error


class NoSink:
    """For DoPut: the batches are sent for their effect alone."""

    def write(self, batch: pa.RecordBatch, metadata: pa.Buffer | None) -> None:
        """Drop the reply."""


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

    __slots__ = ("arrived_ns", "held", "metadata", "parts")

    def __init__(self, metadata: pa.Buffer | None, arrived_ns: int) -> None:
        self.metadata = metadata
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
    ) -> None:
        """`is_cancelled` says whether the client is gone, `cut` ends its connection, `took` is told the bytes of each
        batch that came, `answered` each request's code and seconds."""
        self._reader = reader
        self._sink = sink
        self._lane = lane
        self._target = target
        self._body_bytes_max = limits.body_bytes_max
        self._is_cancelled = is_cancelled
        self._cut = cut
        self._took = took
        self._answered = answered
        self._window = 1 if target.method.streaming else limits.stream_window
        self._row_aligned = target.method.row_aligned and not target.method.streaming
        self._requests: dict[int, _Request] = {}
        self._order: deque[int] = deque()
        self._next_key = 1
        self._input_ended = False
        self._input_error: FlightserveError | None = None
        self._ahead = 1
        self._streak = 0
        self._read_sleeps = 0
        self._read_bytes = 0
        self._write_began_ns = 0
        self._written = 0
        self._second: threading.Thread | None = None
        self._changed = threading.Condition(threading.Lock())
        self._second_waits = False
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
            self._ended = self._ended or error
            if self._ended is error:
                # Not "from" itself: an error that is its own cause is never freed by counting references.
                raise
            raise self._ended from error
        except BaseException as error:
            self._ended = unforeseen(self._target.where, error)
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
            code = Cancelled.code

    def _step(self) -> bool:
        if self._ended is not None:
            raise self._ended
        if self._second is None:
            if not self._order:
                return self._read_in_turn()
            if len(self._order) < self._ahead and not self._input_ended:
                self._read_ahead()
        elif not self._order:
            self._await_second()
            return True
        self._receive()
        return True

    def _read_in_turn(self) -> bool:
        """With nothing in flight: read one batch and submit it. False at the end of the stream."""
        if self._input_ended:
            return self._finish()
        sleeps = _sleeps()
        if self._read_one():
            # Not before the second batch: the first one may come with the call itself.
            waiting = self._read_sleeps == sleeps and self._written > 0
            soon = self.moved_ns - self._write_began_ns < ROUND_NS + 2 * self._read_bytes
            self._streak = self._streak + (STRONG if soon else WEAK) if waiting else 0
            if self._streak >= AHEAD_AFTER:
                self._ahead = min(2, self._window)
        return True

    def _finish(self) -> bool:
        if self._input_error is not None:
            raise self._input_error
        return False

    def _receive(self) -> None:
        if self._input_ended:
            # The last request may have failed at its submission: then no reply will come for it.
            self._answer_held()
            if not self._order:
                return
        reply = self._lane.receive(POLL_S)
        if reply is not None:
            self._sort(reply)
        elif self._is_cancelled():
            raise Cancelled("the client is gone")
        else:
            self._answer_held()

    def _sort(self, reply: Reply) -> None:
        if reply.key == self._order[0]:
            self._answer(self._requests[reply.key], reply)
            if self._order and self._requests[self._order[0]].held:
                self._answer_held()
            return
        request = self._requests.get(reply.key)
        if request is not None:
            request.held = request.held or deque()
            request.held.append(reply)

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
            if not self._row_aligned or (reply.last and request.parts is None):
                self._write(batch, request.metadata)
            else:
                request.parts = request.parts or []
                request.parts.append(batch)
        if reply.last:
            if request.parts is not None:
                self._write(pa.concat_batches(alike(request.parts, self._target.method)), request.metadata)
            self._answered(OK, (monotonic_ns() - request.arrived_ns) / NS_PER_S)
            del self._requests[reply.key]
            self._order.popleft()
            if self._second_waits:
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
        try:
            chunk = self._reader.read_chunk()
            self._read_sleeps = _sleeps()
            self.moved_ns = arrived_ns = monotonic_ns()
            batch = chunk.data
            if self._refusal is not None:
                raise self._refusal
            if batch is None:
                raise InvalidArgument("a message without a record batch: every message is one request")
            self._read_bytes = nbytes = batch.get_total_buffer_size()
            self._took(nbytes)
            if nbytes > self._body_bytes_max:
                raise TooLarge(f"a batch of {nbytes} bytes; at most {self._body_bytes_max} are taken")
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
        request = self._requests[key] = _Request(metadata, arrived_ns)
        self._order.append(key)
        try:
            self._lane.submit(
                key, target.deployment, target.method.name, batch,
                RequestMeta(deadline_ns, meta.priority, meta.request_id, meta.traceparent),
            )  # fmt: skip
        except FlightserveError as error:
            # Told in its turn: the replies of earlier requests come first.
            request.held = deque([Reply(key, None, error, True)])
            self._input_ended = True

    # ---- reading ahead

    def _read_ahead(self) -> None:
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
            with self._changed:
                self._second = None
                self._changed.notify_all()

    def _second_step(self) -> bool:
        """Read one batch when there is room for it. False when the reading goes back to the RPC's thread."""
        if not self._await_room():
            return False
        sleeps, written, in_flight = _sleeps(), self._written, len(self._order)
        if not self._read_one():
            return False
        if self._read_sleeps == sleeps:
            self._ahead = min(self._ahead + 1, self._window)
        elif len(self._order) == 1:
            self._ahead, self._streak = 1, 0
            return False
        elif self._written != written and in_flight >= 2:
            self._ahead = in_flight
        return not self._input_ended

    def _await_room(self) -> bool:
        with self._changed:
            self._changed.notify_all()
            self._second_waits = True
            while len(self._order) >= self._ahead and self._ended is None:
                self._changed.wait()
            self._second_waits = False
        return self._ended is None

    def _await_second(self) -> None:
        """Nothing is in flight and the other thread reads: wait for what it brings."""
        with self._changed:
            self._changed.wait_for(lambda: self._order or self._second is None or self._ended, POLL_S)

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


def _sleeps() -> int:
    """How often this thread has slept so far."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def _unreadable(error: BaseException) -> InvalidArgument:
    return InvalidArgument(f"the batch cannot be read: {error}")
