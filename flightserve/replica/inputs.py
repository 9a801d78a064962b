"""A micro-batch's input: regions of callers' processes, mapped and read without a copy.

User code may keep a batch for as long as it likes: the lease on its region lives as long as the last Arrow
buffer over it. What is still held when the method has returned is reported as kept, and given back later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from flightserve.errors import InvalidArgument
from flightserve.fabric.memory.batches import SchemaCache, own_rows, read_batch
from flightserve.fabric.memory.segments import SegmentMap
from flightserve.wire.frames import Execute, Part, Region

# A group of small requests is not larger (`caller.grouping`).
_SHARED_BYTES_MAX: Final = 4 << 20

RegionKey = tuple[int, int, int]


class Inputs:
    """The leases of one micro-batch on its regions. First `drop_late` if need be, then `pieces`; when the method has
    returned and nothing of ours refers to the rows, `settle`; later on `take_returned`, until nothing is `holding`."""

    __slots__ = ("_regions", "_returned", "holding", "parts", "place", "rows")

    def __init__(self) -> None:
        # Places in the Execute of the parts that run; None where all do.
        self.parts: list[int] | None = None
        # Where the rows lie, if one after another in one region: the region, their first row in it, how many rows it
        # has, and a lease on it. `rows`: how many rows each request has.
        self.place: tuple[Region, int, int, pa.Buffer] | None = None
        self.rows: list[int] = []
        self._regions: list[Region] = []
        # Leases still out after `settle`.
        self.holding = 0
        # Appended to by finalisers, on any thread.
        self._returned: list[RegionKey] = []

    def drop_late(self, frame: Execute, now_ns: int) -> int:
        """Take out the parts whose deadline has passed. How many there were; 0 also where a late one lies between
        others of its region: without it, the rows around it would have to be copied together, for all of them."""
        places = [place for place, part in enumerate(frame.parts) if part.deadline_ns > now_ns]
        live = [frame.parts[place] for place in places]
        if len(_runs(live)) > len(_runs(frame.parts)):
            return 0
        dropped = len(frame.parts) - len(live)
        self.parts, frame.parts = places, live
        return dropped

    def pieces(self, frame: Execute, mapped: SegmentMap, schemas: SchemaCache) -> list[pa.RecordBatch]:
        """The micro-batch's rows, in order: as few batches as its regions allow. Raises ProtocolError for a
        region that is not mapped, InvalidArgument for rows that it does not have."""
        batches = []
        buffer: pa.Buffer | None = None
        for region in frame.regions:
            buffer, memory = mapped.lease(region, self._returned.append)
            self._regions.append(region)
            batches.append(read_batch(buffer, memory, schemas))
        parts = frame.parts
        # Of several regions, those of late parts are not run: one part that is left is not all there is.
        if len(batches) == 1 and len(parts) == 1 and (rows := parts[0].rows) == batches[0].num_rows:
            self.rows = [rows]
            self.place = (frame.regions[0], 0, rows, buffer)
            return batches
        self.rows = [part.rows for part in parts]
        runs = _runs(parts)
        for index, _, stop in runs:
            if stop > batches[index].num_rows:
                raise InvalidArgument(f"rows up to {stop} asked of a batch that has {batches[index].num_rows}")
        if len(runs) == 1 and len(batches) == 1:
            self.place = (frame.regions[0], runs[0][1], batches[0].num_rows, buffer)
        return [_slice(batches[index], frame.regions[index], start, stop) for index, start, stop in runs]

    def settle(self) -> list[int]:
        """Indices of regions still held. Call once, after every reference of our own is gone."""
        if len(self._returned) == len(self._regions):
            self._returned.clear()
            return []
        returned = self.take_returned()
        kept = []
        for index, region in enumerate(self._regions):
            key = (region.owner, region.segment, region.offset)
            if key in returned:
                returned.remove(key)
            else:
                kept.append(index)
        self.holding = len(kept)
        return kept

    def take_returned(self) -> list[RegionKey]:
        """Leases that came back since last asked."""
        keys = []
        while self._returned:
            keys.append(self._returned.pop())
        self.holding -= len(keys)
        return keys


def _slice(batch: pa.RecordBatch, region: Region, start: int, stop: int) -> pa.RecordBatch:
    """These rows of a region. A small one may hold the rows of others, which must not lie behind what a method gets and
    may give back; a large one is a single request's."""
    rows = batch.slice(start, stop - start)
    if region.length > _SHARED_BYTES_MAX or rows.num_rows == batch.num_rows:
        return rows
    return own_rows(rows)


def _runs(parts: Sequence[Part]) -> list[tuple[int, int, int]]:
    """The parts as (region index, first row, row behind the last), neighbours in one region joined."""
    runs: list[tuple[int, int, int]] = []
    for part in parts:
        start, stop = part.row_offset, part.row_offset + part.rows
        if runs and runs[-1][0] == part.request_id and runs[-1][2] == start:
            runs[-1] = (part.request_id, runs[-1][1], stop)
        else:
            runs.append((part.request_id, start, stop))
    return runs
