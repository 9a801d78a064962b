"""The record batches every benchmark sends: float64 columns, different by a seed, so that mixed-up answers show."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

SMALL_ROWS = 16
MB = 1_000_000
COLUMNS = 8


def small(seed: int = 0, rows: int = SMALL_ROWS) -> pa.RecordBatch:
    """`rows` rows of one float64 column `x`."""
    return pa.record_batch({"x": np.arange(rows, dtype=np.float64) + 1000.0 * seed})


def column(size_bytes: int, seed: int = 0) -> np.ndarray:
    """The float64 values `x` of a batch of that many bytes."""
    return np.arange(size_bytes // 8, dtype=np.float64) + 1000.0 * seed


def sized(size_bytes: int, seed: int = 0) -> pa.RecordBatch:
    """A batch of 8 float64 columns of about `size_bytes` bytes in all."""
    rows = size_bytes // (8 * COLUMNS)
    base = np.arange(rows, dtype=np.float64) + seed
    return pa.record_batch({f"c{i}": base + i for i in range(COLUMNS)})


def encode(batch: pa.RecordBatch) -> bytes:
    """The batch as one Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def decode(stream: bytes | memoryview) -> pa.Table:
    """All batches of an Arrow IPC stream as a table over its memory."""
    return pa.ipc.open_stream(pa.py_buffer(stream)).read_all()


def numbers(seed: int, count: int = 10) -> list[float]:
    """`count` numbers for JSON requests, different by seed."""
    return [seed + i / 4 for i in range(count)]
