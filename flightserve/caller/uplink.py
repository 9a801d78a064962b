"""What every connection from a caller to a router has in common: sending requests, reading results.

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
from typing import Final, NamedTuple, Protocol

import msgspec
from msgspec import structs

from flightserve.caller.destinations import CallsAhead, Destination
from flightserve.caller.memory import CallerMemory
from flightserve.caller.results import SharedRegion, SharedSlice
from flightserve.caller.staging import MemoryFull, Staged, Staging
from flightserve.clock import NS_PER_S
from flightserve.config import EdgeLimits
from flightserve.contracts.service import Passed, Payload
from flightserve.errors import DeadlineExceeded, FlightserveError, ProtocolError, ResourceExhausted, from_kind
from flightserve.fabric.conversion.casting import fitted, passes
from flightserve.fabric.memory.batches import write_batch
from flightserve.fabric.memory.segments import RELEASES_TOGETHER, SMALL_REGION_BYTES_MAX, Shown
from flightserve.types import MethodSpec, RequestMeta, add_tables
from flightserve.wire import frames
from flightserve.wire.table import Peer

# How long past its deadline a request waits for a router that should have refused it.
GRACE_NS: Final = 1 * NS_PER_S

# Delivered for each event of a request: (index given at submission, result, error, last).
Deliver = Callable[[int, "SharedSlice | None", FlightserveError | None, bool], None]


class Sent(msgspec.Struct, eq=False):
    """Where requests went and what they were: all that one `Submit` says beside its parts. `passed` is what was passed
    on, where the region is another process's: it is kept for as long as the requests, and with it the region. `chain`
    are the calls that follow, and `stage` is the number of this one in its pipeline, 0 where it is in none."""

    deployment: str
    spec: MethodSpec
    region: frames.Region
    epoch: int
    passed: Passed | None = None
    chain: CallsAhead | None = None
    stage: int = 0

    @property
    def idempotent(self) -> bool:
        """Whether it may run again, with all that follows."""
        ahead = self.chain.ahead if self.chain is not None else ()
        return self.spec.idempotent and all(each.method.idempotent for each in ahead)

    def tell(self, frame: frames.Submit) -> None:
        """The router of the pipeline that this is a call of."""
        frame.stage = self.stage
        if self.chain is not None:
            frame.then = self.chain.calls


class Pending(msgspec.Struct, eq=False):
    """A request that has no outcome yet. `begun`: a part of its reply was delivered. `losses`: how many routers
    were lost with it. `partway`: what it had come to when it was given back in the middle of a pipeline. `tables`: as
    `RequestMeta` has it."""

    deliver: Deliver
    index: int
    part: frames.Part
    sent: Sent
    begun: bool = False
    losses: int = 0
    partway: list[SharedSlice] | None = None
    tables: list[str] | None = None


class Going(NamedTuple):
    """A request of a pipeline that goes on: who it is, and the number of the call that is made next."""

    request_id: int
    stage: int
    losses: int


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


class SessionEvents(Protocol):
    """Who hears what the connections to a router learn."""

    def session_lost(self, session: CallerSession, why: str) -> None:
        """A connection of the session is lost, and has been closed. Any thread."""
        ...

    def router_ready(self) -> None:
        """The router greeted. On the loop."""
        ...

    def requests_moved(self, requests: list[tuple[int, Pending]]) -> None:
        """The router gave these back and never dispatched them; their regions were kept once more for each. Any
        thread."""
        ...

    @property
    def between(self) -> dict[int, Pending]:
        """Requests that go on with the next call of their pipeline, and are nobody's until they do."""
        ...

    def requests_partway(self, requests: list[tuple[int, int]]) -> None:
        """The router gave these, which are in `between` now, back in the middle, each with so many calls ahead. Any
        thread."""
        ...


class CallerSession:
    """What this process's connections to one router share, until one of them is lost: then all end."""

    __slots__ = ("credits", "ended", "events", "outstanding", "router")

    def __init__(self, router: Peer, events: SessionEvents) -> None:
        self.router = router
        self.events = events
        # Regions the router was sent, as (segment, offset).
        self.outstanding: set[tuple[int, int]] = set()
        # Requests that each connection may have in flight; 0 until the router said how many.
        self.credits = 0
        self.ended = False

    def take_hello(self, hello: frames.Hello) -> None:
        """The router's first frame. Raises ProtocolError where it is not the router that the table names."""
        if hello.peer_id != self.router.id or hello.protocol != frames.PROTOCOL_VERSION:
            raise ProtocolError(f"router {hello.peer_id:x} answers in the place of {self.router.id:x}")
        self.credits = hello.credits
        self.events.router_ready()


