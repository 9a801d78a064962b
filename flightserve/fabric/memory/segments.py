"""Shared memory: segments a process owns and writes, and segments of others that it maps read-only.

A segment is a memfd. It has no name, so nothing can be guessed and nothing is left behind when its processes
die, and it is not bound by the size of `/dev/shm`. It is sealed against shrinking and growing before it is
shown to anybody, so that no reader can be hit by SIGBUS; a reader checks those seals and the size before it
maps, and every range before it reads.

Where regions go inside the owned segments is decided by the pure `core.memory.regions.Allocator`; this module keeps
the memory behind its decisions.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import itertools
import mmap
import os
import threading
import time
from collections.abc import Callable
from typing import Final

import pyarrow as pa

from flightserve.config import FabricLimits
from flightserve.core.memory.regions import Allocator
from flightserve.errors import ProtocolError, ResourceExhausted, Unavailable
from flightserve.wire.frames import PeerGone, Region, Segment, SegmentGone, check_region

# Of a region that may come back to its owner some milliseconds later than it could: a few of them are nothing beside a
# segment, and what they are written over with next need not be the hottest memory.
SMALL_REGION_BYTES_MAX: Final = 4 << 10
# So many leases on small regions are given back at once: one with each request cost a small call some 2 us in all
# processes.
RELEASES_TOGETHER: Final = 16
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class OwnedSegment:
    """A memfd made here, mapped writable for as long as this object lives."""

    __slots__ = ("fd", "memory", "nbytes", "number")

    def __init__(self, number: int, nbytes: int) -> None:
        self.number = number
        self.nbytes = nbytes
        self.fd = os.memfd_create("flightserve-segment", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, nbytes)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, SEALS)
            self.memory = memoryview(mmap.mmap(self.fd, nbytes))
        except BaseException:
            os.close(self.fd)
            raise

    def __del__(self) -> None:
        # A buffer of user code may still look into the mapping; the mapping goes when the last one does.
        with contextlib.suppress(OSError, AttributeError):
            os.close(self.fd)


class SegmentPool:
    """The segments of this process. Thread-safe. Total bytes are bounded by `memory_bytes_max`.

    `on_dropped(segment)` is called, without the lock, when a segment will never be used again.
    """

    def __init__(self, owner: int, limits: FabricLimits) -> None:
        self.owner = owner
        self._allocator = Allocator(limits.segment_bytes, limits.memory_bytes_max)
        self._generations = itertools.count(1)
        self._segments: dict[int, OwnedSegment] = {}
        # Regions that come back more than once, and how many times more (`keep`).
        self._kept: dict[tuple[int, int], int] = {}
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self.on_dropped: list[Callable[[int], None]] = []
        self.on_freed: list[Callable[[], None]] = []
        self._waiting = 0
        # What finalisers gave back, which may run while this thread holds the lock.
        self._given_back: collections.deque[tuple[int, int]] = collections.deque()

    def allocate(self, nbytes: int) -> tuple[Region, memoryview] | None:
        """A region of `nbytes` to write and the memory to write it to, or None while memory is full. Raises
        TooLarge for what can never fit."""
        if self._given_back:
            self._take_back()
        with self._lock:
            place = self._allocator.allocate(nbytes)
            if place is None:
                return None
            number, offset = place.segment, place.offset
            if place.new_segment_bytes:
                for gone in place.dropped:
                    self._segments.pop(gone, None)
                try:
                    self._segments[number] = OwnedSegment(number, place.new_segment_bytes)
                except OSError as error:
                    self._allocator.retire(number)
                    self._allocator.free(number, offset)
                    raise ResourceExhausted(f"no memory or file descriptor for a segment: {error.strerror}") from error
            memory = self._segments[number].memory
        for gone in place.dropped:
            self._tell_dropped(gone)
        region = Region(self.owner, number, offset, nbytes, 0, next(self._generations))
        return region, memory[offset : offset + nbytes]

    def wait(self, nbytes: int, timeout_s: float) -> tuple[Region, memoryview] | None:
        """As `allocate`, waiting up to `timeout_s` for memory to come free."""
        until_s = time.monotonic() + timeout_s
        while (got := self.allocate(nbytes)) is None:
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return None
            with self._changed:
                self._waiting += 1
                # A region freed between the attempt and here is not waited for long.
                self._changed.wait(min(left_s, 0.05))
                self._waiting -= 1
        return got

    def keep(self, segment: int, offset: int) -> None:
        """The region comes back once more than it would have: one `free` more is needed to end it."""
        with self._lock:
            key = (segment, offset)
            self._kept[key] = self._kept.get(key, 0) + 1

    def memory(self, region: Region) -> memoryview:
        """The bytes of a region that is held."""
        return self._segments[region.segment].memory[region.offset : region.offset + region.length]

    def _let_go(self, segment: int, offset: int) -> bool:
        """Take one `keep` back; False where there is none left."""
        key = (segment, offset)
        count = self._kept.pop(key, 0)
        if count > 1:
            self._kept[key] = count - 1
        return count > 0

    def give_back(self, segment: int, offset: int) -> None:
        """As `free`, from a finaliser: done with the next allocation, or when somebody asks for the figures."""
        self._given_back.append((segment, offset))

    def _take_back(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self.free(*self._given_back.popleft())

    def free(self, segment: int, offset: int) -> None:
        """The region's last lease came back, or one of those that `keep` added."""
        with self._lock:
            if self._kept and self._let_go(segment, offset):
                return
            dropped = self._allocator.free(segment, offset)
            if dropped is not None:
                self._segments.pop(dropped, None)
            if self._waiting:
                self._changed.notify_all()
        if dropped is not None:
            self._tell_dropped(dropped)
        for wake in self.on_freed:
            wake()

    def abandon(self, segment: int, offset: int) -> None:
        """The region's leases are lost from sight (its router died): somebody may still read it, so nothing
        is placed in its segment again; the kernel keeps the pages until the last reader has gone. What `keep`
        still holds stays readable."""
        with self._lock:
            self._allocator.retire(segment)
        self.free(segment, offset)

    def _tell_dropped(self, segment: int) -> None:
        for told in self.on_dropped:
            told(segment)

    def announcement(self, segment: int) -> tuple[Segment, int]:
        """The frame that names a live segment, and its fd."""
        owned = self._segments[segment]
        return Segment(self.owner, segment, owned.nbytes), owned.fd

    def close(self) -> None:
        """Let go of every segment; memory that is still leased lives on in its readers."""
        with self._lock:
            self._segments.clear()

    def statistics(self) -> dict[str, float]:
        """Bytes of segments and counts of regions in use."""
        self._take_back()
        with self._lock:
            record = self._allocator.statistics()
        return {"shared_memory_bytes": float(record.segment_bytes), "leases": float(record.regions)}


