"""Requests with calls that follow: what a stage gave goes on as the next one's request, and nobody in between maps it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import flightserve as fs
from flightserve import errors
from tests.plane import Plane, meta, plane, receive_all


def rows(count: int, first: int = 0) -> pa.RecordBatch:
    return pa.record_batch({"x": pa.array(range(first, first + count), pa.int64())})


@fs.deployment
class First:
    """The first stage; holds the others so that they are served with it."""

    def __init__(self, *stages: Any) -> None:
        self.stages = stages
        self.contexts: list[Any] = []

    def add(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.contexts.append((fs.context().request_ids, fs.context().priorities, fs.context().deadlines))
        return pa.record_batch({"x": pc.add(batch.column("x"), 1)})


@fs.deployment
class Second:
    """The second one."""

    def __init__(self) -> None:
        self.contexts: list[Any] = []
        self.batches: list[int] = []

    def double(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.contexts.append((fs.context().request_ids, fs.context().priorities, fs.context().deadlines))
        self.batches.append(batch.num_rows)
        return pa.record_batch({"x": pc.multiply(batch.column("x"), 2)})

    def boom(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        raise ValueError("bad value")

    @fs.method(input=pa.schema([("y", pa.int64())]))
    def wants_y(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    @fs.method(row_aligned=False)
    def parts(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for row in range(batch.num_rows):
            yield batch.slice(row, 1)


@pytest.fixture(scope="module")
def chained() -> Iterator[Plane]:
    with plane(First.bind(Second.bind())) as running:
        yield running


def call(chained: Plane, batch: Any, *then: tuple[str, str], **metadata: Any) -> list[pa.RecordBatch]:
    async def collect() -> list[pa.RecordBatch]:
        asked = chained.client.call("First", "add", batch, meta(**metadata), then)
        return [result.batch() async for result in asked]

    return chained.run(collect())


def test_two_stages_in_one_router(chained: Plane) -> None:
    [answer] = call(chained, rows(5), ("Second", "double"))
    assert answer.column("x").to_pylist() == [2, 4, 6, 8, 10]


def test_the_same_from_a_lane(chained: Plane) -> None:
    lane = chained.client.open_lane()
    try:
        parts = [(2, meta()), (3, meta())]
        lane.submit_parts(0, "First", "add", rows(5), parts, [("Second", "double")])
        replies = {reply.key: reply for reply in receive_all(lane, 2)}
        assert [r.error for r in replies.values()] == [None, None]
        assert replies[0].result.batch().column("x").to_pylist() == [2, 4]
        assert replies[1].result.batch().column("x").to_pylist() == [6, 8, 10]
    finally:
        lane.close()
