"""Replicas on both nodes: the router's own serves what it can, and the other node what would have to wait."""

from __future__ import annotations

import asyncio
import threading

import pyarrow as pa

import flightserve as fs
from tests.carrier.nodes import two_nodes
from tests.plane import meta

ROWS = pa.record_batch({"x": pa.array(range(16), pa.int64())})


@fs.deployment()
class Counted:
    def __init__(self) -> None:
        self.calls = 0
        self.left = threading.Event()

    def same(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.calls += 1
        return batch

    def waits(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.left.wait(20)
        return batch


def test_the_routers_node_first_and_the_other_where_that_is_busy() -> None:
    with two_nodes(Counted.bind()) as running:
        running.start_near_replica()
        far, near = running.targets
        for _ in range(30):
            running.call("same", ROWS)
        assert (near.calls, far.calls) == (30, 0)

        async def busy() -> None:
            call = running.client.call("Counted", "waits", ROWS, meta())
            assert [result.batch().num_rows async for result in call] == [16]

        busy_near = asyncio.run_coroutine_threadsafe(busy(), running.loop)
        for _ in range(5):
            running.call("same", ROWS)
        assert far.calls == 5
        near.left.set()
        far.left.set()
        busy_near.result(20)
        for _ in range(30):
            running.call("same", ROWS)
        assert near.calls >= 60 - 2
