"""Where the batches lie that this process was given: rows of micro-batches, and results of callees.

A method may pass such a batch on, to another deployment or as its own result. Then only its place is sent, and nothing
is written (`contracts.service.Passed`). A batch is found again as the same object, or by its buffers, where it is a
slice of the batch that was given, or went through a table. Columns are compared by buffers and offsets, down to those
within them; maps, unions and runs are not.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from flightserve.caller.results import SharedSlice
from flightserve.contracts.service import Result
from flightserve.fabric.conversion.castable import is_list
from flightserve.wire.frames import Region, Share

if TYPE_CHECKING:
    from flightserve.replica.inputs import Inputs
    from flightserve.replica.session import ReplicaSession


class Origin(NamedTuple):
    """A batch's place: rows of a region from `row` on, which has `rows` in all, as the router gave it. `lease` keeps
    the region: the batch may be a copy of it, and nothing else would. `is_input`: the rows are a micro-batch's, whose
    values have been looked at, and no callee's answer."""

    region: Region
    row: int
    rows: int
    lease: pa.Buffer
    router_id: int
    is_input: bool


class Origins:
    """Of one process. Knows batches for as long as they are somebody's. Any thread."""

    def __init__(self) -> None:
        self._by_id: dict[int, tuple[weakref.ref[pa.RecordBatch], Origin]] = {}
        # By where the first of their buffers lies: what has the same buffers may be a part of it.
        self._by_address: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __repr__(self) -> str:
        return f"<Origins of {len(self)} batches>"

    def note(self, batch: pa.RecordBatch, origin: Origin) -> None:
        """The batch lies there. Where there are no rows nothing is passed on: by their number a frame tells that."""
        if not origin.rows:
            return
        number, address = id(batch), _address(batch)

        def gone(ref: weakref.ref[pa.RecordBatch]) -> None:
            # Another may have its number by now.
            if self._by_id.get(number, (None,))[0] is ref:
                del self._by_id[number]
                if self._by_address.get(address) == number:
                    del self._by_address[address]

        self._by_id[number] = (weakref.ref(batch, gone), origin)
        if address:
            self._by_address[address] = number

    def find(self, batch: pa.RecordBatch) -> tuple[Origin, int] | None:
        """Where the batch lies and with which row of the region it begins; None where nobody knows."""
        found = self._by_id.get(id(batch))
        if found is not None and found[0]() is batch:
            return found[1], found[1].row
        found = self._by_id.get(self._by_address.get(_address(batch), 0))
        noted = found[0]() if found is not None else None
        if found is None or noted is None:
            return None
        row = _row_within(noted, batch)
        return None if row is None else (found[1], found[1].row + row)

    def take(self, result: Result) -> pa.RecordBatch:
        """The rows that a callee answered with; where they lie is noted."""
        batch = result.batch()
        if isinstance(result, SharedSlice):
            shared = result.shared
            rows = shared.batch().num_rows
            self.note(batch, Origin(shared.region, result.offset, rows, shared.buffer, shared.router_id, False))
        return batch


def lend_back(
    origins: Origins, result: Any, inputs: Inputs, session: ReplicaSession, given: Sequence[Region]
) -> Share | None:
    """A result that a callee answered with, as it is, lent to the session's router where it lies: nothing is written.
    None for a result that has to be written. Regions that were `given` with the micro-batch the router keeps itself."""
    if type(result) is not pa.RecordBatch or (found := origins.find(result)) is None:
        return None
    origin, row = found
    region = origin.region
    counts = inputs.rows if len(inputs.rows) > 1 else [result.num_rows]
    if origin.is_input or origin.router_id != session.router.id or sum(counts) != result.num_rows:
        return None
    key = (region.owner, region.segment, region.offset)
    if not any(key == (each.owner, each.segment, each.offset) for each in given):
        session.lend(key, origin.lease)
    offsets = list(itertools.accumulate(counts, initial=row))[:-1]
    return Share(region, result.num_rows, inputs.parts or list(range(len(counts))), counts, offsets)


def _address(batch: pa.RecordBatch) -> int:
    """Of the first buffer there is. That of a column within comes before the indices into a dictionary."""
    for column in range(batch.num_columns):
        for buffer in batch.column(column).buffers():
            if buffer is not None:
                return int(buffer.address)
    return 0


def _row_within(whole: pa.RecordBatch, part: pa.RecordBatch) -> int | None:
    """With which row of the one the other begins, if it is rows of it that follow one another."""
    if not part.num_columns or not part.schema.equals(whole.schema, check_metadata=True):
        return None
    row: int | None = None
    for own, other in zip(part.columns, whole.columns, strict=True):
        if row is None:
            row = own.offset - other.offset
        if row < 0 or not _begins_at(own, other, row):
            return None
    return row if row is not None and row + part.num_rows <= whole.num_rows else None


def _begins_at(own: pa.Array, other: pa.Array, row: int) -> bool:
    """Whether the one is the other from that row on, by offsets and buffers, those of all columns within included."""
    kind = own.type
    if isinstance(kind, pa.BaseExtensionType):
        return _begins_at(own.storage, other.storage, row)
    if own.offset - other.offset != row or pa.types.is_union(kind) or pa.types.is_run_end_encoded(kind):
        return False
    if pa.types.is_dictionary(kind):
        return _begins_at(own.indices, other.indices, row) and _begins_at(own.dictionary, other.dictionary, 0)
    if pa.types.is_struct(kind):
        # Each child is given as the rows of its struct.
        inside = [(own.field(place), other.field(place), row) for place in range(kind.num_fields)]
    elif pa.types.is_map(kind):
        return False
    elif is_list(kind):
        # Values are given as they lie, whatever rows of the lists there are.
        inside = [(own.values, other.values, 0)]
    else:
        inside = []
    return _same(own.buffers(), other.buffers()) and all(len(a) <= len(b) and _begins_at(a, b, n) for a, b, n in inside)


def _same(ones: list[pa.Buffer | None], others: list[pa.Buffer | None]) -> bool:
    if len(ones) != len(others):
        return False
    for one, other in zip(ones, others, strict=True):
        if one is None or other is None:
            if one is not other:
                return False
        elif one.address != other.address or one.size != other.size:
            return False
    return True
