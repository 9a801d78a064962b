"""How many bytes rows take, of every type and without rows."""

from __future__ import annotations

import pyarrow as pa
import pytest

from flightserve.fabric.memory.sizes import column_nbytes, nbytes_of
from tests.columns import columns

CODES = pa.array([0, 1, 0], pa.int8())
DENSE = pa.UnionArray.from_dense(CODES, pa.array([0, 0, 1], pa.int32()), [pa.array([1, 2]), pa.array(["a"])])
SPARSE = pa.UnionArray.from_sparse(CODES, [pa.array([1, 2, 3]), pa.array(["a", "b", "c"])])
NONE = SPARSE.slice(0, 0)
# Where unions have no rows, whether the columns have some or not.
EMPTY = {
    "dense": DENSE.slice(0, 0),
    "sparse": NONE,
    "slice": DENSE.slice(2, 0),
    "struct": pa.StructArray.from_arrays([NONE], names=["u"]),
    "list": pa.ListArray.from_arrays([0, 0, 0], NONE),
    "large list": pa.LargeListArray.from_arrays([0, 0], NONE),
    "list view": pa.ListViewArray.from_arrays([0, 0], [0, 0], NONE),
    "fixed": pa.FixedSizeListArray.from_arrays(NONE, 2),
    "map": pa.MapArray.from_arrays([0, 0, 0], pa.array([], pa.string()), NONE),
    "dictionary": pa.DictionaryArray.from_arrays(pa.array([None], pa.int8()), NONE),
    "union": pa.UnionArray.from_dense(CODES, pa.array([0, 1, 2], pa.int32()), [pa.array([1, 2, 3]), pa.nulls(3)]),
    "in a union": pa.UnionArray.from_dense(
        pa.array([1], pa.int8()), pa.array([0], pa.int32()), [DENSE.slice(0, 0), pa.array([1])]
    ),
    "extension": pa.ExtensionArray.from_storage(pa.opaque(NONE.type, "any", "us"), NONE),
}


def brought(column: pa.Array) -> pa.RecordBatch:
    """The column as a stream brings it."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([("x", column.type)])) as writer:
        writer.write_batch(pa.record_batch([column], names=["x"]))
    return pa.ipc.open_stream(sink.getvalue()).read_next_batch()


@pytest.mark.parametrize("kind", EMPTY)
def test_unions_without_rows_have_a_size(kind: str) -> None:
    """pyarrow ends the process where it is asked for it."""
    batch = brought(EMPTY[kind])
    assert nbytes_of(batch) <= batch.get_total_buffer_size()
    assert nbytes_of(pa.Table.from_batches([batch, batch])) == 2 * column_nbytes(batch.column(0))


@pytest.mark.parametrize("name", list(columns()))
def test_all_else_takes_what_pyarrow_says(name: str) -> None:
    batch = pa.record_batch({"x": columns()[name], "n": columns()[name]})
    assert nbytes_of(batch) == batch.nbytes == 2 * column_nbytes(batch.column(0))
    assert nbytes_of(batch.slice(1, 2)) == batch.slice(1, 2).nbytes
