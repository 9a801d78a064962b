"""The forms a method may take its micro-batch in, made from the pieces with as few copies as each library allows.

| form | one piece | several pieces |
|---|---|---|
| `record_batch` | the piece itself | concatenated, one copy |
| `table` | no copy | no copy, a chunk each |
| `numpy` | read-only views where there are no nulls | concatenated first |
| `polars` | as `polars.from_arrow` does it | a chunk each |
| `pandas` | numbers without nulls: no copy | copied |
| `row` | Python values, a dict a row | |

The `numpy` form's views are of columns of numbers, dates, times and timestamps, and of fixed-size lists of numbers
(two-dimensional). Other columns, and those with nulls, are converted: booleans from bits to bytes; integers with
nulls become floats with NaN, nulls of other types become NaT or None; strings, binary, decimals, lists and structs
become arrays of Python objects; time zones are dropped (values are UTC).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import pyarrow as pa

from flightserve.errors import SchemaMismatch

Form = Callable[[Sequence[pa.RecordBatch], str], Any]


def contiguous(pieces: Sequence[pa.RecordBatch], where: str) -> pa.RecordBatch:
    """The rows as one batch; copies only when there is more than one piece."""
    if len(pieces) == 1:
        return pieces[0]
    try:
        return pa.concat_batches(pieces)
    except (pa.ArrowException, TypeError) as error:
        raise SchemaMismatch(f"{where}: rows of these columns cannot be put together: {error}") from error


def _table(pieces: Sequence[pa.RecordBatch], where: str) -> pa.Table:
    return pa.Table.from_batches(pieces)


def _numpy(pieces: Sequence[pa.RecordBatch], where: str) -> dict[str, Any]:
    batch = contiguous(pieces, where)
    names = _unique_names(batch.schema, where)
    return {name: _to_numpy(column) for name, column in zip(names, batch.columns, strict=True)}


def _to_numpy(column: pa.Array) -> Any:
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return _to_numpy(column.storage)
    if pa.types.is_fixed_size_list(kind) and kind.list_size > 0 and not column.null_count:
        values = column.flatten()
        if pa.types.is_primitive(values.type) and not values.null_count:
            return values.to_numpy(zero_copy_only=False).reshape(len(column), kind.list_size)
    try:
        return column.to_numpy(zero_copy_only=False)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return _objects(column.to_pylist())


def _objects(values: list[Any]) -> Any:
    import numpy as np

    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out


def _polars(pieces: Sequence[pa.RecordBatch], where: str) -> Any:
    import polars as pl

    names = _unique_names(pieces[0].schema, where)
    if not names:
        return pl.DataFrame(height=sum(piece.num_rows for piece in pieces))
    try:
        return pl.from_arrow(pa.Table.from_batches(pieces), rechunk=False)
    except BaseException as error:
        # polars' panics derive from BaseException
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        raise SchemaMismatch(f"{where} takes polars, which cannot hold these columns: {_first_line(error)}") from error


def _pandas(pieces: Sequence[pa.RecordBatch], where: str) -> Any:
    # The client's pandas metadata could turn a column into an index; columns stay columns here.
    try:
        return pa.Table.from_batches(pieces).to_pandas(split_blocks=True, ignore_metadata=True)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise SchemaMismatch(f"{where} takes pandas, which cannot hold these columns: {_first_line(error)}") from error


def rows_of(pieces: Sequence[pa.RecordBatch], where: str) -> Iterator[dict[str, Any]]:
    """The rows as dicts of Python values. Raises SchemaMismatch for columns that have no Python value."""
    _unique_names(pieces[0].schema, where)
    try:
        return itertools.chain.from_iterable([piece.to_pylist() for piece in pieces])
    except (pa.ArrowException, ValueError, ArithmeticError) as error:
        reason = _first_line(error)
        raise SchemaMismatch(
            f"{where} takes rows of Python values, which cannot hold these columns: {reason}"
        ) from error


def _unique_names(schema: pa.Schema, where: str) -> list[str]:
    names: list[str] = schema.names
    if len(set(names)) != len(names):
        raise SchemaMismatch(f"{where} takes columns by name; two of these have the same")
    return names


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:512]


FORMS: Final[dict[str, Form]] = {
    "record_batch": contiguous,
    "table": _table,
    "numpy": _numpy,
    "polars": _polars,
    "pandas": _pandas,
}
