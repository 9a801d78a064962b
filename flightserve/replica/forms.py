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
(two-dimensional). Numbers and booleans with nulls are masked arrays of their own type, with 0, False or NaN under the
mask; nulls of dates, timestamps and durations are NaT, all others None. Booleans are converted from bits to bytes;
strings, binary, decimals, times, structs and maps become arrays of Python objects, lists of numbers arrays of arrays;
time zones are dropped (values are UTC).

In the `pandas` form numbers and booleans with nulls have pandas' nullable types (`Int64`, `boolean`; floats
`double[pyarrow]`, which tells a null from NaN); without nulls they are NumPy's. Structs, maps, lists of anything but
numbers, and lists with nulls in them, are Python objects.

What a method sees of one request's rows is what it would see of them alone. So requests run apart, each kind of them
in a call of its own, where a form has one type for what has nulls and another for what has none, and where dictionaries
that mean something by their order, or are a pandas type, differ (`groups`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final

import pyarrow as pa

from flightserve.errors import SchemaMismatch
from flightserve.fabric.conversion.castable import is_list
from flightserve.fabric.conversion.exact import elements, taken_apart
from flightserve.fabric.conversion.python_values import check_values, is_watched

Form = Callable[[Sequence[pa.RecordBatch], str], Any]

types = pa.types

# Digits of a decimal that polars holds; zero rows of more are taken, and make it panic on the way back.
_POLARS_DIGITS_MAX: Final = 38
# A request whose dictionary has more values runs alone, not beside those that may have the same.
_CATEGORIES_COMPARED_MAX: Final = 64
_ARROW_ERRORS: Final = (pa.ArrowException, ValueError, TypeError, ArithmeticError)


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


# ---- NumPy


def _numpy(pieces: Sequence[pa.RecordBatch], where: str) -> dict[str, Any]:
    batch = contiguous(pieces, where)
    names = _unique_names(batch.schema, where)
    try:
        return {name: _to_numpy(column) for name, column in zip(names, batch.columns, strict=True)}
    except _ARROW_ERRORS as error:
        raise SchemaMismatch(f"{where} takes numpy, which cannot hold these columns: {_first_line(error)}") from error


def _to_numpy(column: pa.Array) -> Any:
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return _to_numpy(column.storage)
    if _is_number(kind):
        return column.to_numpy(zero_copy_only=False) if not column.null_count else _mask(column)
    if types.is_fixed_size_list(kind) and kind.list_size > 0 and not column.null_count:
        values = elements(column)
        if types.is_primitive(values.type) and not values.null_count:
            return values.to_numpy(zero_copy_only=False).reshape(len(column), kind.list_size)
    if types.is_date(kind) or types.is_timestamp(kind) or types.is_duration(kind):
        return column.to_numpy(zero_copy_only=False)
    return _objects(_python_values(column))


def _mask(column: pa.Array) -> Any:
    import numpy as np

    kind = column.type
    filler = float("nan") if types.is_floating(kind) else False if types.is_boolean(kind) else 0
    values = column.fill_null(pa.scalar(filler, kind)).to_numpy(zero_copy_only=False)
    return np.ma.MaskedArray(values, mask=column.is_null().to_numpy(zero_copy_only=False))


def _objects(values: list[Any]) -> Any:
    import numpy as np

    out = np.empty(len(values), dtype=object)
    # One by one: NumPy would make two dimensions of lists of one length.
    for place, value in enumerate(values):
        out[place] = value
    return out


def _is_number(kind: pa.DataType) -> bool:
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _python_values(column: pa.Array) -> list[Any]:
    """Python values; of lists of numbers with no null among them arrays of their own type, one for each row. Arrow's
    own conversion makes floats of whole numbers where any row has a null, or one beside those that were asked for."""
    check_values(column)
    kind = column.type
    if not is_list(kind) or not _is_number(kind.value_type) or elements(column).null_count:
        return list(column.to_pylist())
    values, lengths = taken_apart(column)
    numbers = values.to_numpy(zero_copy_only=False)
    ends = itertools.accumulate(lengths.tolist(), initial=0)
    pairs = zip(column.is_valid().to_pylist(), itertools.pairwise(ends), strict=True)
    return [numbers[start:stop] if valid else None for valid, (start, stop) in pairs]


# ---- polars


def _polars(pieces: Sequence[pa.RecordBatch], where: str) -> Any:
    import polars as pl

    names = _unique_names(pieces[0].schema, where)
    if not names:
        return pl.DataFrame(height=sum(piece.num_rows for piece in pieces))
    if any(map(_is_too_wide, pieces[0].schema.types)):
        raise SchemaMismatch(f"{where} takes polars, whose decimals have {_POLARS_DIGITS_MAX} digits at most")
    try:
        return pl.from_arrow(pa.Table.from_batches(pieces), rechunk=False)
    except BaseException as error:
        # polars' panics derive from BaseException
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        raise SchemaMismatch(f"{where} takes polars, which cannot hold these columns: {_first_line(error)}") from error


def _is_too_wide(kind: pa.DataType) -> bool:
    if types.is_decimal(kind):
        return bool(kind.precision > _POLARS_DIGITS_MAX)
    return any(_is_too_wide(kind.field(place).type) for place in range(kind.num_fields))


# ---- pandas


def _pandas(pieces: Sequence[pa.RecordBatch], where: str) -> Any:
    # The client's pandas metadata could turn a column into an index, or be none at all; columns stay columns here.
    table = pa.Table.from_batches(pieces).replace_schema_metadata(None)
    # By their places: what pandas' conversion knows of a column goes by its name, which others may have, too.
    places = list(map(str, range(table.num_columns)))
    try:
        columns = dict(zip(places, table.columns, strict=True))
        plain = pa.table({place: column for place, column in columns.items() if not _is_odd(column)})
        frame = plain.to_pandas(split_blocks=True)
        for place, column in columns.items():
            if place not in plain.column_names:
                frame.insert(int(place), place, _series(column))
        frame.columns = table.column_names
        return frame
    except _ARROW_ERRORS as error:
        raise SchemaMismatch(f"{where} takes pandas, which cannot hold these columns: {_first_line(error)}") from error


def _is_odd(column: pa.ChunkedArray) -> bool:
    """Whether pandas' own conversion would change what is in the column, or its type with its nulls, or not do it."""
    kind = column.type
    if _is_number(kind):
        return bool(column.null_count)
    return bool(types.is_struct(kind) or types.is_map(kind) or is_list(kind) or _is_bare(kind))


def _is_bare(kind: pa.DataType) -> bool:
    """An extension type without a type of pandas'. Arrow's own conversion of it raises a KeyError."""
    if not isinstance(kind, pa.BaseExtensionType):
        return False
    try:
        return not hasattr(kind.to_pandas_dtype(), "__from_arrow__")
    except NotImplementedError:
        return True


def _series(column: pa.ChunkedArray) -> Any:
    import pandas as pd

    kind = column.type
    if isinstance(kind, pa.BaseExtensionType) and not isinstance(kind, pa.UuidType):
        storage = pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type)
        return _series(storage) if _is_odd(storage) else storage.to_pandas()
    if types.is_floating(kind):
        return pd.Series(pd.arrays.ArrowExtensionArray(column))
    if types.is_boolean(kind):
        return pd.Series(pd.BooleanDtype().__from_arrow__(column))
    if types.is_integer(kind):
        name = f"{'UI' if types.is_unsigned_integer(kind) else 'I'}nt{kind.bit_width}Dtype"
        return pd.Series(getattr(pd, name)().__from_arrow__(column))
    values = itertools.chain.from_iterable(map(_python_values, column.chunks))
    return pd.Series(_objects(list(values)), dtype=object)


