"""The deployments of `micro_batch`: a class with plain methods alone, and the same with an `async def` one beside."""

from __future__ import annotations

import asyncio

import pyarrow as pa

import flightserve as fs
from benchmarks.identity import Identity


@fs.deployment
class Beside(Identity):
    """As Identity, with a method that only waits."""

    async def waits(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows, after as many seconds as the first one says."""
        await asyncio.sleep(batch.column(0)[0].as_py())
        return batch


app = fs.App(fs.bind(Identity), fs.bind(Beside))
