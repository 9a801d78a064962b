"""Which batches are parts of one that lies in a region: slices, and what went through a table, of all types."""

from __future__ import annotations

import pyarrow as pa
import pytest

from flightserve.replica.origins import _row_within
from tests.columns import ROWS, columns


def is_seen(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return is_seen(kind.storage_type)
    if pa.types.is_map(kind) or pa.types.is_union(kind) or pa.types.is_run_end_encoded(kind):
        return False
    return all(is_seen(kind.field(place).type) for place in range(kind.num_fields))


@pytest.mark.parametrize("name", list(columns()))
def test_slices_are_parts_and_copies_are_not(name: str) -> None:
    whole = pa.record_batch({name: columns()[name], "n": pa.array(range(ROWS))})
    seen = is_seen(whole.schema.field(0).type)
    for start in range(ROWS):
        part = whole.slice(start, 2)
        assert _row_within(whole, part) == (start if seen else None)
        (through,) = pa.Table.from_batches([part]).to_batches()
        assert _row_within(whole, through) == (start if seen else None)
        assert _row_within(part, whole) is None or start == 0
    copy = pa.ipc.open_stream(stream(whole)).read_next_batch()
    assert _row_within(whole, copy) is None


def stream(batch: pa.RecordBatch) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


NUMBERS = pa.array(range(8))
OFFSETS = pa.array([0, 2, 4, 6], pa.int32())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.StructArray.from_arrays([NUMBERS.slice(0, 4)], ["a"]), pa.StructArray.from_arrays([NUMBERS[1:5]], ["a"])),
        (pa.ListArray.from_arrays(OFFSETS, NUMBERS), pa.ListArray.from_arrays(OFFSETS, NUMBERS.slice(1))),
        (pa.FixedSizeListArray.from_arrays(NUMBERS[:6], 2), pa.FixedSizeListArray.from_arrays(NUMBERS[1:7], 2)),
        (NUMBERS.slice(0, 4), NUMBERS.slice(2, 4).cast(pa.int64())),
        (
            pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array(["a", "b", "c"])),
            pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array(["a", "b", "c"]).slice(1)),
        ),
    ],
    ids=["struct", "list", "fixed_list", "offset", "dictionary"],
)
def test_other_values_over_the_same_memory_are_no_part(one: pa.Array, other: pa.Array) -> None:
    whole, part = pa.record_batch({"x": one}), pa.record_batch({"x": other})
    row = _row_within(whole, part)
    assert row is None or part.equals(whole.slice(row, part.num_rows))


def test_columns_that_begin_at_different_rows_are_no_part() -> None:
    whole = pa.record_batch({"a": NUMBERS, "b": NUMBERS})
    assert _row_within(whole, pa.record_batch({"a": NUMBERS.slice(1, 3), "b": NUMBERS.slice(2, 3)})) is None
    assert _row_within(whole.slice(2, 2), whole.slice(3, 3)) is None