# ---- rows


def rows_of(pieces: Sequence[pa.RecordBatch], where: str) -> list[dict[str, Any]]:
    """The rows as dicts of Python values. Raises SchemaMismatch for columns that have no Python value."""
    return list(itertools.chain.from_iterable(_python(pieces, where, lambda piece: piece.to_pylist())))


def lists_of(pieces: Sequence[pa.RecordBatch], where: str) -> dict[str, list[Any]]:
    """The columns as lists of Python values, by name. Raises SchemaMismatch as `rows_of` does."""
    made = _python(pieces, where, lambda piece: piece.to_pydict())
    return {name: list(itertools.chain.from_iterable(each[name] for each in made)) for name in pieces[0].schema.names}


def _python(pieces: Sequence[pa.RecordBatch], where: str, values: Callable[[pa.RecordBatch], Any]) -> list[Any]:
    schema = pieces[0].schema
    _unique_names(schema, where)
    try:
        if any(map(is_watched, schema.types)):
            for piece in pieces:
                for column in piece.columns:
                    check_values(column)
        return [values(piece) for piece in pieces]
    except _ARROW_ERRORS as error:
        reason = _first_line(error)
        raise SchemaMismatch(
            f"{where} takes rows of Python values, which cannot hold these columns: {reason}"
        ) from error


