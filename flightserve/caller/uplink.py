"""What every connection from a caller to a router has in common: staging requests, reading results.

A caller writes a request's rows once, into a region of its own process's pool, and sends the region's
descriptor. The region comes back by a `Release` when nobody reads it any more. Results arrive as row ranges
of a replica's region; one lease serves all requests answered by one frame, and is given back when the last
Arrow buffer over it dies, with the next frames that go that way.

What was sent is remembered until its outcome is there, so that it can be sent to another router (`orphans`).
A router takes as many requests from one connection as its Hello offered; one more is refused here.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import pyarrow as pa

from flightserve.clock import NS_PER_S
from flightserve.config import EdgeLimits
from flightserve.contracts.service import EncodedStream, Passed, Payload
from flightserve.errors import (
    DeadlineExceeded,
    FlightserveError,
    InvalidArgument,
    ProtocolError,
    ResourceExhausted,
    from_kind,
)
from flightserve.fabric.conversion.casting import fitted
from flightserve.fabric.memory.batches import SchemaCache, encoded, own_rows, read_batch, write_batch
from flightserve.fabric.memory.decode import decode_stream, validate_batch
from flightserve.fabric.memory.segments import SegmentMap, SegmentPool, Shown
from flightserve.types import MethodSpec, RequestMeta
from flightserve.wire import frames
from flightserve.wire.table import Peer

# How long past its deadline a request waits for a router that should have refused it.
GRACE_NS: Final = 1 * NS_PER_S

# Delivered for each event of a request: (index given at submission, result, error, last).
Deliver = Callable[[int, "SharedSlice | None", FlightserveError | None, bool], None]


class MemoryFull(Exception):
    """No region of that size is free now; `nbytes` says how much is wanted."""

    def __init__(self, nbytes: int) -> None:
        super().__init__(f"{nbytes} bytes of shared memory are not free now")
        self.nbytes = nbytes


class _Shared(msgspec.Struct, eq=False):
    """A leased result region, decoded at most once."""

    buffer: pa.Buffer
    memory: memoryview
    schemas: SchemaCache
    region: frames.Region
    router_id: int
    decoded: pa.RecordBatch | None = None

    def batch(self) -> pa.RecordBatch:
        if self.decoded is None:
            self.decoded = read_batch(self.buffer, self.memory, self.schemas)
        return self.decoded


class SharedSlice(msgspec.Struct, eq=False):
    """Rows of a result region (`contracts.service.Result`)."""

    shared: _Shared
    offset: int
    num_rows: int

    @property
    def origin(self) -> tuple[int, int]:
        """Which shared result this is a slice of, and from which row: slices of one origin share columns."""
        return id(self.shared), self.offset

    def batch(self) -> pa.RecordBatch:
        """The rows: zero-copy where the slice is all of its region, otherwise in buffers of their own."""
        whole = self.shared.batch()
        return whole if self.num_rows == whole.num_rows else own_rows(whole.slice(self.offset, self.num_rows))

    def whole(self) -> pa.RecordBatch:
        """All rows of the region, of which this slice is a part."""
        return self.shared.batch()

    def ipc_stream(self) -> bytes | pa.Buffer:
        """The rows as one Arrow IPC stream: the region itself where the slice is all of it."""
        if self.num_rows == self.shared.batch().num_rows:
            return self.shared.buffer
        return encoded(self.batch(), self.shared.schemas)


class Sent(msgspec.Struct, eq=False):
    """Where requests went and what they were: all that one `Submit` says beside its parts. `passed` is what was passed
    on, where the region is another process's: it is kept for as long as the requests, and with it the region."""

    deployment: str
    spec: MethodSpec
    region: frames.Region
    epoch: int
    passed: Passed | None = None

    def submit(self, key: str, parts: list[frames.Part]) -> frames.Submit:
        """The frame that says so."""
        rows = self.passed.rows if self.passed is not None else 0
        return frames.Submit(key, self.spec.name, self.region, parts, self.epoch, rows=rows)


class Pending(msgspec.Struct, eq=False):
    """A request that has no outcome yet. `begun`: a part of its reply was delivered. `losses`: how many routers
    were lost with it."""

    deliver: Deliver
    index: int
    part: frames.Part
    sent: Sent
    begun: bool = False
    losses: int = 0


class RequestIds:
    """Ids that are unique in this process, and so stay a request's own with another router. Thread-safe."""

    __slots__ = ("_lock", "_next")

    def __init__(self) -> None:
        self._next = 1
        self._lock = threading.Lock()

    def take(self, count: int) -> int:
        """The first of so many ids that follow each other."""
        with self._lock:
            first = self._next
            self._next = first + count
        return first


class RouterSession:
    """What this process's connections to one router share, until one of them is lost: then all end."""

    __slots__ = ("credits", "ended", "outstanding", "router")

    def __init__(self, router: Peer) -> None:
        self.router = router
        # Regions the router was sent, as (segment, offset).
        self.outstanding: set[tuple[int, int]] = set()
        # Requests that each connection may have in flight; 0 until the router said how many.
        self.credits = 0
        self.ended = False

    def greeted(self, hello: frames.Hello) -> None:
        """The router's first frame. Raises ProtocolError where it is not the one that the table names."""
        if hello.peer_id != self.router.id or hello.protocol != frames.PROTOCOL_VERSION:
            raise ProtocolError(f"router {hello.peer_id:x} answers in the place of {self.router.id:x}")
        self.credits = hello.credits


