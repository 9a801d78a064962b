"""Running one micro-batch, from the frame that brings it to the frame that answers it.

The steps are the same for every method; only who takes the middle one differs:

| step | what it does |
|---|---|
| `admit` | makes the context; turns away at the door what is late, or wanted by nobody |
| `read` | maps the rows out of their callers' regions |
| the method | on the thread that reads the lane (`replica.lane`), or on the event loop (`replica.coroutines`) |
| `write` | the result, into this process's memory, as the frame that answers |
| `finish` | sends that frame, or the error, with word of the regions that user code keeps |
"""

from __future__ import annotations

import itertools
import logging
from functools import partial
from typing import Final, NamedTuple, TypeAlias

import pyarrow as pa

from flightserve.clock import monotonic_ns
from flightserve.errors import Cancelled, DeadlineExceeded, FlightserveError, ReplicaFailed, kind_of
from flightserve.fabric.memory.segments import SegmentMap
from flightserve.fabric.memory.stored import Stored
from flightserve.replica.apart import Apart, MethodResult
from flightserve.replica.bell import Bell
from flightserve.replica.binding import BoundMethod
from flightserve.replica.counts import Counts
from flightserve.replica.faults import bare, report_failure
from flightserve.replica.inputs import Inputs
from flightserve.replica.origins import Origin, Origins, lend_back
from flightserve.replica.outbox import Outbox
from flightserve.replica.retiring import Retirement
from flightserve.replica.run_spans import RunSpans
from flightserve.wire import frames

log = logging.getLogger(__name__)

# Of the messages of all requests of a micro-batch that failed by themselves: far below what a frame may hold.
FAULT_BYTES_MAX: Final = 1 << 20

# How a micro-batch ended: the frame with its result (`kept` and `busy_ns` are not known yet), or an error.
RunAnswer: TypeAlias = frames.Done | FlightserveError


class RunParts(NamedTuple):
    """What every run of a replica uses. `name` is the deployment's; `origins` is there where methods call others,
    `spans` where requests are traced. `tells_tables`: it runs statements, and what they read is noted."""

    name: str
    mapped: SegmentMap
    origins: Origins | None
    counts: Counts
    retirement: Retirement
    spans: RunSpans | None = None
    tells_tables: bool = False


