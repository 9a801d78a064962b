"""Rows by their places: of every type the same values in the same type."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from flightserve.fabric.conversion.taking import rows_at
from tests.columns import columns

VIEWS = pa.array(["a", None, "a text of more than twelve bytes", ""], pa.string_view())
LISTS = pa.array([["a"], [], None, ["b", "c"]], pa.list_(pa.string_view()))
HARD = {
    "struct of views": pa.StructArray.from_arrays([VIEWS, LISTS], names=["v", "l"]),
    "lists of views": LISTS,
    "fixed lists of views": pa.FixedSizeListArray.from_arrays(pa.concat_arrays([VIEWS, VIEWS]), 2),
    "runs of views": pa.RunEndEncodedArray.from_arrays(pa.array([1, 4], pa.int16()), VIEWS[2:]),
    "a union of views": pa.UnionArray.from_sparse(pa.array([0, 1, 0, 1], pa.int8()), [VIEWS, VIEWS]),
    "runs in a struct": pa.StructArray.from_arrays([pc.run_end_encode(pa.array([1, 1, None, 2]))], names=["r"]),
}
ALL = columns() | HARD


@pytest.mark.parametrize("name", ALL)
def test_columns_of_every_type(name: str) -> None:
    column = ALL[name]
    places = [*range(len(column))][::-2]
    rows = pa.record_batch({"x": column})
    taken = rows_at(rows, pa.array(places, pa.uint64()))
    taken.validate(full=True)
    tail = rows_at(rows.slice(1), pa.array([1, 0], pa.uint64()))
    assert tail["x"].to_pylist() == [column[2].as_py(), column[1].as_py()]
    assert taken.schema == rows.schema
    assert taken["x"].to_pylist() == [column[place].as_py() for place in places]
