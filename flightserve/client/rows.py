"""What users have, as record batches, and answers in the kind that was given.

| given | kind | answered as |
|---|---|---|
| `pa.RecordBatch` | `record_batch` | `pa.RecordBatch` |
| `pa.Table`, a reader, anything with Arrow's own stream protocol | `table` | `pa.Table` |
| `pandas.DataFrame` | `pandas` | the same; with its index where there is a row for each row |
| `polars.DataFrame` | `polars` | the same |
| a dict of NumPy arrays, or an array with named fields | `numpy` | a dict of NumPy arrays |
| a NumPy array of two dimensions | `matrix` | the same, of one column its array (`client.matrices`) |
| a dict of lists | `columns` | a dict of lists |
| a list of dicts | `rows` | a list of dicts |
| a dict of single values | `row` | a dict of single values; of several rows, a list |

Values become columns as those that a method returns do (`replica.columns`): of the method's declared types where they
hold them, else of the least types that do. What is Arrow's already is sent as it is, and cast by the app.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import pyarrow as pa

from flightserve.client.matrices import columns_of, is_matrix, matrix_of
from flightserve.errors import FlightserveError, InvalidArgument, SchemaMismatch
from flightserve.fabric.conversion.exact import Misfit
from flightserve.fabric.memory.batches import alike
from flightserve.fabric.memory.schemas import decode_schema, empty_batch
from flightserve.fabric.memory.sizes import nbytes_of
from flightserve.types import MethodSpec

KINDS: Final = ("record_batch", "table", "pandas", "polars", "numpy", "matrix", "columns", "rows", "row")
_TAKEN: Final = (
    "a record batch, a table, a pandas or polars DataFrame, a dict of columns, a dict of one row's values, a list of "
    "rows as dicts, or a NumPy array of two dimensions"
)
_ERRORS: Final = (pa.ArrowException, TypeError, ValueError, OverflowError)


class Given(NamedTuple):
    """Rows as they are sent, and what they were: `index` is a pandas frame's."""

    rows: pa.RecordBatch | pa.Table
    kind: str
    index: Any = None


def take(rows: Any, method: MethodSpec, where: str) -> Given:
    """Rows of any kind. Raises TypeError for what are no rows, and InvalidArgument for values that make no column."""
    if type(rows) is pa.RecordBatch:
        return Given(rows, "record_batch")
    if isinstance(rows, pa.Table):
        return Given(rows, "table")
    origin = _origin(rows)
    if origin == ("pandas", "DataFrame"):
        return Given(_columns(_frame(rows), method, where), "pandas", rows.index)
    if origin == ("polars", "DataFrame"):
        return Given(rows.to_arrow(), "polars")
    if isinstance(rows, Mapping):
        return _of_mapping(rows, method, where)
    if origin[0] == "numpy" and rows.ndim == 1 and rows.dtype.names:
        return Given(_columns([(name, rows[name]) for name in rows.dtype.names], method, where), "numpy")
    if origin[0] == "numpy" and is_matrix(rows):
        return Given(_columns(columns_of(rows, method, where), method, where), "matrix")
    if isinstance(rows, Sequence) and not isinstance(rows, str | bytes):
        return _of_rows(rows, method, where)
    if hasattr(rows, "__arrow_c_stream__"):
        try:
            return Given(pa.table(rows), "table")
        except pa.ArrowInvalid as error:
            raise TypeError(f"{where} takes {_TAKEN}; {_named(rows)} is one column: give it a name") from error
    raise TypeError(f"{where} takes {_TAKEN}; not {_named(rows)}")


def _of_mapping(rows: Mapping[Any, Any], method: MethodSpec, where: str) -> Given:
    columns = [name for name, values in rows.items() if _is_column(values)]
    if rows and not columns:
        return Given(_columns([(name, [value]) for name, value in rows.items()], method, where), "row")
    if len(columns) < len(rows):
        odd = next(name for name in rows if name not in columns)
        raise InvalidArgument(
            f"{where}: {columns[0]!r} is a column, {odd!r} is {_named(rows[odd])}; a dict has columns alone, or one "
            "value for each name"
        )
    kind = "numpy" if any(_origin(values) == ("numpy", "ndarray") for values in rows.values()) else "columns"
    return Given(_columns(list(rows.items()), method, where), kind)


def _of_rows(rows: Sequence[Any], method: MethodSpec, where: str) -> Given:
    odd = next((place for place, row in enumerate(rows) if not isinstance(row, Mapping)), None)
    if odd is not None:
        raise TypeError(
            f"{where} takes {_TAKEN}; item {odd} of the list is {_named(rows[odd])}. For many batches: "
            f"{where.rpartition('.')[2]}.map(batches)"
        )
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not rows and method.input_schema is not None:
        return Given(empty_batch(decode_schema(method.input_schema)), "rows")
    if rows and not names:
        raise InvalidArgument(f"{where}: the rows are empty dicts; a row has a value for each column")
    return Given(_columns([(name, [row.get(name) for row in rows]) for name in names], method, where), "rows")


def _is_column(values: Any) -> bool:
    """Whether it has values, instead of being one."""
    return hasattr(values, "__len__") and not isinstance(values, str | bytes | bytearray | Mapping)


def _frame(frame: Any) -> list[tuple[str, Any]]:
    return [(name, frame.iloc[:, place]) for place, name in enumerate(map(str, frame.columns))]