class Run:
    """One micro-batch. `bell` rings when it has been answered by another thread than the lane's, which waits for it."""

    __slots__ = (
        "_given", "_parts", "answered", "bell", "context", "frame", "inputs", "method", "outbox", "pieces", "span",
        "started_ns", "waited_ns",
    )  # fmt: skip

    def __init__(self, frame: frames.Execute, method: BoundMethod, outbox: Outbox, parts: RunParts) -> None:
        self.frame = frame
        self.method = method
        self.outbox = outbox
        self.started_ns = monotonic_ns()
        # How long the event loop took to begin it.
        self.waited_ns = 0
        self.inputs = Inputs()
        # The rows, between two threads.
        self.pieces: list[pa.RecordBatch] = []
        self.bell: Bell | None = None
        self.answered = False
        # What the method gets where it lies in one region: the batch, the region, and its first row there.
        self._given: tuple[pa.RecordBatch, frames.Region, int] | None = None
        self._parts = parts
        # Where a request of it is traced.
        self.span = None if parts.spans is None else parts.spans.begin(frame)
        context = self.context = outbox.session.begin(parts.name, frame)
        context.idempotent, context.spans = method.spec.idempotent, self.span
        if parts.tells_tables:
            context.tell_tables = partial(outbox.tell_tables, frame.batch_id)

    def __repr__(self) -> str:
        return f"<Run of {self.method.where}, micro-batch {self.frame.batch_id}>"

    def admit(self) -> bool:
        """Whether anybody can still use the result; otherwise the micro-batch has been refused. Requests that are late
        do not run where the others can do without them (`Inputs.drop_late`)."""
        context = self.context
        if context.earliest_ns <= self.started_ns and not self._drop_late():
            return self._refuse(DeadlineExceeded("the deadline passed before the method could start"))
        if self.context.cancelled:
            return self._refuse(Cancelled("nobody waits for the result any more"))
        return True

    def _drop_late(self) -> bool:
        """Count the requests that are late, and take them out. False where all are."""
        before, frame = self.context, self.frame
        dead = before.deadline <= self.started_ns
        late = len(frame.parts) if dead else self.inputs.drop_late(frame, self.started_ns)
        self._parts.counts.add(f"{self._parts.name}.expired_at_door", late)
        if late and not dead:
            self.context = self.outbox.session.begin(self._parts.name, frame)
            self.context.idempotent, self.context.spans = before.idempotent, before.spans
            self.context.tell_tables = before.tell_tables
            if before.cancelled:
                self.context.cancel()
        return not dead

    def _refuse(self, error: FlightserveError) -> bool:
        if self.span is not None:
            self.span.end(error)
        self.outbox.session.leave(self.frame.batch_id)
        self.outbox.refuse(self.frame, error)
        return False

    def read(self) -> list[pa.RecordBatch]:
        """The rows, in order. Raises ProtocolError or InvalidArgument for rows that are not there."""
        parts, inputs = self._parts, self.inputs
        pieces = inputs.pieces(self.frame, parts.mapped, self.outbox.schemas)
        # From here on whoever has the rows keeps their region.
        place, inputs.place = inputs.place, None
        if place is not None:
            self._given = pieces[0], place[0], place[1]
            if parts.origins is not None:
                parts.origins.note(pieces[0], Origin(*place, self.outbox.session.router.id, is_input=True))
        return pieces

    def write(self, result: MethodResult) -> frames.Done:
        """The method's result in this process's memory, as the frame that answers with it. Raises ResourceExhausted
        where memory stays full."""
        batch_id, inputs, origins = self.frame.batch_id, self.inputs, self._parts.origins
        given, self._given = self._given, None
        if given is not None and result is given[0]:
            return self._give_back(*given)
        session, given_regions = self.outbox.session, self.frame.regions
        if origins is not None and (lent := lend_back(origins, result, inputs, session, given_regions)):
            return frames.Done(batch_id, None, 0, True, shares=[lent])
        if isinstance(result, Stored) and result.offsets:
            result = [Apart([0], result, result.counts)]
        if isinstance(result, list):
            return self._write_apart(result)
        region = self.outbox.write(result)
        if inputs.parts is None:
            return frames.Done(batch_id, region, result.num_rows, True)
        return frames.Done(batch_id, None, 0, True, shares=[frames.Share(region, result.num_rows, inputs.parts)])

    def _give_back(self, batch: pa.RecordBatch, region: frames.Region, row: int) -> frames.Done:
        """The method answered what it got: the rows stay where they lie. The router keeps the region for as long as
        this micro-batch, so that nothing has to be lent to it."""
        batch_id, parts, counts, rows = self.frame.batch_id, self.inputs.parts, self.inputs.rows, batch.num_rows
        self.outbox.keep_own(region)
        if not row and parts is None:
            return frames.Done(batch_id, region, rows, True)
        offsets = list(itertools.accumulate(counts, initial=row))[:-1]
        places = list(range(len(counts))) if parts is None else parts
        return frames.Done(batch_id, None, 0, True, shares=[frames.Share(region, rows, places, counts, offsets)])

    def _write_apart(self, result: list[Apart]) -> frames.Done:
        done = frames.Done(self.frame.batch_id, None, 0, True)
        places = self.inputs.parts
        text_bytes_max = FAULT_BYTES_MAX // max(1, len(result))
        try:
            for parts, rows, counts in result:
                own = list(parts) if places is None else [places[part] for part in parts]
                if isinstance(rows, FlightserveError):
                    done.faults.append(frames.PartFault(own, kind_of(rows), rows.message[: text_bytes_max // 4]))
                else:
                    offsets = rows.offsets if isinstance(rows, Stored) else []
                    region = self.outbox.write(rows)
                    done.shares.append(frames.Share(region, rows.num_rows, own, list(counts), offsets))
        except BaseException:
            for share in done.shares:
                self.outbox.free(share.region)
            raise
        return done

    @property
    def alone(self) -> bool:
        """It is for one request."""
        return self.inputs.parts is None and len(self.frame.parts) == 1

    def send_part(self, result: MethodResult) -> bool:
        """Send a part of a streamed reply that is not its last. False where it has rows for nobody."""
        if not isinstance(result, list):
            if self.alone:
                self.outbox.send_part(self.frame.batch_id, result)
                return True
            result = [Apart([0], result, [result.num_rows])]
        if not result:
            return False
        done = self._write_apart(result)
        done.last = False
        self.outbox.send(done, *[share.region for share in done.shares])
        return True

    def explain(self, error: BaseException) -> FlightserveError:
        """What the caller is told of what user code raised, or a library, or we. It keeps no rows alive."""
        return bare(report_failure(error, self.method.where, log, self.context.describe()))

    def finish(self, answer: RunAnswer, idle_ns: int = 0) -> None:
        """The micro-batch is over: send its last frame. Call it once, when nothing of ours refers to its rows any more.
        `idle_ns` is how long its code did not run. Raises Unavailable where the connection has ended."""
        outbox, inputs = self.outbox, self.inputs
        self._given = None
        outbox.session.leave(self.frame.batch_id)
        busy_ns = monotonic_ns() - self.started_ns - idle_ns
        kept = inputs.settle()
        if self.span is not None:
            self.span.end(answer)
        if isinstance(answer, FlightserveError):
            outbox.send(frames.Failed(self.frame.batch_id, kind_of(answer), answer.message, True, kept))
        else:
            answer.kept, answer.busy_ns, answer.waited_ns = kept, busy_ns, self.waited_ns
            regions = [share.region for share in answer.shares] if answer.region is None else [answer.region]
            outbox.send(answer, *regions)
        if kept:
            outbox.keep(inputs)
        self._parts.counts.add_run(self.frame, busy_ns)
        if isinstance(answer, ReplicaFailed):
            # What the object serves from is broken for good.
            self._parts.retirement.retire(answer.message)
