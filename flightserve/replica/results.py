"""What user methods return, made into record batches and checked.

Accepted of batch methods: RecordBatch, Table, RecordBatchReader, a dict of arrays or lists, a polars or pandas
DataFrame, and a single Arrow, NumPy, polars or pandas column, which is called `result`. Arrow results are taken
as they are and must have the declared output's names and types; what other libraries return has no Arrow types of
its own and is converted to the declared ones. No conversion changes a value: that is an error
(`fabric.conversion.exact`).

Where no output is declared, a column that was handed out comes back in its type if it can: what another library makes
of that type is taken for it (`replica.libraries`), and Python values that it holds are. All else has the type that
follows from the request's own values (`fabric.conversion.values`), never from those of others (`replica.columns`).
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from flightserve.errors import MethodFailed
from flightserve.fabric.conversion.exact import Misfit
from flightserve.fabric.memory.schemas import differences, empty_batch
from flightserve.fabric.memory.stored import Fresh, Stored
from flightserve.replica import libraries
from flightserve.replica.apart import Apart, MethodResult, Rows, at_places
from flightserve.replica.columns import Column, assemble, fields_of
from flightserve.replica.faults import bare

ROW_RESULT: Final = "result"

_ARROW_ERRORS: Final = (pa.ArrowException, TypeError, ValueError, OverflowError)
_NO_FIELDS: Final[Mapping[str, pa.Field]] = {}


class ResultReader:
    """Turns one method's results into record batches of its output schema, if it declares one."""

    __slots__ = ("_last", "output", "where")

    def __init__(self, where: str, output: pa.Schema | None) -> None:
        self.where = where
        self.output = output
        # The last schema of requests, and its fields by name: one's own columns are the only ones that count.
        self._last: tuple[pa.Schema, Mapping[str, pa.Field]] = (pa.schema([]), {})

    def given(self, schema: pa.Schema) -> Mapping[str, pa.Field]:
        """The columns whose types the result's columns of their names keep."""
        if self.output is not None:
            return _NO_FIELDS
        known, fields = self._last
        if not known.equals(schema, check_metadata=True):
            fields = fields_of(schema)
            self._last = (schema, fields)
        return fields

    def place(self, value: Any, schema: pa.Schema, counts: Sequence[int] = ()) -> MethodResult:
        """As `read`; what says itself where it lies, or shall be told, stays as it is."""
        if type(value) is pa.RecordBatch:
            return value if self.output is None else self._conform(value)
        if isinstance(value, Stored):
            return value
        if isinstance(value, Fresh):
            batch = self.read(value.batch, _NO_FIELDS)
            assert isinstance(batch, pa.RecordBatch)
            return Fresh(batch, value.written)
        return self.read(value, self.given(schema), counts)

    def read(
        self, value: Any, given: Mapping[str, pa.Field], counts: Sequence[int] = ()
    ) -> pa.RecordBatch | list[Apart]:
        """The value as one record batch; or as several, where the requests that have so many rows of it each would have
        had other types by themselves. Raises MethodFailed."""
        if type(value) is pa.RecordBatch:
            return value if self.output is None else self._conform(value)
        try:
            return self._convert(value, given, counts)
        except _ARROW_ERRORS as error:
            raise MethodFailed(f"{self.where} returned {_kind(value)} that does not make columns: {error}") from error

    def stream(self, schema: pa.Schema) -> StreamReader:
        """For one run of a generator for a request of that schema."""
        return StreamReader(self, self.given(schema))

    # ---- batch results

    def _convert(
        self, value: Any, given: Mapping[str, pa.Field], counts: Sequence[int]
    ) -> pa.RecordBatch | list[Apart]:
        if isinstance(value, pa.RecordBatch):
            return self._conform(value)
        if isinstance(value, pa.RecordBatchReader):
            value = value.read_all()
        if isinstance(value, pa.Table):
            return self._conform(self._one_batch(value))
        if isinstance(value, (pa.Array, pa.ChunkedArray)):
            return self._conform(self._one_batch(pa.table({ROW_RESULT: value})))
        if isinstance(value, dict):
            return self._from_columns(list(value.items()), given, counts)
        if libraries.is_column(value):
            return self._from_columns([(ROW_RESULT, value)], given, counts)
        columns = libraries.frame_columns(value)
        if inspect.iscoroutine(value):
            value.close()
            raise MethodFailed(
                f"{self.where} returned a call that nobody awaited; write async def, and return await ...aio(batch)"
            )
        if columns is None:
            raise MethodFailed(
                f"{self.where} returned {_kind(value)}; a method returns a RecordBatch, a Table, a dict of columns, a "
                "polars or pandas DataFrame, or one array"
            )
        return self._from_columns(columns, given, counts)

    def _from_columns(
        self, named: Sequence[tuple[str, Any]], given: Mapping[str, pa.Field], counts: Sequence[int]
    ) -> pa.RecordBatch | list[Apart]:
        if not all(isinstance(name, str) for name, _ in named):
            raise MethodFailed(f"{self.where} returned a dict with keys that are not strings; they are column names")
        columns = [self._column(name, values, given.get(name)) for name, values in named]
        lengths = {len(column) for column in columns}
        if len(lengths) > 1:
            told = ", ".join(f"{column.name!r}: {len(column)}" for column in columns)
            raise MethodFailed(f"{self.where} returned columns of different lengths ({told[:512]})")
        if self.output is not None:
            self._check_names(columns, self.output)
        # Another number of rows than asked for is told of by whoever asked.
        result = assemble(columns, counts if sum(counts) == sum(lengths) else (), self.where)
        if self.output is None:
            return result
        if isinstance(result, pa.RecordBatch):
            return self._in_order(result, self.output)
        return [each._replace(batch=self._in_order(each.batch, self.output)) for each in result]

    def _column(self, name: str, values: Any, given: pa.Field | None) -> Column:
        declared = None
        if self.output is not None and (index := self.output.get_field_index(name)) >= 0:
            declared = self.output.field(index).type
        if isinstance(values, pa.ChunkedArray):
            values = self._one_chunk(values)
        if isinstance(values, pa.Array):
            if declared is not None and not values.type.equals(declared):
                raise MethodFailed(
                    f"{self.where} returned other columns than it declares: column {name!r} is {values.type}, "
                    f"not {declared}"
                )
            return Column(name, values)
        if isinstance(values, (str, bytes, dict)) or not hasattr(values, "__len__"):
            got = _kind(values)
            raise MethodFailed(f"{self.where} returned {got} as column {name!r}; a column is an array or a list")
        return libraries.column(name, values, given, declared)

    def _check_names(self, columns: Sequence[Column], output: pa.Schema) -> None:
        names = [column.name for column in columns]
        if sorted(names) != sorted(output.names):
            found = differences(output, pa.schema([(name, _type_of(output, name)) for name in names]))
            raise MethodFailed(f"{self.where} returned other columns than it declares: {'; '.join(found)}")

    def _in_order(self, batch: Any, output: pa.Schema) -> Any:
        """The columns as they are declared; errors stay what they are."""
        if not isinstance(batch, pa.RecordBatch):
            return batch
        return pa.RecordBatch.from_arrays([batch.column(name) for name in output.names], schema=output)

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

    def _conform(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch with its columns in the declared order, where it is declared. Nothing is cast."""
        output = self.output
        if output is not None and not batch.schema.equals(output):
            found = differences(output, batch.schema)
            if found:
                raise MethodFailed(f"{self.where} returned other columns than it declares: {'; '.join(found)}")
            if batch.schema.names != output.names:
                batch = batch.select(output.names)
        return batch

    # ---- rows

    def from_rows(
        self, rows: list[dict[str, Any]], schema: pa.Schema, counts: Sequence[int] = ()
    ) -> pa.RecordBatch | list[Apart]:
        """One column for each key. `counts` says how many rows each request has, where there are several: they are
        answered by one batch where their columns are alike, else apart. Raises MethodFailed where there is one."""
        several = len(counts) > 1 and sum(counts) == len(rows)
        if self.output is not None:
            try:
                return self._declared_rows(rows, self.output)
            except MethodFailed:
                if not several:
                    raise
            return self._answer_declared(rows, counts, self.output)
        names = tuple(rows[0]) if rows else ()
        alike = all(tuple(row) == names for row in rows) and (names or not several)
        if alike and (not several or 0 not in counts):
            return self._columns(names, rows, schema, counts if several else ())
        if not several:
            return self._columns(_names_of(rows), rows, schema, ())
        return self._answer_apart(rows, schema, counts)

    def _answer_apart(self, rows: list[dict[str, Any]], schema: pa.Schema, counts: Sequence[int]) -> list[Apart]:
        """Requests whose rows name the same columns together."""
        own = _own_rows(rows, counts)
        groups: dict[tuple[str, ...], list[int]] = {}
        for place, each in enumerate(own):
            groups.setdefault(_names_of(each), []).append(place)
        apart: list[Apart] = []
        for names, places in groups.items():
            together = [row for place in places for row in own[place]]
            try:
                made = self._columns(names, together, schema, [counts[place] for place in places])
                apart += at_places(made, places)
            except MethodFailed as error:
                apart.append(Apart(places, bare(error)))
        return apart

    def _columns(
        self, names: tuple[str, ...], rows: list[dict[str, Any]], schema: pa.Schema, counts: Sequence[int]
    ) -> pa.RecordBatch | list[Apart]:
        if not rows:
            return pa.RecordBatch.from_arrays([], names=[])
        if not names:
            raise MethodFailed(f"{self.where} returned an empty dict for every row; a column is needed")
        given = self.given(schema)
        columns = []
        for name in names:
            if not isinstance(name, str):
                raise MethodFailed(
                    f"{self.where} returned a dict with the key {name!r}; keys are column names, strings"
                )
            columns.append(Column(name, [row.get(name) for row in rows], given.get(name)))
        return assemble(columns, counts, self.where)

    def _declared_rows(self, rows: list[dict[str, Any]], output: pa.Schema) -> pa.RecordBatch:
        names = set(output.names)
        for row in rows:
            if not row.keys() <= names:
                extra = ", ".join(sorted(repr(name) for name in row.keys() - names)[:8])
                raise MethodFailed(f"{self.where} returned a row with {extra[:512]}, which it does not declare")
        arrays = []
        for field in output:
            values = [row.get(field.name) for row in rows]
            if not field.nullable and any(value is None for value in values):
                raise MethodFailed(f"{self.where} returned a row without {field.name!r}, declared as never null")
            column = Column(field.name, values, None, field.type)
            try:
                arrays.append(column.make(values, field.type))
            except Misfit as error:
                raise column.misfit(self.where, error) from None
        return pa.RecordBatch.from_arrays(arrays, schema=output)

    def _answer_declared(self, rows: list[dict[str, Any]], counts: Sequence[int], output: pa.Schema) -> list[Apart]:
        """Those whose rows are as declared together."""
        batches, places, apart = [], [], []
        for place, own in enumerate(_own_rows(rows, counts)):
            try:
                batches.append(self._declared_rows(own, output))
                places.append(place)
            except MethodFailed as error:
                apart.append(Apart([place], bare(error)))
        if batches:
            apart.append(Apart(places, pa.concat_batches(batches)))
        return apart


class StreamReader:
    """The batches of one run of a generator, all of one schema."""

    __slots__ = ("_given", "_results", "_schema", "started")

    def __init__(self, results: ResultReader, given: Mapping[str, pa.Field]) -> None:
        self._results = results
        self._given = given
        self._schema: pa.Schema | None = None
        # A batch was read.
        self.started = False

    def read(self, value: Any) -> Rows:
        """The next one. Raises MethodFailed, also for a schema unlike the first one's."""
        self.started = True
        if isinstance(value, Stored):
            # It was looked at when it was written.
            return value
        batch = self._results.read(value.batch if isinstance(value, Fresh) else value, self._given)
        assert isinstance(batch, pa.RecordBatch)
        if self._schema is None:
            self._schema = batch.schema
            # What follows is in the first one's types, where they hold it.
            self._given = fields_of(batch.schema) if self._results.output is None else self._given
        elif not batch.schema.equals(self._schema):
            found = "; ".join(differences(self._schema, batch.schema)) or "another order of columns"
            raise MethodFailed(f"{self._results.where} changed its schema while streaming: {found}")
        return Fresh(batch, value.written) if isinstance(value, Fresh) else batch


def _type_of(output: pa.Schema, name: str) -> pa.DataType:
    index = output.get_field_index(name)
    return output.field(index).type if index >= 0 else pa.null()


def _own_rows(rows: list[dict[str, Any]], counts: Sequence[int]) -> list[list[dict[str, Any]]]:
    return [rows[start:stop] for start, stop in itertools.pairwise(itertools.accumulate(counts, initial=0))]


def _names_of(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """The keys of all rows, in the order they first appear."""
    return tuple(dict.fromkeys(name for row in rows for name in row))


def _kind(value: Any) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"
