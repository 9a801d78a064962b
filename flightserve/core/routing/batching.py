"""Forming a micro-batch from the head of one group's queue.

Requests are taken in the queue's order while they fit whole; the first that does not fit ends the micro-batch,
because passing over it would let small requests starve a large one. A request over a bound is cut and gives one
slice a micro-batch. A request that is not row-aligned, or that is being run again by itself, goes alone.

So does a large one whose method takes its rows in one piece. Each request's rows lie in memory of their own, and to put
them side by side is to copy them; a method that gets so many rows at once anyway gains nothing by more of them that is
worth the copy. Measured in a pipeline of 4 stages, batches of 1 MB: about twice the throughput.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from flightserve.core.routing.events import Piece, Request
from flightserve.core.routing.queue import Queue, QueueEntry
from flightserve.core.routing.slicing import Cut, must_cut, rows_per_slice

REQUESTS_MAX: Final = 4096
# Requests of at least so many rows and bytes run apart in forms that are copied. With fewer rows what a call costs by
# itself may be much of it, however wide they are (an image a row); with fewer bytes a copy costs less than a call.
APART_ROWS_MIN: Final = 4096
APART_BYTES_MIN: Final = 256 << 10
_COPIED_FORMS: Final = frozenset({"record_batch", "numpy", "pandas"})
# No bound beside those of the deployment.
ROWS_MAX: Final = 1 << 62


def runs_apart(form: str, rows: int, nbytes: int) -> bool:
    """Whether a request of a method that takes this form (`MethodSpec`) is not worth to be put beside others."""
    return rows >= APART_ROWS_MIN and nbytes >= APART_BYTES_MIN and form in _COPIED_FORMS


@dataclass(frozen=True, slots=True)
class Bounds:
    """How large a micro-batch may become: rows, bytes, requests. A single row, and a request that may not be
    cut, is run even where it is larger. The bound on requests keeps the list of pieces within one frame, also
    where requests have no rows."""

    max_rows: int
    max_bytes: int
    max_requests: int = REQUESTS_MAX


class MicroBatch(msgspec.Struct, eq=False):
    """One micro-batch in flight. `wanted` counts the members that have no outcome yet; `streamed` is set when a
    part of its reply went out, `holds_lane` when its lane is not free before the reader has had all, `suspended` when
    it takes up no credit any more; it was sent at `sent_ns` and should take `expected_ns`. It holds one slice of one
    request, or any number of whole requests."""

    id: int
    replica_id: int
    entries: list[QueueEntry]
    pieces: list[Piece]
    rows: int
    wanted: int
    sent_ns: int = 0
    expected_ns: int = 0
    streamed: bool = False
    holds_lane: bool = False
    suspended: bool = False

    @property
    def some_ended(self) -> bool:
        """Some of its members have their outcome, and others do not: what ran late did so for those that expired."""
        return 0 < self.wanted < len(self.entries)

    @property
    def repeatable(self) -> int:
        """How many of its members would run again if its replica died now."""
        return self.wanted if self.entries[0].request.idempotent and not self.streamed else 0

    def failed(self, faults: dict[int, tuple[int, str]]) -> Iterator[tuple[QueueEntry, tuple[int, str]]]:
        """Those of its members, by their places, that failed by themselves and have no outcome yet, with their errors.
        They ran, so they do not run again."""
        for place, fault in faults.items():
            entry = self.entries[place]
            if not entry.done:
                entry.detach(self)
                yield entry, fault

    def __repr__(self) -> str:
        return f"<MicroBatch {self.id} at {self.replica_id}: {len(self.entries)} requests, {self.wanted} wanted>"


def is_one_batch(requests: Sequence[Request], bounds: Bounds, now_ns: int) -> bool:
    """Whether requests that came together make one micro-batch as they are, and none of them is late."""
    group, rows, nbytes = requests[0].group, 0, 0
    for request in requests:
        # The shell gives requests of one frame the very same name.
        if request.group is not group or not request.sliceable or request.apart or request.deadline_ns <= now_ns:
            return False
        rows += request.rows
        nbytes += request.nbytes
    return rows <= bounds.max_rows and nbytes <= bounds.max_bytes and len(requests) <= bounds.max_requests


def form(
    queue: Queue, bounds: Bounds, share: int = REQUESTS_MAX, rows_max: int = ROWS_MAX
) -> tuple[list[QueueEntry], list[Piece]]:
    """Take one micro-batch from the head of a queue that is not empty: its members and their row ranges, in
    order. Members that have more slices to give stay queued. It has at most `share` members, unless they gather, and
    several have at most `rows_max` rows together."""
    head = queue.head()
    assert head is not None, "no micro-batch can be formed from an empty queue"
    request = head.request
    if request.sliceable:
        if must_cut(request.rows, request.nbytes, bounds.max_rows, bounds.max_bytes):
            return [head], [_next_slice(queue, head, bounds)]
        if not head.alone and not request.apart:
            return _merge(queue, head, bounds, room(head, bounds, share), rows_max)
    queue.pop()
    return [head], [Piece(request, 0, request.rows)]


def room(head: QueueEntry, bounds: Bounds, share: int) -> int:
    """The most members of a micro-batch that begins with this one."""
    return bounds.max_requests if head.request.gathers else min(share, bounds.max_requests)


def _merge(
    queue: Queue, head: QueueEntry, bounds: Bounds, members_max: int, rows_max: int
) -> tuple[list[QueueEntry], list[Piece]]:
    max_rows, max_bytes = min(bounds.max_rows, rows_max), bounds.max_bytes
    pop, peek = queue.pop, queue.head
    request = head.request
    rows, nbytes = request.rows, request.nbytes
    entries = [head]
    pieces = [Piece(request, 0, rows)]
    pop()
    entry = peek()
    while entry is not None and not entry.alone:
        request = entry.request
        rows += request.rows
        nbytes += request.nbytes
        if rows > max_rows or nbytes > max_bytes or not request.sliceable or len(entries) >= members_max:
            break
        if request.apart:
            break
        pop()
        entries.append(entry)
        pieces.append(Piece(request, 0, request.rows))
        entry = peek()
    return entries, pieces


def _next_slice(queue: Queue, head: QueueEntry, bounds: Bounds) -> Piece:
    request, cut = head.request, head.cut
    if cut is None:
        size = rows_per_slice(request.rows, request.nbytes, bounds.max_rows, bounds.max_bytes)
        cut = head.cut = Cut(request.rows, size)
        head.batches = {}
    offset, rows = cut.take()
    if not cut.more:
        queue.pop()
    return Piece(request, offset, rows)
