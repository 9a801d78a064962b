"""Where in a process's segments a region lies: the allocator's books, without the memory.

Lengths are rounded up to size classes, eight to a power of two (at most an eighth is wasted), at least 64 bytes,
at 64-byte-aligned offsets. A freed region goes on top of its class's stack and the next of that class takes it
from there, so that pages stay hot: a cold page costs more than the copy into it. Nothing is merged on that path,
which is two dict look-ups. Only when a class has no free region is one carved from free space, first fit by address;
when none fits, all stacks are flushed into the free space, where neighbours merge, and it is tried again; only then
is a new segment asked for. (Quick lists over a coalescing first-fit list: Weinstock and Wulf, "Quick Fit", 1988.)

A region larger than a segment gets a segment to itself, dropped when it is freed. Empty segments are dropped, but
for a few spare ones. The caller owns the memory: it makes a segment when a placement says so and drops the ones
that `free`, `retire` and `Placement.dropped` name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from flightserve.errors import TooLarge

ALIGNMENT = 64
PAGE_BYTES = 4096
# Up to this size classes are 64 bytes apart, which is finer than an eighth.
_SMALL_MAX = 8 * ALIGNMENT


@dataclass(frozen=True, slots=True)
class Placement:
    """A region. `length` is its capacity in bytes, at least what was asked for. Where `new_segment_bytes` is not 0,
    the caller first drops the segments in `dropped`, then makes segment `segment` of that size."""

    segment: int
    offset: int
    length: int
    new_segment_bytes: int = 0
    dropped: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class AllocatorStatistics:
    """Segments and bytes that exist, regions and bytes (capacity) that are given out."""

    segments: int
    segment_bytes: int
    regions: int
    region_bytes: int


class _Segment:
    __slots__ = ("closed", "hole_bytes_max", "holes", "live", "number", "size")

    def __init__(self, number: int, size: int, closed: bool) -> None:
        self.number = number
        self.size = size
        # Nothing more is placed in a closed one: it holds one large region, or is retired.
        self.closed = closed
        self.live: dict[int, Placement] = {}
        # Free space that is in no stack, as (offset, length) by offset; no two touch.
        self.holes: list[tuple[int, int]] = [] if closed else [(0, size)]
        # No hole is larger than this; it may be less exact than that, never too small.
        self.hole_bytes_max = 0 if closed else size


def size_class(length: int) -> int:
    """The capacity in bytes that a region of `length` bytes gets."""
    size = max(ALIGNMENT, (length + ALIGNMENT - 1) & -ALIGNMENT)
    if size <= _SMALL_MAX:
        return size
    shift = (size - 1).bit_length() - 4
    return (((size - 1) >> shift) + 1) << shift


class Allocator:
    """Places regions in segments of `segment_bytes`, all segments together within `bytes_max`.

    `spare_segments` is how many empty segments are kept for the next load. Raises ValueError for sizes that
    make no sense.
    """

    def __init__(self, segment_bytes: int, bytes_max: int, spare_segments: int = 2) -> None:
        if segment_bytes < ALIGNMENT or segment_bytes % ALIGNMENT:
            raise ValueError(f"segment_bytes is {segment_bytes}; it is a multiple of {ALIGNMENT}")
        if bytes_max < segment_bytes or spare_segments < 1:
            raise ValueError(f"bytes_max {bytes_max} holds no segment of {segment_bytes}, or spare_segments is under 1")
        self._segment_bytes = segment_bytes
        self._bytes_max = bytes_max
        self._spare_segments = spare_segments
        self._segments: dict[int, _Segment] = {}
        self._stacks: dict[int, list[Placement]] = {}
        # Segments that became empty, the coldest first; some may be in use again.
        self._emptied: dict[int, None] = {}
        self._bytes = 0
        self._numbers = 0

    def __repr__(self) -> str:
        s = self.statistics()
        return (
            f"<Allocator {s.regions} regions of {s.region_bytes} bytes in {s.segments} segments of {s.segment_bytes}>"
        )

    def statistics(self) -> AllocatorStatistics:
        """Counts at this moment. O(regions)."""
        live = [placement for segment in self._segments.values() for placement in segment.live.values()]
        return AllocatorStatistics(
            segments=len(self._segments),
            segment_bytes=self._bytes,
            regions=len(live),
            region_bytes=sum(placement.length for placement in live),
        )

    def allocate(self, length: int) -> Placement | None:
        """A region of at least `length` bytes, or None while memory is full: try again after a `free`.

        Raises TooLarge for a length that never fits, ValueError for a negative one.
        """
        if length > self._segment_bytes:
            return self._allocate_large(length)
        size = size_class(length)
        stack = self._stacks.get(size)
        if stack:
            placement = stack.pop()
            self._segments[placement.segment].live[placement.offset] = placement
            return placement
        if length < 0:
            raise ValueError(f"a region cannot have {length} bytes")
        return self._allocate_small(min(size, self._segment_bytes))

    def free(self, segment: int, offset: int) -> int | None:
        """Give a region back. Returns the number of a segment that the caller now drops, or None.

        Raises KeyError for a region that is not given out.
        """
        owner = self._segments[segment]
        placement = owner.live.pop(offset)
        if owner.closed:
            return None if owner.live else self._drop(owner)
        stack = self._stacks.get(placement.length)
        if stack is None:
            stack = self._stacks[placement.length] = []
        stack.append(placement)
        if owner.live:
            return None
        self._emptied.pop(segment, None)
        self._emptied[segment] = None
        return self._drop_surplus() if len(self._emptied) > self._spare_segments else None

    def retire(self, segment: int) -> int | None:
        """Place nothing in this segment again. Returns its number if it is empty, for the caller to drop it now;
        otherwise the `free` of its last region does. Raises KeyError for a segment that does not exist."""
        owner = self._segments[segment]
        if not owner.closed:
            owner.closed = True
            owner.holes = []
            owner.hole_bytes_max = 0
            self._forget_free_regions(segment)
        return None if owner.live else self._drop(owner)

    def _allocate_small(self, size: int) -> Placement | None:
        placement = self._carve(size)
        if placement is None and self._flush():
            placement = self._carve(size)
        if placement is None and self._bytes + self._segment_bytes <= self._bytes_max:
            segment = self._add(self._segment_bytes, closed=False)
            placement = self._carve_from(segment, size)
            assert placement is not None
            return replace(placement, new_segment_bytes=segment.size)
        return placement

    def _allocate_large(self, length: int) -> Placement | None:
        size = (length + PAGE_BYTES - 1) & -PAGE_BYTES
        if size > self._bytes_max:
            raise TooLarge(f"{length} bytes do not fit into shared memory, which is {self._bytes_max} bytes in all")
        excess = self._bytes + size - self._bytes_max
        dropped: tuple[int, ...] = ()
        if excess > 0:
            empty = [s for s in self._segments.values() if not s.live]
            if sum(s.size for s in empty) < excess:
                return None
            dropped = tuple(self._drop(s) for s in empty[: -(-excess // self._segment_bytes)])
        segment = self._add(size, closed=True)
        placement = segment.live[0] = Placement(segment.number, 0, size)
        return replace(placement, new_segment_bytes=size, dropped=dropped)

    def _carve(self, size: int) -> Placement | None:
        for segment in self._segments.values():
            if segment.hole_bytes_max >= size:
                placement = self._carve_from(segment, size)
                if placement is not None:
                    return placement
        return None

    def _carve_from(self, segment: _Segment, size: int) -> Placement | None:
        holes = segment.holes
        largest = 0
        for index, (offset, length) in enumerate(holes):
            if length >= size:
                if length == size:
                    del holes[index]
                else:
                    holes[index] = (offset + size, length - size)
                placement = segment.live[offset] = Placement(segment.number, offset, size)
                return placement
            largest = max(largest, length)
        segment.hole_bytes_max = largest
        return None

    def _flush(self) -> bool:
        """Move every stacked region into its segment's free space; False when there was none."""
        freed: dict[int, list[tuple[int, int]]] = {}
        for stack in self._stacks.values():
            for placement in stack:
                freed.setdefault(placement.segment, []).append((placement.offset, placement.length))
        self._stacks.clear()
        for number, spans in freed.items():
            segment = self._segments[number]
            segment.holes = _coalesce(segment.holes + spans)
            segment.hole_bytes_max = max(length for _, length in segment.holes)
        return bool(freed)

    def _add(self, size: int, closed: bool) -> _Segment:
        self._numbers += 1
        segment = self._segments[self._numbers] = _Segment(self._numbers, size, closed)
        self._bytes += size
        return segment

    def _drop_surplus(self) -> int | None:
        """Drop the coldest empty segment if more are empty than are kept spare."""
        self._emptied = {number: None for number in self._emptied if not self._segments[number].live}
        if len(self._emptied) <= self._spare_segments:
            return None
        return self._drop(self._segments[next(iter(self._emptied))])

    def _drop(self, segment: _Segment) -> int:
        assert not segment.live
        if not segment.closed:
            self._forget_free_regions(segment.number)
        self._emptied.pop(segment.number, None)
        del self._segments[segment.number]
        self._bytes -= segment.size
        return segment.number

    def _forget_free_regions(self, segment: int) -> None:
        for stack in self._stacks.values():
            stack[:] = [placement for placement in stack if placement.segment != segment]

    def check_invariants(self) -> None:
        """Every byte of every open segment is in one live region, one stacked region or one hole. For tests."""
        assert self._bytes == sum(segment.size for segment in self._segments.values()) <= self._bytes_max
        spans: dict[int, list[tuple[int, int]]] = {number: [] for number in self._segments}
        for size, stack in self._stacks.items():
            for placement in stack:
                assert placement.length == size
                spans[placement.segment].append((placement.offset, placement.length))
        for number, segment in self._segments.items():
            assert segment.live or not segment.closed, f"segment {number} should have been dropped"
            regions = spans[number] + [(p.offset, p.length) for p in segment.live.values()]
            assert segment.hole_bytes_max >= max((length for _, length in segment.holes), default=0)
            regions = sorted(regions + segment.holes)
            for (offset, length), (after, _) in pairwise(regions):
                assert offset + length <= after, f"segment {number}: overlap at {after}"
            if not segment.closed:
                assert sum(length for _, length in regions) == segment.size, f"segment {number}: bytes lost"


def _coalesce(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sort disjoint (offset, length) spans by offset and merge those that touch."""
    merged: list[tuple[int, int]] = []
    for offset, length in sorted(spans):
        if merged and sum(merged[-1]) == offset:
            merged[-1] = (merged[-1][0], merged[-1][1] + length)
        else:
            merged.append((offset, length))
    return merged