def _columns(named: Sequence[tuple[Any, Any]], method: MethodSpec, where: str) -> pa.RecordBatch:
    arrays, names = [], []
    for name, values in named:
        if not isinstance(name, str):
            raise InvalidArgument(f"{where}: {name!r} is no column's name; those are strings")
        try:
            arrays.append(_column(name, values, method))
        except (Misfit, FlightserveError, *_ERRORS) as error:
            message = error.message if isinstance(error, FlightserveError) else str(error)
            raise InvalidArgument(
                f"{where}: column {name!r} cannot be sent: {message.partition(chr(10))[0]}"
            ) from error
        names.append(name)
    if len({len(array) for array in arrays}) > 1:
        told = ", ".join(f"{name!r}: {len(array)}" for name, array in zip(names, arrays, strict=True))
        raise InvalidArgument(f"{where}: columns of different lengths ({told[:512]})")
    return pa.RecordBatch.from_arrays(arrays, names=names)


def _column(name: str, values: Any, method: MethodSpec) -> pa.Array:
    if isinstance(values, pa.Array):
        return values
    if isinstance(values, pa.ChunkedArray):
        return _whole(values)
    # The rules of values that methods return; loaded when it is needed, with NumPy.
    from flightserve.replica.libraries import column

    made = column(name, values, None, _declared(name, method))
    if made.typed:
        # What has a type of its own is cast by the app, by the app's rules.
        made.declared = None
    return made.make(made.values, made.kind(made.values))


def _declared(name: str, method: MethodSpec) -> pa.DataType | None:
    if method.input_schema is None:
        return None
    schema = decode_schema(method.input_schema)
    place = schema.get_field_index(name)
    return schema.field(place).type if place >= 0 else None


def _whole(column: pa.ChunkedArray) -> pa.Array:
    made = column.combine_chunks()
    if isinstance(made, pa.ChunkedArray):
        if made.num_chunks != 1:
            raise Misfit("a column over 2 GiB; use a large type")
        made = made.chunk(0)
    return made


# ---- as requests


def one_batch(rows: pa.RecordBatch | pa.Table, where: str) -> pa.RecordBatch:
    """The rows as one batch: one request. Raises InvalidArgument where they do not make one."""
    if isinstance(rows, pa.RecordBatch):
        return rows
    batches = rows.to_batches()
    if len(batches) == 1:
        return batches[0]
    if not batches:
        return empty_batch(rows.schema)
    try:
        return pa.RecordBatch.from_arrays([_whole(column) for column in rows.columns], schema=rows.schema)
    except Misfit as error:
        raise InvalidArgument(f"{where}: the table does not make one request: {error}") from error


def pieces(rows: pa.RecordBatch | pa.Table, bytes_max: int) -> list[pa.RecordBatch | pa.Table]:
    """The rows in pieces of about that many bytes at most, in order; one where they are less."""
    nbytes = nbytes_of(rows)
    if nbytes <= bytes_max or rows.num_rows <= 1:
        return [rows]
    count = min(-(-nbytes // bytes_max), rows.num_rows)
    step = -(-rows.num_rows // count)
    return [rows.slice(start, step) for start in range(0, rows.num_rows, step)]


# ---- answers


def joined(parts: Sequence[pa.RecordBatch], method: MethodSpec) -> pa.Table:
    """Replies as one table, a chunk each. Raises MethodFailed where they have other columns than each other."""
    if not parts:
        schema = pa.schema([]) if method.output_schema is None else decode_schema(method.output_schema)
        return schema.empty_table()
    return pa.Table.from_batches(alike(list(parts), method))


def give(answer: pa.RecordBatch | pa.Table, kind: str, where: str, index: Any = None) -> Any:
    """The answer in that kind. Raises SchemaMismatch where the kind cannot hold it."""
    if kind == "record_batch":
        return one_batch(answer, where)
    if kind == "table":
        return answer if isinstance(answer, pa.Table) else pa.Table.from_batches([answer])
    batches = [answer] if isinstance(answer, pa.RecordBatch) else answer.to_batches() or [empty_batch(answer.schema)]
    from flightserve.replica.forms import FORMS, lists_of, rows_of

    try:
        if kind in ("rows", "row"):
            rows = rows_of(batches, where)
            return rows[0] if kind == "row" and len(rows) == 1 else rows
        if kind == "columns":
            return lists_of(batches, where)
        made = FORMS["numpy" if kind == "matrix" else kind](batches, where)
        if kind == "matrix":
            made = matrix_of(made, where)
    except SchemaMismatch as error:
        raise SchemaMismatch(
            f"the answer of {where} does not fit as_={kind!r} ({error.message}); as_='table' takes all"
        ) from error
    except ImportError as error:
        raise InvalidArgument(f"as_={kind!r} takes the package {kind}, which is not installed here") from error
    if index is not None and len(index) == len(made):
        made.index = index
    return made


def check_kind(kind: str | None) -> str | None:
    """Raises InvalidArgument for a kind that there is not."""
    if kind is not None and kind not in KINDS:
        raise InvalidArgument(f"as_ is {kind!r}; there are: {', '.join(KINDS)}")
    return kind


def _origin(value: Any) -> tuple[str, str]:
    kind = type(value)
    return kind.__module__.partition(".")[0], kind.__name__


def _named(value: Any) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"
