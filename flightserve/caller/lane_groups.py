"""Small requests that lanes leave for the same method while others are on their way travel together, as those of the
event loop do (`grouping`): one region, one `Submit`, one micro-batch behind it, instead of one each."""

from __future__ import annotations

import collections
import contextlib

import pyarrow as pa

from flightserve.caller.destinations import Destination
from flightserve.caller.groupable import GROUP_REQUESTS_MAX, GROUPED_BYTES_MAX, groupable_within
from flightserve.caller.results import SharedSlice
from flightserve.caller.submission import Submission
from flightserve.caller.uplink import Deliver
from flightserve.config import EdgeLimits
from flightserve.errors import FlightserveError
from flightserve.fabric.memory.batches import SchemaCache
from flightserve.fabric.memory.decode import validate_batch
from flightserve.types import RequestMeta


class SubmissionGroup:
    """Submissions that go out as one: what is staged of them, and who is told."""

    def __init__(self, members: list[Submission], limits: EdgeLimits) -> None:
        """Raises InvalidArgument where the rows of one are not valid."""
        batches = [member.payload for member in members if isinstance(member.payload, pa.RecordBatch)]
        for batch in batches:
            validate_batch(batch, limits)
        self.destination: Destination = members[0].destination
        self.batch = pa.concat_batches(batches)
        self.parts: list[tuple[int, RequestMeta]] = [
            (batch.num_rows, member.meta) for batch, member in zip(batches, members, strict=True)
        ]
        # Not the members: their rows would live as long as the last of them has no reply.
        self._takers: list[tuple[Deliver, int]] = [(member.lane.deliver, member.key) for member in members]

    def deliver(self, index: int, result: SharedSlice | None, error: FlightserveError | None, last: bool) -> None:
        """See `uplink.Deliver`."""
        deliver, key = self._takers[index]
        deliver(key, result, error, last)


class SubmissionGroups:
    """Says which of the submissions that wait go together. One thread at a time."""

    def __init__(self, limits: EdgeLimits) -> None:
        self.limits = limits
        self._schemas = SchemaCache()
        self._groupable = groupable_within(limits)

    def take(self, waiting: collections.deque[Submission]) -> list[Submission]:
        """The one that waits longest, and those right behind it that may share a region with it; nothing where nobody
        waits any more."""
        group: list[Submission] = []
        # Who ends what waits on a connection that is lost takes from it, too.
        with contextlib.suppress(IndexError):
            group.append(waiting.popleft())
            room = self._room_beside(group[0]) if waiting else 0
            # No more than leaves as many for each of the other replicas.
            ready = max(1, group[0].destination.entry.ready)
            members_max = min(GROUP_REQUESTS_MAX, 1 + len(waiting) // ready)
            while room and len(group) < members_max:
                rows = _rows_beside(group[0], waiting[0])
                if not 0 < rows <= room:
                    break
                room -= rows
                group.append(waiting.popleft())
        return group

    def _room_beside(self, first: Submission) -> int:
        """How many rows of others may share a region with it."""
        batch = small_batch(first)
        if batch is None or not self._groupable(self._schemas.of(batch.schema).message, first.destination.method):
            return 0
        rows: int = first.destination.entry.spec.options.max_batch_rows - batch.num_rows
        return max(0, rows)


def _rows_beside(first: Submission, other: Submission) -> int:
    """How many rows it brings where it may share a region with the first; 0 where it may not."""
    if other.destination is not first.destination:
        return 0
    batch = small_batch(other)
    assert isinstance(first.payload, pa.RecordBatch)
    if batch is None or not batch.schema.equals(first.payload.schema, check_metadata=True):
        return 0
    rows: int = batch.num_rows
    return rows


def small_batch(submission: Submission) -> pa.RecordBatch | None:
    """Its rows, where they are few, and some."""
    payload = submission.payload
    if submission.parts or not isinstance(payload, pa.RecordBatch) or not payload.num_rows:
        return None
    return payload if payload.get_total_buffer_size() <= GROUPED_BYTES_MAX else None
