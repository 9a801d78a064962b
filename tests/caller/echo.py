"""What the tests of requests that travel together call."""

from __future__ import annotations

import pyarrow as pa

import flightserve as fs

ONE_INT = pa.schema([pa.field("a", pa.int64())])


class Echo:
    """Gives back what it gets, and notes whole numbers."""

    def __init__(self) -> None:
        self.ran: list[int] = []

    def call(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows."""
        if pa.types.is_integer(batch.schema.field(0).type):
            self.ran += batch[0].to_pylist()
        return batch

    @fs.method(input=ONE_INT)
    def typed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows, of one column."""
        return batch

    def picky(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows; not if one of them is negative."""
        if min(batch["a"].to_pylist()) < 0:
            raise ValueError("a negative number")
        return batch

    @fs.method(row_aligned=False)
    def whole(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """How many rows came."""
        return pa.record_batch({"rows": [batch.num_rows]})


def echo(max_batch_rows: int) -> fs.Bound[Echo]:
    """Its deployment."""
    return fs.bind(fs.deployment(name="Echo", max_batch_rows=max_batch_rows)(Echo))
