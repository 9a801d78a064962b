"""A small app for tests of faults over the real tiers."""

from __future__ import annotations

import os
import threading

import pyarrow as pa

import flightserve as fs


@fs.deployment(replicas=2)
class Pricing:
    """Adds tax, says where it runs, and takes its time when asked to."""

    def __init__(self, tax: float) -> None:
        self._tax = tax

    def charge(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Prices with tax."""
        prices = batch.column("price").to_numpy(zero_copy_only=False)
        return pa.RecordBatch.from_pydict({"price": prices * (1 + self._tax)})

    @fs.single_input
    def where(self, row: dict[str, float]) -> dict[str, int]:
        """The replica's pid."""
        return {"pid": os.getpid()}

    @fs.method(idempotent=False)
    def slow(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Waits as many seconds as the first row's `price` says."""
        threading.Event().wait(batch.column("price")[0].as_py())
        return batch


app = fs.App(Pricing.bind(tax=0.5))
