"""What a method may return in a batch's place: rows that lie in this process's shared memory already, or a batch whose
place it wants to know.

So a method can answer twice with what was written once: the second answer is one more lease on the same region, and
writes and copies nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pyarrow as pa

from flightserve.fabric.memory.segments import SegmentPool
from flightserve.wire.frames import Region


class Stored:
    """Rows of a region of this process, as one answer. It holds a lease of its own, which the answer takes over
    (`taken`); where there is no answer after all, the lease ends with this object.

    `counts` and `offsets` say how many rows each of the answered requests has, and where they begin in the region;
    without `offsets` the first begins with the first row, and the others follow.
    """

    __slots__ = ("_pool", "counts", "offsets", "region")

    def __init__(self, pool: SegmentPool, region: Region, counts: Sequence[int], offsets: Sequence[int] = ()) -> None:
        """The caller knows the region to be held at this moment."""
        pool.keep(region.segment, region.offset)
        self._pool: SegmentPool | None = pool
        self.region = region
        self.counts = list(counts)
        self.offsets = list(offsets)

    def __del__(self) -> None:
        pool = getattr(self, "_pool", None)
        if pool is not None:
            pool.give_back(self.region.segment, self.region.offset)

    def __repr__(self) -> str:
        return f"<Stored {self.num_rows} rows of segment {self.region.segment}>"

    @property
    def num_rows(self) -> int:
        """Rows of the answer."""
        return sum(self.counts)

    def taken(self) -> Region:
        """The region; its lease is now whoever's asked."""
        self._pool = None
        return self.region


class Fresh(NamedTuple):
    """A batch to be written. `written(region)` is called when it is, while the answer's lease holds the region."""

    batch: pa.RecordBatch
    written: Callable[[Region], None]

    @property
    def num_rows(self) -> int:
        """Rows of the answer."""
        return int(self.batch.num_rows)


class Answered(NamedTuple):
    """The answer of some requests of a micro-batch, given by their places in it, of a delimited method. A `Fresh` one
    counts the rows of these requests alone in its `rid`."""

    parts: Sequence[int]
    answer: Stored | Fresh


class _Own:
    """A lease of this process on a region of its own."""

    __slots__ = ("_memory", "_offset", "_pool", "_segment")

    def __init__(self, pool: SegmentPool, region: Region, memory: pa.Buffer) -> None:
        pool.keep(region.segment, region.offset)
        self._pool = pool
        self._segment = region.segment
        self._offset = region.offset
        self._memory = memory

    def __del__(self) -> None:
        self._pool.give_back(self._segment, self._offset)


def own_buffer(pool: SegmentPool, region: Region) -> tuple[pa.Buffer, memoryview]:
    """A region of this process that is held at this moment, to be read: as a buffer that keeps it held, and as a view
    for looking at headers."""
    memory = pool.memory(region)
    plain = pa.py_buffer(memory)
    return pa.foreign_buffer(plain.address, plain.size, base=_Own(pool, region, plain)), memory
