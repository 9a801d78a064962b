"""Rows by their places, of columns of any type: Arrow's own kernel takes none of views and of runs."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pyarrow import types


def rows_at(rows: pa.RecordBatch, places: pa.Array) -> pa.RecordBatch:
    """The rows at these places, in their order."""
    try:
        return rows.take(places)
    except pa.ArrowNotImplementedError:
        columns = [values_at(column, places) for column in rows.columns]
        return pa.RecordBatch.from_arrays(columns, schema=rows.schema)


def values_at(column: pa.Array, places: pa.Array) -> pa.Array:
    """The same of one column."""
    try:
        return column.take(places)
    except pa.ArrowNotImplementedError:
        kind, plain = column.type, _without_views(column.type)
    if types.is_run_end_encoded(kind):
        # A run for each row: not all that runs may be of can be put together again.
        ends = pa.array(range(1, len(places) + 1), kind.run_end_type)
        return pa.RunEndEncodedArray.from_arrays(ends, values_at(column.values, _runs_at(column, places)))
    if not plain.equals(kind):
        return values_at(column.cast(plain), places).cast(kind)
    # Unions of views, runs in lists and their like: rare enough to be taken one by one.
    return pa.concat_arrays([column.slice(place, 1) for place in places.to_pylist()])


def _runs_at(column: pa.Array, places: pa.Array) -> pa.Array:
    ends = column.run_ends.to_numpy().astype(np.uint64)
    return pa.array(np.searchsorted(ends, places.to_numpy() + column.offset, side="right"), pa.uint64())


def _without_views(kind: pa.DataType) -> pa.DataType:
    """The type with texts and bytes in one piece instead of views."""
    if types.is_string_view(kind):
        return pa.large_string()
    if types.is_binary_view(kind):
        return pa.large_binary()
    if types.is_struct(kind):
        return pa.struct([_field(kind.field(place)) for place in range(kind.num_fields)])
    if types.is_list(kind):
        return pa.list_(_field(kind.value_field))
    if types.is_large_list(kind):
        return pa.large_list(_field(kind.value_field))
    if types.is_fixed_size_list(kind):
        return pa.list_(_field(kind.value_field), kind.list_size)
    return kind


def _field(field: pa.Field) -> pa.Field:
    return field.with_type(_without_views(field.type))
