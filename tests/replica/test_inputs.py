"""A micro-batch's rows out of its regions, when some of its requests are late."""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec
import pyarrow as pa
import pytest

from flightserve.config import FabricLimits
from flightserve.errors import InvalidArgument
from flightserve.fabric.memory.batches import SchemaCache, write_batch
from flightserve.fabric.memory.segments import SegmentMap, SegmentPool, Shown
from flightserve.replica.inputs import Inputs
from flightserve.wire.frames import Execute, Part

LIMITS = FabricLimits(segment_bytes=1 << 16)
NOW_NS = 1000


class Shared:
    """A caller's pool and a replica's map of it."""

    def __init__(self) -> None:
        self.pool = SegmentPool(1, LIMITS)
        self.mapped = SegmentMap(LIMITS)
        self.schemas = SchemaCache()

    def execute(self, *requests: tuple[list[int] | pa.Array, int]) -> Execute:
        """A micro-batch of requests as (rows, deadline), each in a region of its own."""
        regions, parts = [], []
        for place, (values, deadline_ns) in enumerate(requests):
            batch = pa.record_batch({"x": values if isinstance(values, pa.Array) else pa.array(values, pa.int64())})
            regions.append(write_batch(batch, self.schemas, self._allocate, lambda *_: None))
            parts.append(Part(place, 0, len(values), deadline_ns))
        return Execute(1, "echo", regions, parts)

    def _allocate(self, nbytes: int) -> tuple[object, memoryview]:
        got = self.pool.allocate(nbytes)
        assert got is not None
        if not len(self.mapped):
            frame, fd = self.pool.announcement(got[0].segment)
            Shown(self.mapped).add(frame, os.dup(fd))
        return got


@pytest.fixture
def shared() -> Iterator[Shared]:
    shared = Shared()
    yield shared
    shared.mapped.close()
    shared.pool.close()


@pytest.mark.parametrize(
    ("requests", "live"),
    [
        ([([1, 2], 1), ([3, 4], 9999)], [3, 4]),
        ([([1, 2], 9999), ([3, 4], 1)], [1, 2]),
        ([([1, 2, 3], 9999), ([4], 1)], [1, 2, 3]),
        ([([1], 1), ([2, 3], 9999), ([4], 1)], [2, 3]),
        ([([1], 9999), ([2], 9999)], [1, 2]),
    ],
)
def test_only_the_rows_of_those_that_are_not_late(
    shared: Shared, requests: list[tuple[list[int], int]], live: list[int]
) -> None:
    """Also where the one that is left has as many rows as the first region: that region is not all of it."""
    frame, inputs = shared.execute(*requests), Inputs()
    inputs.drop_late(frame, NOW_NS)
    pieces = inputs.pieces(frame, shared.mapped, shared.schemas)
    assert [value for piece in pieces for value in piece.column("x").to_pylist()] == live
    del pieces
    assert inputs.settle() == []


@pytest.mark.parametrize("texts", [False, True], ids=["plain", "with a dictionary"])
def test_a_region_that_ends_too_early_is_its_sender_s_fault(shared: Shared, texts: bool) -> None:
    values = pa.array(["a", "b", "a"]).dictionary_encode() if texts else pa.array([1, 2, 3], pa.int64())
    frame, taken = shared.execute((values, 9999)), []
    (whole,) = frame.regions
    for nbytes in range(1, whole.length):
        frame.regions = [msgspec.structs.replace(whole, length=nbytes)]
        try:
            (batch,) = Inputs().pieces(frame, shared.mapped, shared.schemas)
        except InvalidArgument:
            continue
        assert batch.column(0).equals(values)
        taken.append(nbytes)
    # The stream's end may be missing, and what pads the last column.
    assert taken == list(range(taken[0], whole.length)) and whole.length - taken[0] < 16
