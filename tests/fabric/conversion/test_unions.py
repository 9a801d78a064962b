"""Columns of unions, as strangers send them."""

from __future__ import annotations

import pyarrow as pa
import pytest

from flightserve.errors import InvalidArgument
from flightserve.fabric.conversion.unions import untagged

CODES = pa.array([0, 0, 1], pa.int8())
UNIONS = {
    "sparse": pa.UnionArray.from_sparse(CODES, [pa.array([1, 2, 3]), pa.array(["a", "b", "c"])]),
    "dense": pa.UnionArray.from_dense(CODES, pa.array([0, 1, 0], pa.int32()), [pa.array([1, 2]), pa.array(["c"])]),
}


def brought(column: pa.Array) -> pa.RecordBatch:
    """The column as a stream brings it."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([("0", column.type)])) as writer:
        writer.write_batch(pa.record_batch([column], names=["0"]))
    return pa.ipc.open_stream(sink.getvalue()).read_next_batch()


@pytest.mark.parametrize("mode", UNIONS)
def test_a_union_of_no_rows_has_no_type(mode: str) -> None:
    """pyarrow ends the process where it is asked for the codes of one that a stream brought."""
    for rows in (UNIONS[mode].slice(0, 0), UNIONS[mode].slice(1, 0), UNIONS[mode].slice(3)):
        assert untagged(brought(rows)).column(0).equals(pa.nulls(0))


@pytest.mark.parametrize("mode", UNIONS)
def test_a_union_of_one_type_is_that(mode: str) -> None:
    assert untagged(brought(UNIONS[mode].slice(0, 2))).column(0).equals(pa.array([1, 2]))
    assert untagged(brought(UNIONS[mode].slice(2))).column(0).equals(pa.array(["c"]))
    with pytest.raises(InvalidArgument, match="parameter '0' has values of several types"):
        untagged(brought(UNIONS[mode]))
