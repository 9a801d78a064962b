"""What user methods return, made into record batches and checked.

Accepted of batch methods: RecordBatch, Table, RecordBatchReader, a dict of arrays or lists, a polars or pandas
DataFrame, and a single Arrow, NumPy, polars or pandas column, which is called `result`. Arrow results are taken
as they are and must have the declared output's names and types; what other libraries return has no Arrow types of
its own and is converted to the declared ones.

`@single_input` results are collected into columns. Where no output is declared Arrow infers the types, and what was
inferred before steadies it: a column of nulls, or of whole numbers where there were floats, takes the type the
column had, so that equal requests get equal schemas whatever rows they share a micro-batch with. Which columns a
request gets, and in which order, is up to its own rows: where requests of a micro-batch differ in that, or where
their values do not make one column, each group of alike neighbours gets a batch of its own (`Apart`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import pyarrow as pa

from flightserve.errors import MethodFailed
from flightserve.fabric.schemas import differences, empty_batch
from flightserve.fabric.stored import Fresh, Stored

ROW_RESULT: Final = "result"
# Methods that make up names from their data must not make this process grow.
REMEMBERED_COLUMNS_MAX: Final = 1024

_ARROW_ERRORS: Final = (pa.ArrowException, TypeError, ValueError, OverflowError)

# One result of a method, checked.
Part: TypeAlias = pa.RecordBatch | Stored | Fresh


class Apart(NamedTuple):
    """The rows of some requests of a micro-batch: those that have other columns than the others' do, or whose number
    is not the requests' own. `parts` are the requests' places in the micro-batch, `counts` the rows of each, where
    they are not as many as the request brought."""

    parts: Sequence[int]
    batch: Part
    counts: Sequence[int] = ()


class ResultReader:
    """Turns one method's results into record batches of its output schema, if it declares one."""

    __slots__ = ("_remembered", "_row_schema", "output", "where")

    def __init__(self, where: str, output: pa.Schema | None) -> None:
        self.where = where
        self.output = output
        self._remembered: dict[str, pa.DataType] = {}
        self._row_schema: pa.Schema | None = output

    def placed(self, value: Any) -> Part:
        """As `read`; what says itself where it lies, or shall be told, stays as it is."""
        if isinstance(value, Stored):
            return value
        if isinstance(value, Fresh):
            return Fresh(self.read(value.batch), value.written)
        return self.read(value)

    def read(self, value: Any) -> pa.RecordBatch:
        """The value as one record batch. Raises MethodFailed."""
        if type(value) is pa.RecordBatch:
            return value if self.output is None else self._conform(value, self.output)
        try:
            return self._convert(value)
        except _ARROW_ERRORS as error:
            raise MethodFailed(f"{self.where} returned {_kind(value)} that does not make columns: {error}") from error

    def stream(self) -> StreamReader:
        """For one run of a generator."""
        return StreamReader(self)

    # ---- batch results

    def _convert(self, value: Any) -> pa.RecordBatch:
        if isinstance(value, pa.RecordBatch):
            return self._conformed(value)
        if isinstance(value, pa.RecordBatchReader):
            value = value.read_all()
        if isinstance(value, pa.Table):
            return self._conformed(self._one_batch(value))
        if isinstance(value, (pa.Array, pa.ChunkedArray)):
            return self._conformed(self._one_batch(pa.table({ROW_RESULT: value})))
        if isinstance(value, dict):
            return self._from_columns(value)
        return self._foreign(value)

    def _foreign(self, value: Any) -> pa.RecordBatch:
        """Values of libraries that are imported only where users do."""
        package, name = type(value).__module__.partition(".")[0], type(value).__name__
        if package == "numpy" and name in ("ndarray", "memmap", "MaskedArray"):
            return self._from_columns({ROW_RESULT: value})
        if package in ("polars", "pandas") and name == "Series":
            return self._from_columns({ROW_RESULT: value})
        if package == "polars" and name == "DataFrame":
            return self._cast(self._one_batch(value.to_arrow()))
        if package == "pandas" and name == "DataFrame":
            # The index is not a column, and pandas' note about it in the metadata would change with the rows.
            table = pa.Table.from_pandas(value, schema=None, preserve_index=False).replace_schema_metadata(None)
            return self._cast(self._one_batch(table))
        raise MethodFailed(
            f"{self.where} returned {_kind(value)}; a method returns a RecordBatch, a Table, a dict of columns, a "
            "polars or pandas DataFrame, or one array"
        )

    def _from_columns(self, columns: dict[str, Any]) -> pa.RecordBatch:
        if not all(isinstance(name, str) for name in columns):
            raise MethodFailed(f"{self.where} returned a dict with keys that are not strings; they are column names")
        arrays = [self._column(name, values) for name, values in columns.items()]
        lengths = {len(array) for array in arrays}
        if len(lengths) > 1:
            counts = ", ".join(f"{name!r}: {len(array)}" for name, array in zip(columns, arrays, strict=True))
            raise MethodFailed(f"{self.where} returned columns of different lengths ({counts[:512]})")
        return self._conformed(pa.RecordBatch.from_arrays(arrays, names=list(columns)))

    def _column(self, name: str, values: Any) -> pa.Array:
        if isinstance(values, pa.ChunkedArray):
            return self._one_chunk(values)
        if isinstance(values, pa.Array):
            return values
        if isinstance(values, (str, bytes, dict)) or not hasattr(values, "__len__"):
            got = _kind(values)
            raise MethodFailed(f"{self.where} returned {got} as column {name!r}; a column is an array or a list")
        kind = None
        if self.output is not None and (index := self.output.get_field_index(name)) >= 0:
            kind = self.output.field(index).type
        if getattr(values, "ndim", 1) == 2:
            return _fixed_size_lists(values, kind)
        if type(values).__module__.partition(".")[0] == "polars":
            array = self._one_chunk(pa.chunked_array([values.to_arrow()]))
            return array if kind is None or array.type == kind else array.cast(kind)
        array = pa.array(values, type=kind)
        return self._one_chunk(array) if isinstance(array, pa.ChunkedArray) else array

    def _one_chunk(self, column: pa.ChunkedArray) -> pa.Array:
        if column.num_chunks == 1:
            return column.chunk(0)
        array = column.combine_chunks()
        if isinstance(array, pa.ChunkedArray):
            if array.num_chunks != 1:
                raise MethodFailed(f"{self.where} returned a column over 2 GiB; use a large type or a generator")
            array = array.chunk(0)
        return array

    def _one_batch(self, table: pa.Table) -> pa.RecordBatch:
        batches = table.to_batches()
        if len(batches) == 1 and batches[0].num_rows == table.num_rows:
            return batches[0]
        if not batches:
            return empty_batch(table.schema)
        return pa.RecordBatch.from_arrays([self._one_chunk(column) for column in table.columns], schema=table.schema)

    def _conformed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch if self.output is None else self._conform(batch, self.output)

    def _conform(self, batch: pa.RecordBatch, output: pa.Schema) -> pa.RecordBatch:
        """The batch with its columns in the declared order. Nothing is cast."""
        if not batch.schema.equals(output):
            found = differences(output, batch.schema)
            if found:
                raise MethodFailed(f"{self.where} returned other columns than it declares: {'; '.join(found)}")
            if batch.schema.names != output.names:
                batch = batch.select(output.names)
        return batch

    def _cast(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """A data frame's batch in the declared types; raises MethodFailed where a value would change."""
        output = self.output
        if output is None or batch.schema.equals(output):
            return batch
        if sorted(batch.schema.names) != sorted(output.names):
            return self._conform(batch, output)
        arrays = []
        for field in output:
            column = batch.column(field.name)
            try:
                arrays.append(column if column.type.equals(field.type) else column.cast(field.type))
            except _ARROW_ERRORS as error:
                raise MethodFailed(
                    f"{self.where} returned column {field.name!r} as {column.type}, declared {field.type}: {error}"
                ) from error
        return pa.RecordBatch.from_arrays(arrays, schema=output)

    # ---- rows

    def from_rows(self, rows: list[dict[str, Any]], counts: Sequence[int] = ()) -> pa.RecordBatch | list[Apart]:
        """One column for each key. `counts` says how many rows each request has, where there are several: they are
        answered by one batch where their columns are alike, else apart. Raises MethodFailed."""
        if self.output is not None:
            return self._declared_rows(rows, self.output)
        several = len(counts) > 1 and sum(counts) == len(rows)
        names = tuple(rows[0]) if rows else ()
        if not rows or all(tuple(row) == names for row in rows):
            try:
                return self._columns(names, rows)
            except MethodFailed:
                if not several:
                    raise
        elif not several:
            return self._columns(_names_of(rows), rows)
        return list(self._apart(rows, counts))

    def _apart(self, rows: list[dict[str, Any]], counts: Sequence[int]) -> Iterator[Apart]:
        """Neighbours with the same columns together, or each request by itself where their values do not go
        together."""
        offsets = list(itertools.accumulate(counts, initial=0))
        own = [rows[start:stop] for start, stop in itertools.pairwise(offsets)]
        for names, group in itertools.groupby(range(len(own)), lambda index: _names_of(own[index])):
            parts = list(group)
            try:
                yield Apart(parts, self._columns(names, [row for index in parts for row in own[index]]))
            except MethodFailed:
                if len(parts) == 1:
                    raise
                yield from (Apart([index], self._columns(names, own[index])) for index in parts)

    def _columns(self, names: tuple[str, ...], rows: list[dict[str, Any]]) -> pa.RecordBatch:
        if not rows:
            return empty_batch(self._row_schema or pa.schema([]))
        arrays = [self._inferred(name, [row.get(name) for row in rows]) for name in names]
        if not arrays:
            raise MethodFailed(f"{self.where} returned an empty dict for every row; a column is needed")
        batch = pa.RecordBatch.from_arrays(arrays, names=list(names))
        if len(names) <= REMEMBERED_COLUMNS_MAX:
            self._row_schema = batch.schema
        return batch

    def _declared_rows(self, rows: list[dict[str, Any]], output: pa.Schema) -> pa.RecordBatch:
        names = set(output.names)
        for row in rows:
            if not row.keys() <= names:
                extra = ", ".join(sorted(repr(name) for name in row.keys() - names)[:8])
                raise MethodFailed(f"{self.where} returned a row with {extra[:512]}, which it does not declare")
        arrays = []
        for field in output:
            values = [row.get(field.name) for row in rows]
            if not field.nullable and None in values:
                raise MethodFailed(f"{self.where} returned a row without {field.name!r}, declared as never null")
            try:
                arrays.append(pa.array(values, type=field.type))
            except _ARROW_ERRORS as error:
                raise MethodFailed(f"{self.where} returned {field.name!r} that is not {field.type}: {error}") from error
        return pa.RecordBatch.from_arrays(arrays, schema=output)

    def _inferred(self, name: Any, values: list[Any]) -> pa.Array:
        if not isinstance(name, str):
            raise MethodFailed(f"{self.where} returned a dict with the key {name!r}; keys are column names, strings")
        before = self._remembered.get(name)
        try:
            array = pa.array(values)
            if before is not None and array.type != before and fits(array.type, before):
                array = _as_before(array, values, before)
        except _ARROW_ERRORS as error:
            raise MethodFailed(f"{self.where} returned {name!r} that does not make a column: {error}") from error
        if isinstance(array, pa.ChunkedArray):
            array = self._one_chunk(array)
        if array.type != before and (before is not None or len(self._remembered) < REMEMBERED_COLUMNS_MAX):
            self._remembered[name] = array.type
        return array


class StreamReader:
    """The batches of one run of a generator, all of one schema."""

    __slots__ = ("_results", "_schema", "started")

    def __init__(self, results: ResultReader) -> None:
        self._results = results
        self._schema: pa.Schema | None = None
        # A batch was read.
        self.started = False

    def read(self, value: Any) -> Part:
        """The next one. Raises MethodFailed, also for a schema unlike the first one's."""
        part = self._results.placed(value)
        self.started = True
        if isinstance(part, Stored):
            # It was looked at when it was written.
            return part
        batch = part.batch if isinstance(part, Fresh) else part
        if self._schema is None:
            self._schema = batch.schema
        elif not batch.schema.equals(self._schema):
            found = "; ".join(differences(self._schema, batch.schema)) or "another order of columns"
            raise MethodFailed(f"{self._results.where} changed its schema while streaming: {found}")
        return part


def _names_of(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """The keys of all rows, in the order they first appear."""
    return tuple(dict.fromkeys(name for row in rows for name in row))


def fits(inferred: pa.DataType, before: pa.DataType) -> bool:
    """True when values that Arrow takes for `inferred` lose nothing as `before`: nulls fit everything, whole
    numbers fit floats (as JSON's do), lists and structs by their parts."""
    if inferred == before or pa.types.is_null(inferred):
        return True
    if pa.types.is_floating(before):
        return bool(pa.types.is_integer(inferred))
    if pa.types.is_list(inferred) and pa.types.is_list(before):
        return fits(inferred.value_type, before.value_type)
    if pa.types.is_struct(inferred) and pa.types.is_struct(before):
        return all(
            (index := before.get_field_index(field.name)) >= 0 and fits(field.type, before.field(index).type)
            for field in (inferred.field(i) for i in range(inferred.num_fields))
        )
    return False


def _as_before(array: pa.Array, values: list[Any], before: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, type=before)
    except _ARROW_ERRORS:  # a whole number that no float holds exactly: right beats steady
        return array


def _fixed_size_lists(values: Any, kind: pa.DataType | None) -> pa.Array:
    """A two-dimensional array as lists of its width, without a copy where its rows lie one after another."""
    width = values.shape[1]
    inner = kind.value_type if kind is not None and pa.types.is_fixed_size_list(kind) else None
    array = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1), type=inner), width)
    return array if kind is None or array.type == kind else array.cast(kind)


def _kind(value: Any) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"