def check_segment(fd: int, nbytes: int) -> None:
    """Raise ProtocolError unless the fd is a memfd of that size, sealed against shrinking and growing."""
    size = os.fstat(fd).st_size
    if size != nbytes or nbytes <= 0:
        raise ProtocolError(f"segment announced with {nbytes} bytes, its memfd has {size}")
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:
        raise ProtocolError("segment is not a sealable memfd") from error
    if seals & SEALS != SEALS:
        raise ProtocolError("segment is not sealed against shrinking and growing")


class MappedSegment:
    """Another process's segment, mapped read-only. Its fd is closed once mapped."""

    __slots__ = ("address", "buffer", "inode", "memory", "nbytes")

    def __init__(self, fd: int, nbytes: int) -> None:
        check_segment(fd, nbytes)
        self.nbytes = nbytes
        self.inode = os.fstat(fd).st_ino
        try:
            mapping = mmap.mmap(fd, nbytes, prot=mmap.PROT_READ)
        except OSError as error:
            raise Unavailable("this process has no address space left for a segment; try again") from error
        self.memory = memoryview(mapping)
        self.buffer = pa.py_buffer(mapping)
        self.address = self.buffer.address


class Lease:
    """The right to read one region; the base of every Arrow buffer over it. `released` is called once, from
    whatever thread drops the last buffer."""

    __slots__ = ("_mapped", "_released", "key")

    def __init__(
        self, mapped: MappedSegment, key: tuple[int, int, int], released: Callable[[tuple[int, int, int]], None]
    ) -> None:
        self._mapped = mapped
        self._released = released
        self.key = key

    def __del__(self) -> None:
        self._released(self.key)


