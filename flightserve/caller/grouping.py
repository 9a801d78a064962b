"""Small requests that arrive together travel together: one region, one part of a frame each.

A client's own Arrow stream is decoded where it lies, and rows that are a batch already are validated. At the end of the
event loop's turn the rows of all that came for one method with one schema are put together, written once, and divided
among their requests (`frames.Part`). A region, a frame and a `Release` for each of many requests of some hundred bytes
cost more than to copy them twice, and the tiers behind take a group as one micro-batch.

Only what a concatenation surely gives back as it went in is grouped: columns of numbers, times and strings. All else,
and what is large, has a region of its own.
"""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa

from flightserve.caller.calls import RoutedCall, Submitter
from flightserve.caller.destinations import Destinations, Target
from flightserve.caller.groupable import GROUP_REQUESTS_MAX, GROUPED_BYTES_MAX, groupable_within
from flightserve.caller.results import SharedSlice
from flightserve.caller.staging import MemoryFull
from flightserve.config import EdgeLimits
from flightserve.contracts.service import EncodedStream, Payload
from flightserve.errors import FlightserveError
from flightserve.fabric.memory.batches import SchemaCache
from flightserve.fabric.memory.decode import decode_stream, validate_batch
from flightserve.loops import TurnGroups


class _Member(NamedTuple):
    call: RoutedCall
    payload: Payload
    batch: pa.RecordBatch


class Grouping:
    """The requests of one client that wait for the end of this turn of its event loop."""

    def __init__(self, destinations: Destinations, submitter: Submitter, limits: EdgeLimits) -> None:
        self._destinations = destinations
        self._submitter = submitter
        self._limits = limits
        self._schemas = SchemaCache()
        # By deployment and method, and schema message.
        self.groups: TurnGroups[tuple[Target, bytes], _Member] = TurnGroups(
            self._submit, GROUP_REQUESTS_MAX, patient=True, left=submitter.flush
        )
        self._groupable = groupable_within(limits)

    def join(self, call: RoutedCall, payload: Payload) -> bool:
        """Take a request that is to be grouped; False for one that must go by itself. Raises InvalidArgument,
        NotFound, Unavailable. On the loop."""
        encoded: bytes | memoryview = b""
        if isinstance(payload, EncodedStream):
            pieces = payload.pieces
            if sum(len(piece) for piece in pieces) > GROUPED_BYTES_MAX:
                return False
            encoded = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            head = bytes(encoded[: 8 + int.from_bytes(encoded[4:8], "little")])
        elif isinstance(payload, pa.RecordBatch) and payload.get_total_buffer_size() <= GROUPED_BYTES_MAX:
            head = self._schemas.of(payload.schema).message
        else:
            return False
        destination = self._destinations.find(call.target)
        if not self._groupable(head, destination.method):
            return False
        if isinstance(payload, EncodedStream):
            batch = decode_stream(pa.py_buffer(encoded), self._limits)
        else:
            batch = payload
            validate_batch(batch, self._limits)
        if not batch.num_rows:
            return False
        # What fills a micro-batch gains nothing by more company, and can run while the rest is read.
        rows_max = destination.entry.spec.options.max_batch_rows
        self.groups.join((call.target, head), _Member(call, payload, batch), size=batch.num_rows, size_max=rows_max)
        return True

    def _submit(self, key: tuple[Target, bytes], group: list[_Member]) -> None:
        members = [member for member in group if not member.call.finished]
        if not members:
            return
        calls = [member.call for member in members]

        def deliver(index: int, result: SharedSlice | None, error: FlightserveError | None, last: bool) -> None:
            calls[index].deliver(index, result, error, last)

        batch = members[0].batch if len(members) == 1 else pa.concat_batches([member.batch for member in members])
        parts = [(member.batch.num_rows, member.call.meta) for member in members]
        try:
            first_id = self._submitter.submit(key[0], batch, parts, deliver, trusted=True)
        except (MemoryFull, FlightserveError):
            # There may be room for some, and each learns what keeps it by itself.
            for member in members:
                member.call.start_alone(member.payload)
            return
        for request_id, call in enumerate(calls, first_id):
            call.note_sent(request_id)
