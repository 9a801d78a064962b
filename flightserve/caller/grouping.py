"""Small requests that arrive together travel together: one region, one part of a frame each.

A client's own Arrow stream is decoded where it lies, and rows that are a batch already are validated. At the end of the
event loop's turn the rows of all that came for one method with one schema are put together, written once, and divided
among their requests (`frames.Part`). A region, a frame and a `Release` for each of many requests of some hundred bytes
cost more than to copy them twice, and the tiers behind take a group as one micro-batch.

Only what a concatenation surely gives back as it went in is grouped: columns of numbers, times and strings. All else,
and what is large, has a region of its own.
"""

from __future__ import annotations

import functools
from typing import Final, NamedTuple

import pyarrow as pa

from flightserve.caller.calls import RoutedCall, Submitter
from flightserve.caller.destinations import Destinations, Target
from flightserve.caller.results import SharedSlice
from flightserve.caller.staging import MemoryFull
from flightserve.config import EdgeLimits
from flightserve.contracts.service import EncodedStream, Payload
from flightserve.errors import FlightserveError, InvalidArgument
from flightserve.fabric.conversion.casting import is_taken
from flightserve.fabric.memory.batches import END_OF_STREAM, SchemaCache
from flightserve.fabric.memory.decode import decode_stream, validate_batch
from flightserve.loops import TurnGroups
from flightserve.types import MethodSpec

# A stream larger than this is not worth a second copy.
GROUPED_BYTES_MAX: Final = 16 << 10
# Requests of one group: more would make the first of them wait for the decoding of the last.
GROUP_REQUESTS_MAX: Final = 256


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
        self._groupable = functools.lru_cache(maxsize=1024)(functools.partial(_groupable, limits))

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


def _groupable(limits: EdgeLimits, head: bytes, spec: MethodSpec) -> bool:
    """Whether requests whose streams begin with these bytes may be put together. One that the method does not take
    goes by itself, to be told why."""
    if not (spec.row_aligned or spec.delimited) or spec.streaming:
        return False
    try:
        schema = decode_stream(pa.py_buffer(head + END_OF_STREAM), limits).schema
    except InvalidArgument:
        return False
    return bool(len(schema)) and is_taken(spec, schema) and all(_plain(field.type) for field in schema)


_PLAIN: Final = (
    pa.types.is_primitive,
    pa.types.is_decimal,
    pa.types.is_fixed_size_binary,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_binary,
    pa.types.is_large_binary,
)


def _plain(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in _PLAIN)