class SegmentMap:
    """Segments of other processes that this process has mapped, shared by all of its connections.

    Several connections may have shown one segment, and each is read at its own pace: a segment stays mapped for as
    long as one of those that showed it (`Shown`) has not said that it is gone.
    """

    def __init__(self, limits: FabricLimits, pool: SegmentPool | None = None) -> None:
        """`pool`: this process's own segments, whose regions may come back to it to be read."""
        self._pool = pool
        self._own: dict[int, MappedSegment] = {}
        if pool is not None:
            pool.on_dropped.append(self._forget_own)
        self._mapped: dict[tuple[int, int], MappedSegment] = {}
        self._shown: dict[tuple[int, int], set[Shown]] = {}
        self._lock = threading.Lock()
        self._segments_per_peer_max = limits.segments_per_peer_max

    def add(self, shown: Shown, frame: Segment, fd: int) -> None:
        """Map a segment another process announced, unless it is mapped already. Takes over the fd."""
        try:
            with self._lock:
                key = (frame.owner, frame.segment)
                if shown.ended:
                    return
                known = self._mapped.get(key)
                if known is not None:
                    if known.inode != os.fstat(fd).st_ino:
                        raise ProtocolError(f"segment {frame.segment} is shown twice, and is not the same memory")
                    self._shown[key].add(shown)
                    return
                if sum(owner == frame.owner for owner, _ in self._mapped) >= self._segments_per_peer_max:
                    raise ProtocolError(f"peer announced more than {self._segments_per_peer_max} segments")
                self._mapped[key] = MappedSegment(fd, frame.nbytes)
                self._shown[key] = {shown}
        finally:
            os.close(fd)

    def lease(self, region: Region, released: Callable[[tuple[int, int, int]], None]) -> tuple[pa.Buffer, memoryview]:
        """The region's bytes, as an Arrow buffer that holds the lease and as a plain view for looking at
        headers. Raises ProtocolError for a segment never announced or a range outside it."""
        mapped = self._mapped.get((region.owner, region.segment))
        if mapped is None:
            mapped = self._own_segment(region)
        offset, length = region.offset, region.length
        check_region(region, mapped.nbytes)
        lease = Lease(mapped, (region.owner, region.segment, offset), released)
        return pa.foreign_buffer(mapped.address + offset, length, base=lease), mapped.memory[offset : offset + length]

    def _own_segment(self, region: Region) -> MappedSegment:
        """One of this process's own, mapped as those of others are; nobody shows it to its owner."""
        if self._pool is None or region.owner != self._pool.owner:
            raise ProtocolError(f"region in segment {region.segment}, which its owner never announced")
        mapped = self._own.get(region.segment)
        if mapped is None:
            try:
                frame, fd = self._pool.announcement(region.segment)
            except KeyError:
                raise ProtocolError(f"region in segment {region.segment}, which this process has let go of") from None
            mapped = self._own[region.segment] = MappedSegment(fd, frame.nbytes)
        return mapped

    def _forget_own(self, segment: int) -> None:
        self._own.pop(segment, None)

    def forget(self, shown: Shown, owner: int | None = None, segment: int | None = None) -> None:
        """One segment, all of an owner's, or all at all, are shown there no more. Memory still leased stays until
        its buffers die."""
        with self._lock:
            for key in [k for k in self._mapped if owner in (None, k[0]) and segment in (None, k[1])]:
                holders = self._shown[key]
                holders.discard(shown)
                if not holders:
                    del self._shown[key]
                    del self._mapped[key]

    def close(self) -> None:
        """Unmap everything; memory still leased stays until its buffers die."""
        with self._lock:
            self._mapped.clear()
            self._shown.clear()
            self._own.clear()

    def __len__(self) -> int:
        return len(self._mapped)


class Shown:
    """What one connection has shown of the segments in a map. For the thread that reads it, frame by frame; any may
    `end` it."""

    __slots__ = ("_map", "ended")

    def __init__(self, mapped: SegmentMap) -> None:
        self._map = mapped
        self.ended = False

    def add(self, frame: Segment, fd: int) -> None:
        """As `SegmentMap.add`."""
        self._map.add(self, frame, fd)

    def gone(self, frame: SegmentGone | PeerGone) -> None:
        """The connection says that a segment is gone, or all of a process's."""
        if isinstance(frame, SegmentGone):
            self._map.forget(self, frame.owner, frame.segment)
        else:
            self._map.forget(self, frame.peer_id)

    def end(self) -> None:
        """The connection ended: unmap what no other has shown. Nothing is added any more."""
        self.ended = True
        self._map.forget(self)
