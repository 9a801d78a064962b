"""The rows of the chaos run: made so that a reply tells which rows of which request it came from, and in what order.

A row is (id, index, value): the request's id, the row's place in it, and a value that follows from both. A method
answers with the value multiplied by an odd constant and shifted by one of its own, modulo 2**64, which is undone on
the reply: what is left must be the rows that were sent. So a reply with somebody else's rows, with rows missing,
doubled or out of order, or from another method, shows.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import Final

import numpy as np
import pyarrow as pa

SCHEMA: Final = pa.schema([("id", pa.int64()), ("index", pa.int64()), ("value", pa.int64())])
FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)
FACTOR_INVERSE: Final = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
# A value that `picky` raises at. The ones that `make` gives are never negative.
POISON: Final = -1


def make(request_id: int, rows: int, poisoned: bool = False) -> pa.RecordBatch:
    """The rows of a request; of a poisoned one the last value is `POISON`."""
    index = np.arange(rows, dtype=np.int64)
    mixed = (index.astype(np.uint64) + np.uint64(request_id)) * FACTOR
    mixed ^= mixed >> np.uint64(29)
    value = (mixed >> np.uint64(1)).astype(np.int64)
    if poisoned and rows:
        value[-1] = POISON
    return _batch(np.full(rows, request_id, dtype=np.int64), index, value)


def derive(batch: pa.RecordBatch, method: str) -> pa.RecordBatch:
    """What the method of that name answers."""
    ids, index, value = columns(batch)
    return _batch(ids, index, (value.view(np.uint64) * FACTOR + _shift(method)).view(np.int64))


def derive_one(value: int, method: str) -> int:
    """The same for the value of one row."""
    derived = (value * int(FACTOR) + int(_shift(method))) % (1 << 64)
    return derived - (1 << 64) if derived >= 1 << 63 else derived


def source(batch: pa.RecordBatch, method: str) -> pa.RecordBatch:
    """The rows from which the method's answer must have been derived."""
    ids, index, value = columns(batch)
    return _batch(ids, index, ((value.view(np.uint64) - _shift(method)) * FACTOR_INVERSE).view(np.int64))


def rows_hash(batch: pa.RecordBatch) -> str:
    """A digest of all values in their order."""
    return hashlib.blake2b(b"".join(column.tobytes() for column in columns(batch)), digest_size=8).hexdigest()


def ids_in(batch: pa.RecordBatch) -> tuple[int, ...]:
    """The request ids among the rows, at most four."""
    return tuple(np.unique(columns(batch)[0])[:4].tolist())


def runs(batch: pa.RecordBatch) -> list[tuple[int, int, int]]:
    """The batch as (request id, first index, rows): one for each stretch of consecutive rows of one request."""
    ids, index, _ = columns(batch)
    if not len(ids):
        return []
    breaks = np.flatnonzero((np.diff(ids) != 0) | (np.diff(index) != 1)) + 1
    starts = [0, *breaks.tolist()]
    ends = [*breaks.tolist(), len(ids)]
    return [(int(ids[start]), int(index[start]), end - start) for start, end in zip(starts, ends, strict=True)]


def columns(batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids, indexes and values, each int64. Raises ValueError for a batch of another kind."""
    if batch.schema.names != SCHEMA.names or any(field.type != pa.int64() for field in batch.schema):
        raise ValueError(f"rows are (id, index, value), each int64; got {batch.schema}")
    ids, index, value = (np.ascontiguousarray(column.to_numpy(zero_copy_only=False)) for column in batch.columns)
    return ids, index, value


def _batch(ids: np.ndarray, index: np.ndarray, value: np.ndarray) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(ids), pa.array(index), pa.array(value)], schema=SCHEMA)


def _shift(method: str) -> np.uint64:
    return np.uint64(zlib.crc32(method.encode()))
