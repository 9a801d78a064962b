"""Generators that yield nothing, over the data plane."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pyarrow as pa
import pytest

import flightserve as fs
from tests.plane import Plane, plane


@fs.deployment
class Probe:
    """Each row as a batch of its own."""

    def parts(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for row in range(batch.num_rows):
            yield batch.slice(row, 1)

    async def parts_async(self, batch: pa.RecordBatch) -> AsyncIterator[pa.RecordBatch]:
        for row in range(batch.num_rows):
            yield batch.slice(row, 1)


@pytest.fixture
def running() -> Iterator[Plane]:
    with plane(Probe.bind()) as running:
        yield running


@pytest.mark.parametrize("method", ["parts", "parts_async"])
def test_a_generator_may_yield_nothing(running: Plane, method: str) -> None:
    assert running.call(method, pa.record_batch({"x": pa.array([], pa.int64())})) == []
    assert [len(batch) for batch in running.call(method, pa.record_batch({"x": [1, 2]}))] == [1, 1]