class Uplink:
    """Bookkeeping of one connection to a router. The I/O is its subclass's or owner's."""

    def __init__(
        self,
        pool: SegmentPool,
        mapped: SegmentMap,
        limits: EdgeLimits,
        session: RouterSession,
        request_ids: RequestIds,
        on_moved: Callable[[list[tuple[int, Pending]]], None],
    ) -> None:
        """`on_moved` is given requests that the router never dispatched, whose regions were kept once more for each."""
        self.pool = pool
        self.mapped = mapped
        self.shown = Shown(mapped)
        self.limits = limits
        self.session = session
        self.schemas = SchemaCache()
        self.pending: dict[int, Pending] = {}
        self.released: collections.deque[tuple[int, int, int]] = collections.deque()
        self._request_ids = request_ids
        self._on_moved = on_moved
        # Each has one writer: what registers, and what receives. They may be two threads.
        self.registered = 0
        self.answered = 0
        # Of those registered, how many had been sent before; and how many were counted as sent for the first time.
        self.repeated = 0
        self.counted = 0

    # ---- requests

    def _allocate(self, nbytes: int) -> tuple[frames.Region, memoryview]:
        got = self.pool.allocate(nbytes)
        if got is None:
            raise MemoryFull(nbytes)
        return got

    @property
    def in_flight(self) -> int:
        """Requests that the router has not answered, those that were given up here included."""
        return self.registered - self.answered

    def count_sent(self) -> int:
        """Requests that were sent here for the first time since this was last called."""
        first = self.registered - self.repeated
        news, self.counted = first - self.counted, first
        return news

    def stage(
        self, payload: Payload, spec: MethodSpec, where: str, trusted: bool = False, requests: int = 1
    ) -> tuple[frames.Region, int]:
        """Write the payload of that many requests into a region: (region, rows). Raises InvalidArgument or
        SchemaMismatch for what the method cannot take, MemoryFull while there is no room, ResourceExhausted when
        the router has not offered to take so many."""
        if self.registered - self.answered + requests > self.session.credits:
            raise ResourceExhausted(
                f"{self.in_flight} requests of this process are in flight at the router; it takes "
                f"{self.session.credits} at a time; retry later"
            )
        if isinstance(payload, Passed):
            taken = fitted(payload.batch, spec, where, self.limits.body_bytes_max)
            if taken is payload.batch and payload.router_id == self.session.router.id:
                return payload.region, payload.batch.num_rows
            payload, trusted = payload.batch, True
        if isinstance(payload, EncodedStream):
            region, rows = self._stage_stream(payload, spec, where)
        else:
            if not trusted:
                validate_batch(payload, self.limits)
            payload = fitted(payload, spec, where, self.limits.body_bytes_max)
            region, rows = write_batch(payload, self.schemas, self._allocate), payload.num_rows
        self.session.outstanding.add((region.segment, region.offset))
        return region, rows

    def _stage_stream(self, payload: EncodedStream, spec: MethodSpec, where: str) -> tuple[frames.Region, int]:
        nbytes = sum(len(piece) for piece in payload.pieces)
        if nbytes < 8:
            raise InvalidArgument(f"an Arrow IPC stream is expected; the body has {nbytes} bytes")
        region, memory = self._allocate(nbytes)
        try:
            position = 0
            for piece in payload.pieces:
                memory[position : position + len(piece)] = piece
                position += len(piece)
            batch = decode_stream(pa.py_buffer(memory), self.limits)
            taken = fitted(batch, spec, where, self.limits.body_bytes_max)
            if taken is batch and self._is_plain(batch, memory):
                known = self.schemas.at_head(memory)
                staged = frames.Region(region.owner, region.segment, region.offset, nbytes, known.schema_id)
                return staged, batch.num_rows
            rewritten = write_batch(taken, self.schemas, self._allocate)
        except BaseException:
            self.pool.free(region.segment, region.offset)
            raise
        self.pool.free(region.segment, region.offset)
        return rewritten, batch.num_rows

    def _is_plain(self, batch: pa.RecordBatch, memory: memoryview) -> bool:
        """True when the stream holds one uncompressed batch and nothing else, so that readers of the region
        find it where this data plane puts its own."""
        if bytes(memory[:4]) != b"\xff\xff\xff\xff":
            return False
        known = self.schemas.at_head(memory)
        start = len(known.message)
        if known.dictionaries or len(memory) < start + 8:
            return False
        expected = pa.ipc.get_record_batch_size(batch)
        rest = len(memory) - start - expected
        return rest == 0 or (rest == 8 and bytes(memory[start + expected :]) == b"\xff\xff\xff\xff\0\0\0\0")

    def register(
        self, sent: Sent, parts: Sequence[tuple[int, RequestMeta]], deliver: Deliver, first_index: int = 0
    ) -> list[frames.Part]:
        """The wire parts of requests whose rows lie one after another in the region, now pending."""
        out: list[frames.Part] = []
        offset = 0 if sent.passed is None else sent.passed.row
        request_id = self._request_ids.take(len(parts))
        for index, (rows, meta) in enumerate(parts, first_index):
            part = frames.Part(
                request_id, offset, rows, meta.deadline_ns, meta.priority, meta.request_id, meta.traceparent
            )
            self.pending[request_id] = Pending(deliver, index, part, sent)
            out.append(part)
            offset += rows
            request_id += 1
        self.registered += len(out)
        return out

    # ---- what comes back

    def receive(self, frame: frames.Frame) -> None:
        """Act on a frame of the router's; delivers results and errors."""
        if type(frame) is frames.Results:
            self._results(frame)
        elif type(frame) is frames.Release:
            self._give_back(frame.regions, self.pool.abandon if frame.lost else self.pool.free)
        elif isinstance(frame, frames.Outcome):
            self.answered += 1
            self.fail([frame.request_id], from_kind(frame.kind, frame.message, frame.retry_after_ms))
        elif isinstance(frame, frames.Moved):
            self._moved(frame)
        elif isinstance(frame, (frames.SegmentGone, frames.PeerGone)):
            self.shown.gone(frame)

    def _results(self, frame: frames.Results) -> None:
        shared = None
        if frame.region is not None:
            buffer, memory = self.mapped.lease(frame.region, self.released.append)
            shared = _Shared(buffer, memory, self.schemas, frame.region, self.session.router.id)
        for item in frame.items:
            pending = self.pending.get(item.request_id)
            if item.last:
                self.answered += 1
            if pending is None:
                continue
            if item.last:
                del self.pending[item.request_id]
            else:
                pending.begun = True
            result = None if shared is None else SharedSlice(shared, item.row_offset, item.rows)
            pending.deliver(pending.index, result, None, item.last)
        if frame.released:
            self._give_back(frame.released, self.pool.free)

    def _give_back(self, regions: list[tuple[int, int, int]], give_back: Callable[[int, int], None]) -> None:
        """Nobody that the router knows of reads these any more."""
        outstanding = self.session.outstanding
        for _, segment, offset in regions:
            if (segment, offset) in outstanding:
                outstanding.discard((segment, offset))
                give_back(segment, offset)

    def ride(self, out: list[frames.Frame]) -> None:
        """Add the leases given back since the last time to the frames that are about to be sent."""
        released = self.released
        if not released:
            return
        keys = []
        while released:
            keys.append(released.popleft())
        last = out[-1] if out else None
        if type(last) is frames.Submit:
            last.released = keys
        else:
            out.append(frames.Release(keys))

    def _moved(self, frame: frames.Moved) -> None:
        """Kept before the router's Release of their region can be read."""
        moved = []
        written: dict[int, Sent | None] = {}
        for request_id in frame.request_ids:
            self.answered += 1
            pending = self.pending.pop(request_id, None)
            if pending is not None and (pending.sent.passed is None or self._written(pending, written)):
                region = pending.sent.region
                self.pool.keep(region.segment, region.offset)
                moved.append((request_id, pending))
        for sent in written.values():
            if sent is not None:
                # Of what was sent from here a router's Release ends this one.
                self.pool.free(sent.region.segment, sent.region.offset)
        self._on_moved(moved)

    def _written(self, pending: Pending, written: dict[int, Sent | None]) -> bool:
        """What was passed on goes to a router that does not have it: its rows are written, once for all requests that
        came together. Where there is no room they end."""
        before = pending.sent
        assert before.passed is not None
        if id(before) not in written:
            try:
                region = write_batch(before.passed.batch, self.schemas, self._allocate)
                written[id(before)] = Sent(before.deployment, before.spec, region, before.epoch)
            except MemoryFull:
                written[id(before)] = None
        sent = written[id(before)]
        if sent is None:
            error = ResourceExhausted("the deployment moved, and there is no shared memory to send it the rows again")
            pending.deliver(pending.index, None, error, True)
            return False
        pending.sent = sent
        pending.part.row_offset -= before.passed.row
        return True

    def take_pending(self) -> list[tuple[int, Pending]]:
        """The connection is lost: what is pending, from now on somebody else's to end."""
        taken = []
        while self.pending:
            taken.append(self.pending.popitem())
        return taken

    def fail(self, request_ids: Sequence[int], error: FlightserveError) -> None:
        """End these requests here, whatever the router may still say of them."""
        for request_id in request_ids:
            pending = self.pending.pop(request_id, None)
            if pending is not None:
                pending.deliver(pending.index, None, error, True)

    def end_overdue(self, now_ns: int) -> None:
        """End the requests whose deadline is past by so much that the router must be stuck."""
        late_ns = now_ns - GRACE_NS
        overdue = [number for number, pending in list(self.pending.items()) if pending.part.deadline_ns < late_ns]
        if overdue:
            self.fail(overdue, DeadlineExceeded("the deadline passed and the router did not answer"))
