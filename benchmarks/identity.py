"""The deployment under test: one replica whose method answers its input.

A micro-batch may be larger than any batch the benchmarks send (156,250 rows in the 10 MB ones), so that none is sliced.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

import flightserve as fs
from benchmarks import payloads


@fs.deployment(replicas=1, max_batch_rows=262_144)
class Identity:
    """Answers what it gets, and counts the calls of one of its methods."""

    def __init__(self) -> None:
        self._calls = 0
        self._rows = 0

    def identity(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows, unchanged."""
        return batch

    def counted(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows, unchanged; counts the call and its rows."""
        self._calls += 1
        self._rows += batch.num_rows
        return batch

    def repeated(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """A stream: as many parts of about `size_bytes` as the first row's `parts` says."""
        size_bytes, parts = (batch.column(name)[0].as_py() for name in ("size_bytes", "parts"))
        part = payloads.sized(size_bytes)
        for _ in range(parts):
            yield part

    @fs.method(row_aligned=False)
    def counts(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """One row: the `calls` of `counted` and the `rows` they had, since the replica started."""
        return pa.record_batch({"calls": [self._calls], "rows": [self._rows]})


app = fs.App(fs.bind(Identity))
# The same again, as the stages of a pipeline.
STAGES = tuple(fs.bind(Identity).options(name=f"Stage{number}") for number in range(1, 5))
