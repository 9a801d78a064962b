"""Segments and regions: real memfds, sealed, mapped by descriptor, refused when they are not what they claim."""

from __future__ import annotations

import fcntl
import gc
import os

import numpy as np
import pyarrow as pa
import pytest

from flightserve.config import FabricLimits
from flightserve.errors import ProtocolError
from flightserve.fabric.memory.batches import SchemaCache, read_batch, write_batch
from flightserve.fabric.memory.segments import SegmentMap, SegmentPool, Shown
from flightserve.wire.frames import PeerGone, Region, Segment

LIMITS = FabricLimits(segment_bytes=1 << 20, memory_bytes_max=3 << 20)


def memfd(nbytes: int, seals: int = 0) -> int:
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, nbytes)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


ALL_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@pytest.mark.parametrize(
    ("fd", "claimed", "complaint"),
    [
        (lambda: memfd(4096), 4096, "sealed"),
        (lambda: memfd(4096, fcntl.F_SEAL_SHRINK), 4096, "sealed"),
        (lambda: memfd(4096, ALL_SEALS), 8192, "announced"),
        (lambda: memfd(4096, ALL_SEALS), 0, "announced"),
        (lambda: os.open("/dev/zero", os.O_RDONLY), 4096, "announced"),
    ],
    ids=["unsealed", "half sealed", "shorter than claimed", "empty", "no memfd"],
)
def test_a_segment_that_is_not_what_it_claims_is_refused_and_its_fd_closed(fd, claimed, complaint) -> None:  # type: ignore[no-untyped-def]
    mapped = SegmentMap(LIMITS)
    number = fd()
    with pytest.raises(ProtocolError, match=complaint):
        Shown(mapped).add(Segment(1, 1, claimed), number)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_a_region_outside_its_segment_or_in_none_is_refused() -> None:
    mapped = SegmentMap(LIMITS)
    Shown(mapped).add(Segment(1, 1, 4096), memfd(4096, ALL_SEALS))
    for region in (Region(1, 1, 4000, 97), Region(1, 1, -1, 5), Region(1, 1, 0, 0), Region(1, 1, 2**62, 2**62)):
        with pytest.raises(ProtocolError, match="outside"):
            mapped.lease(region, lambda key: None)
    with pytest.raises(ProtocolError, match="never announced"):
        mapped.lease(Region(1, 2, 0, 8), lambda key: None)


def test_segments_per_peer_are_bounded() -> None:
    mapped = SegmentMap(FabricLimits(segments_per_peer_max=2))
    shown = Shown(mapped)
    for number in range(2):
        shown.add(Segment(1, number, 4096), memfd(4096, ALL_SEALS))
    shown.add(Segment(2, 0, 4096), memfd(4096, ALL_SEALS))
    with pytest.raises(ProtocolError, match="more than 2"):
        shown.add(Segment(1, 2, 4096), memfd(4096, ALL_SEALS))


def share(pool: SegmentPool, region: Region, mapped: SegmentMap) -> Shown:
    frame, fd = pool.announcement(region.segment)
    shown = Shown(mapped)
    shown.add(frame, os.dup(fd))
    return shown


def test_a_batch_is_read_where_it_was_written_and_its_lease_lives_as_long_as_its_buffers() -> None:
    pool, mapped, schemas = SegmentPool(1, LIMITS), SegmentMap(LIMITS), SchemaCache()
    batch = pa.record_batch({"a": np.arange(1000), "s": [f"row {i}" for i in range(1000)]})
    region = write_batch(batch, schemas, lambda n: pool.allocate(n) or pytest.fail("full"), pool.free)
    shown = share(pool, region, mapped)
    released: list[tuple[int, int, int]] = []
    buffer, memory = mapped.lease(region, released.append)
    base = buffer.address
    read = read_batch(buffer, memory, schemas)
    del buffer, memory
    assert read.equals(batch)
    for column in read.columns:
        for part in column.buffers():
            if part is not None:
                assert base <= part.address and part.address + part.size <= base + region.length
    kept = read.slice(10, 5).column(0)
    del read, column, part
    shown.gone(PeerGone(1))
    gc.collect()
    assert released == []
    assert kept.to_pylist() == [10, 11, 12, 13, 14]
    del kept
    gc.collect()
    assert released == [(1, region.segment, region.offset)]


def test_readers_cannot_write() -> None:
    pool, mapped, schemas = SegmentPool(1, LIMITS), SegmentMap(LIMITS), SchemaCache()
    region = write_batch(
        pa.record_batch({"a": [1]}), schemas, lambda n: pool.allocate(n) or pytest.fail("full"), pool.free
    )
    share(pool, region, mapped)
    buffer, memory = mapped.lease(region, lambda key: None)
    assert memory.readonly and not buffer.is_mutable
    with pytest.raises(TypeError):
        memory[0] = 0


def test_memory_is_bounded_and_comes_back() -> None:
    pool = SegmentPool(1, LIMITS)
    regions = []
    while (got := pool.allocate(200_000)) is not None:
        regions.append(got[0])
    assert 12 <= len(regions) <= 15
    assert pool.statistics()["shared_memory_bytes"] <= LIMITS.memory_bytes_max
    assert pool.wait(200_000, 0) is None
    pool.free(regions[0].segment, regions[0].offset)
    again = pool.wait(200_000, 1)
    assert again is not None and again[0].offset == regions[0].offset, "the hottest region is used first"