# ---- who may share a call


def cut(pieces: Sequence[pa.RecordBatch], counts: Sequence[int]) -> list[pa.RecordBatch]:
    """Each request's rows: requests lie one after another, none across two pieces."""
    own = []
    place, offset = 0, 0
    for count in counts:
        while offset + count > pieces[place].num_rows:
            place, offset = place + 1, 0
        own.append(pieces[place].slice(offset, count))
        offset += count
    return own


def groups(form: str, pieces: Sequence[pa.RecordBatch], counts: Sequence[int]) -> list[list[int]] | None:
    """Requests that may share a call, by their places; None where all may."""
    looks = _LOOKS.get(form, _look_of_order)
    kinds = pieces[0].schema.types
    watched = [
        place for place, kind in enumerate(kinds) if _differs([looks(each.column(place), kind) for each in pieces])
    ]
    if not watched and 0 not in counts:
        return None
    found: dict[Hashable, list[int]] = {}
    for place, rows in enumerate(cut(pieces, counts)):
        look = (rows.num_rows > 0, *[looks(rows.column(column), kinds[column]) for column in watched])
        found.setdefault(place if _ALONE in look else look, []).append(place)
    return list(found.values()) if len(found) > 1 else None


def _differs(looks: list[Hashable]) -> bool:
    """Whether requests within these pieces may look unlike each other: with nulls in one, some of it may have none."""
    return len(set(looks)) > 1 or looks[0] in (_NULLS, _ALONE)


def _look_of_order(column: pa.Array, kind: pa.DataType) -> Hashable:
    """Of a column whose dictionary says in which order its values are: that."""
    return _categories(column) if types.is_dictionary(kind) and kind.ordered else None


def _categories(column: pa.Array) -> Hashable:
    values = column.dictionary
    return tuple(map(repr, values.to_pylist())) if len(values) <= _CATEGORIES_COMPARED_MAX else _ALONE


def _look_of_nulls(column: pa.Array, kind: pa.DataType) -> Hashable:
    """Whether a column has nulls where a form has another type for them."""
    if isinstance(kind, pa.BaseExtensionType):
        return _look_of_nulls(column.storage, kind.storage_type)
    if _is_number(kind):
        return _NULLS if column.null_count else None
    if types.is_fixed_size_list(kind) and types.is_primitive(kind.value_type):
        return _NULLS if column.null_count or elements(column).null_count else None
    if is_list(kind) and _is_number(kind.value_type):
        return _NULLS if elements(column).null_count else None
    return _look_of_order(column, kind)


def _look_of_pandas(column: pa.Array, kind: pa.DataType) -> Hashable:
    return _categories(column) if types.is_dictionary(kind) else _look_of_nulls(column, kind)


# How a column looks with nulls, and one that is like no other. What needs no look has none.
_NULLS: Final = "nulls"
_ALONE: Final = "alone"
_LOOKS: Final[dict[str, Callable[[pa.Array, pa.DataType], Hashable]]] = {
    "numpy": _look_of_nulls,
    "pandas": _look_of_pandas,
}


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
