"""One column of every Arrow type, for tests that all of them pass unharmed."""

from __future__ import annotations

import datetime
import decimal
import io
import uuid
from typing import Any

import pyarrow as pa

ROWS = 6


def sparse_union() -> pa.Array:
    """Whole numbers and strings in turn."""
    children = [pa.array(range(ROWS)), pa.array(list("abcdef"))]
    return pa.UnionArray.from_sparse(pa.array([0, 1] * 3, pa.int8()), children)


def dense_union() -> pa.Array:
    """The same, dense."""
    offsets = pa.array([0, 0, 1, 1, 2, 2], pa.int32())
    return pa.UnionArray.from_dense(
        pa.array([0, 1] * 3, pa.int8()), offsets, [pa.array(range(3)), pa.array(list("abc"))]
    )


def columns() -> dict[str, pa.Array]:
    """By name, each of `ROWS` values, with nulls where the type has them."""
    strings = ["ab", "é", None, "x" * 40, "", "y" * 13]
    lists: list[Any] = [[1, 2], None, [], [3], [4], [5]]
    moment = datetime.datetime(2013, 1, 1, 5, 15, tzinfo=datetime.UTC)
    return {
        "int8": pa.array([1, None, 3, -4, 5, 6], pa.int8()),
        "int64": pa.array([2**63 - 1, None, 3, 4, 5, -(2**63)], pa.int64()),
        "uint64": pa.array([2**64 - 1, None, 3, 4, 5, 6], pa.uint64()),
        "float16": pa.array([1.5, None, 2.5, 0.0, -1.0, 4.0], pa.float16()),
        "float64": pa.array([1.5, None, float("inf"), 0.0, -1.0, 4.0]),
        "bool": pa.array([True, None, False] * 2),
        "string": pa.array(strings),
        "large_string": pa.array(strings, pa.large_string()),
        "string_view": pa.array(strings, pa.string_view()),
        "binary": pa.array([b"a", None, b"", b"\xff\x00", b"x" * 20, b"b"]),
        "binary_view": pa.array([b"a" * 20, None] * 3, pa.binary_view()),
        "fixed_binary": pa.array([b"abcd", None] * 3, pa.binary(4)),
        "list": pa.array(lists),
        "large_list": pa.array(lists, pa.large_list(pa.int32())),
        "list_view": pa.array(lists, pa.list_view(pa.int32())),
        "fixed_list": pa.array([[1, 2]] * ROWS, pa.list_(pa.int16(), 2)),
        "struct": pa.array([{"a": 1, "b": "x"}, None] * 3),
        "map": pa.array([[("a", 1)], None] * 3, pa.map_(pa.string(), pa.int32())),
        "dictionary": pa.array(["x", "y", None] * 2).dictionary_encode(),
        "nested_dictionary": pa.array([["p"], ["q", "p"]] * 3, pa.list_(pa.dictionary(pa.int8(), pa.string()))),
        "decimal": pa.array([decimal.Decimal("1.25"), None] * 3),
        "date": pa.array([moment.date(), None] * 3),
        "time": pa.array([moment.time(), None] * 3),
        "timestamp": pa.array([moment, None] * 3, pa.timestamp("us", "America/New_York")),
        "timestamp_plain": pa.array([moment.replace(tzinfo=None), None] * 3, pa.timestamp("ms")),
        "duration": pa.array([datetime.timedelta(seconds=1), None] * 3),
        "interval": pa.array([(1, 2, 3), None] * 3, pa.month_day_nano_interval()),
        "sparse_union": sparse_union(),
        "dense_union": dense_union(),
        "null": pa.nulls(ROWS),
        "run_ends": pa.RunEndEncodedArray.from_arrays([2, ROWS], ["a", "b"]),
        "uuid": pa.array([uuid.UUID(int=number).bytes for number in range(ROWS)], pa.uuid()),
    }


def encoded(*batches: pa.RecordBatch, **options: Any) -> bytes:
    """The batches as one IPC stream; options of `pa.ipc.IpcWriteOptions`."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batches[0].schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue()
