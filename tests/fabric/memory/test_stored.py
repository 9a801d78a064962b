"""Rows that lie in this process's memory already, as an answer: whose lease it is, and what ends it."""

from __future__ import annotations

import gc

import pyarrow as pa
import pytest

from flightserve.config import FabricLimits
from flightserve.fabric.memory.batches import SchemaCache, read_batch, write_batch
from flightserve.fabric.memory.segments import SegmentPool
from flightserve.fabric.memory.stored import Fresh, Stored, own_buffer
from flightserve.wire.frames import Region

BATCH = pa.record_batch({"a": [1, 2, 3]})


@pytest.fixture
def pool() -> SegmentPool:
    return SegmentPool(1, FabricLimits(segment_bytes=1 << 20, memory_bytes_max=3 << 20))


def written(pool: SegmentPool) -> Region:
    def allocate(nbytes: int) -> tuple[Region, memoryview]:
        got = pool.allocate(nbytes)
        assert got is not None
        return got

    return write_batch(BATCH, SchemaCache(), allocate, lambda *_: None)


def leases(pool: SegmentPool) -> float:
    return pool.statistics()["leases"]


def test_an_answer_takes_its_lease_over(pool: SegmentPool) -> None:
    region = written(pool)
    stored = Stored(pool, region, [1, 2], [2, 0])
    assert stored.num_rows == 3 and stored.taken() == region
    del stored
    pool.free(region.segment, region.offset)
    assert leases(pool) == 1, "the answer's"
    pool.free(region.segment, region.offset)
    assert leases(pool) == 0


def test_where_there_is_no_answer_the_lease_ends_with_the_object(pool: SegmentPool) -> None:
    region = written(pool)
    stored = Stored(pool, region, [3])
    pool.free(region.segment, region.offset)
    assert leases(pool) == 1
    del stored
    assert leases(pool) == 0


def test_what_finalisers_give_back_is_there_for_the_next_allocation(pool: SegmentPool) -> None:
    region = written(pool)
    stored = Stored(pool, region, [3])
    pool.free(region.segment, region.offset)
    with pool._lock:  # as where the collector runs inside the pool
        del stored
    assert written(pool).offset == region.offset


def test_own_rows_are_read_in_place_and_stay_while_they_are(pool: SegmentPool) -> None:
    region = written(pool)
    read = read_batch(*own_buffer(pool, region), SchemaCache())
    pool.free(region.segment, region.offset)
    assert read == BATCH and leases(pool) == 1
    piece = read.slice(1, 1)
    del read
    gc.collect()
    assert piece["a"].to_pylist() == [2] and leases(pool) == 1
    del piece
    assert leases(pool) == 0


def test_a_region_given_out_several_times_outlives_an_abandoned_one(pool: SegmentPool) -> None:
    region = written(pool)
    first, second = Stored(pool, region, [3]), Stored(pool, region, [3])
    first.taken()
    pool.abandon(region.segment, region.offset)
    assert read_batch(*own_buffer(pool, region), SchemaCache()) == BATCH
    assert written(pool).segment != region.segment, "nothing is placed there again"
    del second
    assert leases(pool) == 2, "the first writer's, and the new region"
    pool.free(region.segment, region.offset)
    assert leases(pool) == 1


def test_a_batch_whose_place_is_asked_for() -> None:
    assert Fresh(BATCH, lambda region: None).num_rows == 3