class Uplink:
    """What is in flight on one connection to a router. The socket is its holder's."""

    def __init__(
        self, session: CallerSession, memory: CallerMemory, limits: EdgeLimits, request_ids: RequestIds
    ) -> None:
        self.session = session
        self.pool = memory.pool
        self.mapped = memory.mapped
        self.shown = Shown(memory.mapped)
        self.pending: dict[int, Pending] = {}
        # Leases that were given back. Those of small regions wait until there are some, or a while.
        self.released: collections.deque[tuple[int, int, int]] = collections.deque()
        self._small: collections.deque[tuple[int, int, int]] = collections.deque()
        self._together = RELEASES_TOGETHER
        self._staging = Staging(memory.pool, limits)
        self._request_ids = request_ids
        # Each has one writer: what registers, and what receives. They may be two threads.
        self.registered = 0
        self.answered = 0
        # Of those registered, how many had been sent before; and how many were counted as sent for the first time.
        self.repeated = 0
        self.counted = 0

    # ---- requests

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
        self,
        destination: Destination,
        payload: Payload | Staged,
        parts: Sequence[tuple[int, RequestMeta]],
        deliver: Deliver,
        trusted: bool = False,
        first_index: int = 0,
        going: Going | None = None,
    ) -> frames.Submit:
        """The frame that submits these requests, now pending; their rows are in a region then. See
        `calls.Submitter.submit`. Raises ResourceExhausted when the router has not offered to take so many, and what
        `Staging.write` raises."""
        session = self.session
        if self.registered - self.answered + len(parts) > session.credits:
            raise ResourceExhausted(
                f"{self.in_flight} requests of this process are in flight at the router; it takes "
                f"{session.credits} at a time; retry later"
            )
        passed = payload if isinstance(payload, Passed) and self._can_pass(payload, destination) else None
        if passed is not None:
            region, rows = passed.region, passed.batch.num_rows
        else:
            staged = payload.take(destination.method) if isinstance(payload, Staged) else None
            if staged is not None:
                region, rows = staged
            else:
                if isinstance(payload, Passed):
                    payload, trusted = payload.batch, True
                elif isinstance(payload, Staged):
                    payload = payload.payload
                region, rows = self._staging.write(payload, destination.method, destination.where, trusted)
            session.outstanding.add((region.segment, region.offset))
        if len(parts) == 1:
            parts = [(rows, parts[0][1])]
        epoch = destination.entry.epoch
        sent = Sent(destination.deployment, destination.method, region, epoch, passed)
        frame = frames.Submit(
            destination.key,
            destination.method.name,
            region,
            self._register(sent, parts, deliver, first_index, going),
            epoch,
            rows=0 if passed is None else passed.rows,
        )
        if (chain := destination.chain) is not None or going is not None:
            sent.chain, sent.stage = chain, going.stage if going is not None else 1
            sent.tell(frame)
        return frame

    def _can_pass(self, payload: Passed, destination: Destination) -> bool:
        """Whether the router can be told where the rows lie, because it showed them and the method takes them so."""
        batch, method, where = payload.batch, destination.method, destination.where
        if payload.region.owner == self.pool.owner and not payload.rows:
            # Nothing would tell it from a region that was just written.
            return False
        if payload.router_id != self.session.router.id or not passes(method, batch.schema, where):
            return False
        # Nothing is cast: it is looked whether there are nulls where none may be.
        return fitted(batch, method, where, self._staging.limits.body_bytes_max) is batch

    def _register(
        self,
        sent: Sent,
        parts: Sequence[tuple[int, RequestMeta]],
        deliver: Deliver,
        first_index: int,
        going: Going | None,
    ) -> list[frames.Part]:
        """The wire parts of requests whose rows lie one after another in the region, now pending."""
        out: list[frames.Part] = []
        offset = 0 if sent.passed is None else sent.passed.row
        request_id, losses = (
            (self._request_ids.take(len(parts)), 0) if going is None else (going.request_id, going.losses)
        )
        for index, (rows, meta) in enumerate(parts, first_index):
            part = frames.Part(
                request_id, offset, rows, meta.deadline_ns, meta.priority, meta.request_id, meta.traceparent, meta.key,
                meta.caller, meta.tracestate,
            )  # fmt: skip
            self.pending[request_id] = Pending(deliver, index, part, sent, losses=losses, tables=meta.tables)
            out.append(part)
            offset += rows
            request_id += 1
        self.registered += len(out)
        return out

    # ---- what comes back

    def receive(self, frame: frames.Frame) -> None:
        """Act on a frame of the router's; delivers results and errors."""
        if type(frame) is frames.Results:
            self._take_results(frame)
        elif type(frame) is frames.Release:
            self._give_back(frame.regions, self.pool.abandon if frame.lost else self.pool.free)
        elif isinstance(frame, frames.Outcome):
            self.answered += 1
            self.fail([frame.request_id], from_kind(frame.kind, frame.message, frame.retry_after_ms))
        elif isinstance(frame, frames.Moved):
            self._take_moved(frame)
        elif isinstance(frame, frames.Partway):
            self._take_partway(frame)
        elif isinstance(frame, (frames.SegmentGone, frames.PeerGone)):
            self.shown.gone(frame)
        elif isinstance(frame, frames.TablesRead):
            self._take_tables(frame)

    def _take_tables(self, frame: frames.TablesRead) -> None:
        for request_id in frame.ids:
            pending = self.pending.get(request_id)
            if pending is not None and pending.tables is not None:
                add_tables(pending.tables, frame.tables)

    def _take_partway(self, frame: frames.Partway) -> None:
        """Of a request that goes on from here, what it has come to; whole with the last item of it."""
        buffer, memory = self.mapped.lease(frame.region, self.released.append)
        shared = SharedRegion(buffer, memory, self._staging.schemas, frame.region, self.session.router.id)
        between, ended = self.session.events.between, []
        for item in frame.items:
            pending = self.pending.get(item.request_id)
            self.answered += item.last
            if pending is None:
                continue
            found = SharedSlice(shared, item.row_offset, item.rows)
            pending.partway = [*(pending.partway or ()), found]
            if item.last:
                # In this order: who looks for it finds it, here or there.
                between[item.request_id] = pending
                del self.pending[item.request_id]
                ended.append((item.request_id, frame.ahead))
        if frame.released:
            self._give_back(frame.released, self.pool.free)
        if ended:
            self.session.events.requests_partway(ended)

    def _take_results(self, frame: frames.Results) -> None:
        shared = None
        if frame.region is not None:
            released = self._small if frame.region.length <= SMALL_REGION_BYTES_MAX else self.released
            buffer, memory = self.mapped.lease(frame.region, released.append)
            shared = SharedRegion(buffer, memory, self._staging.schemas, frame.region, self.session.router.id)
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

    @property
    def has_released(self) -> bool:
        """Whether there are leases to be given back now: large ones, or enough small ones."""
        return bool(self.released) or len(self._small) >= self._together

    def press(self) -> None:
        """The small ones have waited long enough. Any thread."""
        self._together = 1

    def ride(self, out: list[frames.Frame]) -> None:
        """Add the leases given back since the last time to the frames that are about to be sent."""
        self._together = RELEASES_TOGETHER
        keys = []
        for released in (self.released, self._small):
            while released:
                keys.append(released.popleft())
        if not keys:
            return
        last = out[-1] if out else None
        if type(last) is frames.Submit:
            last.released = keys
        else:
            out.append(frames.Release(keys))

    def _take_moved(self, frame: frames.Moved) -> None:
        """Kept before the router's Release of their region can be read."""
        moved = []
        written: dict[int, Sent | None] = {}
        for request_id in frame.request_ids:
            self.answered += 1
            pending = self.pending.pop(request_id, None)
            if pending is not None and (pending.sent.passed is None or self._write_again(pending, written)):
                region = pending.sent.region
                self.pool.keep(region.segment, region.offset)
                moved.append((request_id, pending))
        for sent in written.values():
            if sent is not None:
                # Of what was sent from here a router's Release ends this one.
                self.pool.free(sent.region.segment, sent.region.offset)
        self.session.events.requests_moved(moved)

    def _write_again(self, pending: Pending, written: dict[int, Sent | None]) -> bool:
        """What was passed on goes to a router that does not have it: its rows are written, once for all requests that
        came together. Where there is no room they end."""
        before = pending.sent
        assert before.passed is not None
        if id(before) not in written:
            try:
                staging = self._staging
                region = write_batch(before.passed.batch, staging.schemas, staging.allocate, staging.free)
                written[id(before)] = structs.replace(before, region=region, passed=None)
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