def test_an_abandoned_region_is_never_written_again_and_stays_readable() -> None:
    pool, mapped, schemas = SegmentPool(1, LIMITS), SegmentMap(LIMITS), SchemaCache()
    batch = pa.record_batch({"a": np.arange(100)})
    region = write_batch(batch, schemas, lambda n: pool.allocate(n) or pytest.fail("full"), pool.free)
    share(pool, region, mapped)
    buffer, memory = mapped.lease(region, lambda key: None)
    dropped: list[int] = []
    pool.on_dropped.append(dropped.append)
    pool.abandon(region.segment, region.offset)
    assert dropped == [region.segment]
    for _ in range(50):
        other = write_batch(
            pa.record_batch({"a": np.zeros(100, int)}), schemas, lambda n: pool.allocate(n) or pytest.fail(), pool.free
        )
        assert other.segment != region.segment
    assert read_batch(buffer, memory, schemas).equals(batch)


def test_a_kept_region_comes_back_once_for_each_keep_and_once_more() -> None:
    pool = SegmentPool(1, LIMITS)
    got = pool.allocate(100)
    assert got is not None
    region, _ = got
    pool.keep(region.segment, region.offset)
    pool.keep(region.segment, region.offset)
    for _ in range(2):
        pool.free(region.segment, region.offset)
        other = pool.allocate(100)
        assert other is not None and other[0] != region, "somebody still needs it"
    pool.free(region.segment, region.offset)
    again = pool.allocate(100)
    assert again is not None and (again[0].segment, again[0].offset) == (region.segment, region.offset)


def test_an_abandoned_region_that_is_kept_can_still_be_shown_and_is_then_dropped() -> None:
    pool = SegmentPool(1, LIMITS)
    got = pool.allocate(100)
    assert got is not None
    region, _ = got
    dropped: list[int] = []
    pool.on_dropped.append(dropped.append)
    pool.keep(region.segment, region.offset)
    pool.abandon(region.segment, region.offset)
    assert pool.announcement(region.segment)[0].segment == region.segment
    assert dropped == []
    elsewhere = pool.allocate(100)
    assert elsewhere is not None and elsewhere[0].segment != region.segment
    pool.free(region.segment, region.offset)
    assert dropped == [region.segment]


def test_a_segment_stays_mapped_until_every_connection_that_showed_it_says_that_it_is_gone() -> None:
    mapped = SegmentMap(LIMITS)
    first, second = Shown(mapped), Shown(mapped)
    fd = memfd(4096, ALL_SEALS)
    for shown, its_fd in ((first, os.dup(fd)), (second, fd)):
        shown.add(Segment(7, 1, 4096), its_fd)
    first.add(Segment(7, 2, 4096), memfd(4096, ALL_SEALS))
    first.gone(PeerGone(7))
    assert len(mapped) == 1
    mapped.lease(Region(7, 1, 0, 8), lambda key: None)
    first.end()
    assert len(mapped) == 1
    second.end()
    assert len(mapped) == 0


def test_a_segment_that_is_shown_twice_is_the_same_memory() -> None:
    """A carrier that lost its memory mirrors a segment anew: rows that come there are not read in the mirror before."""
    mapped = SegmentMap(LIMITS)
    first, second = Shown(mapped), Shown(mapped)
    first.add(Segment(7, 1, 4096), memfd(4096, ALL_SEALS))
    with pytest.raises(ProtocolError, match="not the same memory"):
        second.add(Segment(7, 1, 4096), memfd(4096, ALL_SEALS))
    first.end()
    second.add(Segment(7, 1, 4096), memfd(4096, ALL_SEALS))
    second.end()


def test_a_connection_that_ended_shows_nothing_any_more() -> None:
    """Its reader may be a thread that has not noticed yet."""
    mapped = SegmentMap(LIMITS)
    shown = Shown(mapped)
    shown.end()
    late = memfd(4096, ALL_SEALS)
    shown.add(Segment(7, 1, 4096), late)
    assert len(mapped) == 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(late)


def test_dropping_a_segment_closes_its_memfd() -> None:
    pool = SegmentPool(1, LIMITS)
    got = pool.allocate(2 << 20)
    assert got is not None
    region, memory = got
    _, fd = pool.announcement(region.segment)
    inode = os.fstat(fd).st_ino
    del memory, got
    pool.free(region.segment, region.offset)
    gc.collect()
    open_inodes = []
    for name in os.listdir("/proc/self/fd"):
        try:
            open_inodes.append(os.stat(f"/proc/self/fd/{name}").st_ino)
        except OSError:
            continue
    assert inode not in open_inodes


def test_schemas_of_strangers_are_kept_within_bounds() -> None:
    schemas = SchemaCache()
    for number in range(40):
        schemas.of(pa.schema([("a", pa.int64())], metadata={"k": f"{number}" * (1 << 19)}))
    assert sum(map(len, schemas._by_message)) <= 18 << 20


@pytest.mark.parametrize("words", [pa.array(["a", "b"]).dictionary_encode(), pa.array(range(10_000))])
def test_what_cannot_be_written_leaves_no_region(words: pa.Array) -> None:
    """Arrow finds some of what is wrong with a batch when it writes it; here there is no room for it."""
    pool = SegmentPool(1, LIMITS)

    def too_small(nbytes: int) -> tuple[Region, memoryview]:
        region, memory = pool.allocate(nbytes) or pytest.fail("full")
        return region, memory[:64]

    with pytest.raises((pa.ArrowException, OSError)):
        write_batch(pa.record_batch([words], ["words"]), SchemaCache(), too_small, pool.free)
    assert pool.statistics()["leases"] == 0
