"""User methods, bound: a micro-batch in, checked record batches out.

A `BoundMethod` is called with the micro-batch's pieces, record batches of one schema whose rows follow one
another. What it gives back depends on the method:

| method | call gives |
|---|---|
| plain | the result (`replica.apart.Rows`), most often a record batch; a list of `Apart` where its requests differ |
| `async def` | an awaitable of it |
| generator | an iterator of record batches |
| `async def` generator | an async iterator of them |

The pieces are handed on without a copy where the method's form allows it (`replica.forms`); results of any
accepted type become record batches (`replica.results`). What user code raises comes out as MethodFailed with the
exception's class and message, or as it is where it is a FlightserveError; the traceback goes to the log.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from flightserve.contracts.context import Context, context, entered
from flightserve.errors import Cancelled, FlightserveError, MethodFailed, ReplicaFailed, SchemaMismatch
from flightserve.fabric.memory.schemas import decode_schema, empty_batch
from flightserve.fabric.memory.stored import Stored
from flightserve.replica.apart import Apart, MethodResult, Rows, at_places, keep_apart
from flightserve.replica.async_rows import AsyncRows, Permits
from flightserve.replica.delimiting import divide, divide_part
from flightserve.replica.faults import bare, is_our_cancellation, report_failure
from flightserve.replica.forms import FORMS, contiguous, cut, groups
from flightserve.replica.results import ROW_RESULT, ResultReader, StreamReader
from flightserve.replica.row_run import RowRun
from flightserve.types import DeploymentSpec, MethodSpec

log = logging.getLogger(__name__)


class RequestGroup(NamedTuple):
    """Requests that share a call, by their places in the micro-batch, and their rows."""

    places: list[int]
    pieces: list[pa.RecordBatch]
    context: Context


class BoundMethod:
    """One public method of one object. Safe to call from several threads if the user's method is."""

    __slots__ = ("_form", "_function", "_looks_at_nulls", "_permits", "_results", "_together", "run", "spec", "where")

    def __init__(
        self, function: Callable[[Any], Any], spec: MethodSpec, where: str, rows_max: int, roles_apart: bool = False
    ) -> None:
        """`rows_max`: how many rows of an `async def` method under `@single_input` run at a time. `roles_apart`: those
        of different roles do not share a call, since the method's calls onwards are judged by them."""
        self.spec = spec
        self.where = where
        output = None if spec.output_schema is None else decode_schema(spec.output_schema)
        self._function = function
        self._form = FORMS.get(spec.form, contiguous)
        # Whether requests of one region may have to run apart.
        self._looks_at_nulls = spec.form in ("numpy", "pandas")
        self._results = ResultReader(where, output)
        self._permits = Permits(rows_max)
        # Runs a micro-batch. Raises MethodFailed, SchemaMismatch where the form cannot hold the columns, or the
        # FlightserveError that the method raised; iterators raise while they are iterated.
        self.run: Callable[[Sequence[pa.RecordBatch]], Any] = self._pick()
        # The same, whoever asks.
        self._together = self.run
        if roles_apart and not spec.streaming:
            self.run = self._by_roles_async if spec.is_async else self._by_roles

    def __call__(self, pieces: Sequence[pa.RecordBatch]) -> Any:
        """As `run`."""
        return self.run(pieces)

    def __repr__(self) -> str:
        return f"<BoundMethod {self.where} of {self.spec.form}>"

    def _pick(self) -> Callable[[Sequence[pa.RecordBatch]], Any]:
        spec = self.spec
        if spec.form == "row":
            return self._rows_async if spec.is_async else self._rows
        if spec.streaming:
            return self._stream_async if spec.is_async else self._stream
        return self._batch_async if spec.is_async else self._batch

    # ---- callers of different roles

    def _by_roles(self, pieces: Sequence[pa.RecordBatch]) -> MethodResult:
        places = context().by_roles()
        if places is None:
            result: MethodResult = self._together(pieces)
            return result
        apart: list[Apart] = []
        for group in self._groups(pieces, places):
            with entered(group.context):
                try:
                    apart += at_places(self._together(group.pieces), group.places)
                except BaseException as error:
                    apart += self._answer_failed_group(error, group)
        return keep_apart(apart, context())

    async def _by_roles_async(self, pieces: Sequence[pa.RecordBatch]) -> MethodResult:
        places = context().by_roles()
        if places is None:
            result: MethodResult = await self._together(pieces)
            return result
        apart: list[Apart] = []
        for group in self._groups(pieces, places):
            with entered(group.context):
                try:
                    apart += at_places(await self._together(group.pieces), group.places)
                except BaseException as error:
                    if is_our_cancellation(error):
                        raise
                    apart += self._answer_failed_group(error, group)
        return keep_apart(apart, context())

    def _groups(self, pieces: Sequence[pa.RecordBatch], places: list[list[int]]) -> list[RequestGroup]:
        current = context()
        own = cut(pieces, current.rows)
        return [RequestGroup(each, [own[place] for place in each], current.within(each)) for each in places]

    # ---- batch methods

    def _batch(self, pieces: Sequence[pa.RecordBatch]) -> MethodResult:
        try:
            if len(pieces) == 1 and not self._looks_at_nulls:
                return self._check(self._function(self._form(pieces, self.where)), pieces)
            argument, apart_groups = self._argument(pieces)
            if apart_groups is None:
                return self._check(self._function(argument), pieces)
        except BaseException as error:
            raise self._explain(error, pieces) from error
        apart: list[Apart] = []
        for group in apart_groups:
            with entered(group.context):
                try:
                    argument = self._form(group.pieces, self.where)
                    apart += at_places(self._check(self._function(argument), group.pieces), group.places)
                except BaseException as error:
                    apart += self._answer_failed_group(error, group)
        return keep_apart(apart, context())

    async def _batch_async(self, pieces: Sequence[pa.RecordBatch]) -> MethodResult:
        try:
            argument, apart_groups = self._argument(pieces)
            if apart_groups is None:
                return self._check(await self._function(argument), pieces)
        except BaseException as error:
            if is_our_cancellation(error):
                raise
            raise self._explain(error, pieces) from error
        apart: list[Apart] = []
        for group in apart_groups:
            with entered(group.context):
                try:
                    argument = self._form(group.pieces, self.where)
                    apart += at_places(self._check(await self._function(argument), group.pieces), group.places)
                except BaseException as error:
                    if is_our_cancellation(error):
                        raise
                    apart += self._answer_failed_group(error, group)
        return keep_apart(apart, context())

    def _argument(self, pieces: Sequence[pa.RecordBatch]) -> tuple[Any, list[RequestGroup] | None]:
        """What the method gets, or the groups of requests that it runs for one after another."""
        if (len(pieces) == 1 and not self._looks_at_nulls) or self.spec.delimited:
            return self._form(pieces, self.where), None
        counts = context().rows
        if len(counts) <= 1:
            return self._form(pieces, self.where), None
        places = groups(self.spec.form, pieces, counts)
        if places is None:
            try:
                return self._form(pieces, self.where), None
            except SchemaMismatch:
                # Perhaps for one request's values, or together only.
                places = [[place] for place in range(len(counts))]
        return None, self._groups(pieces, places)

    def _answer_failed_group(self, error: BaseException, group: RequestGroup) -> list[Apart]:
        """The answer of requests that ran apart from the others of their micro-batch. Raises where they are several and
        may run again, each by itself."""
        failed = self._explain(error, group.pieces)
        if isinstance(failed, ReplicaFailed) or (len(group.places) > 1 and self.spec.idempotent):
            raise failed from error
        return [Apart(group.places, bare(failed))]

    def _check(self, value: Any, pieces: Sequence[pa.RecordBatch]) -> MethodResult:
        if self.spec.delimited:
            return self._divide(value, pieces)
        schema = pieces[0].schema
        if not self.spec.row_aligned:
            return self._results.place(value, schema)
        expected = pieces[0].num_rows if len(pieces) == 1 else sum([piece.num_rows for piece in pieces])
        current = context()
        alone = current.requests <= 1
        result: MethodResult
        if type(value) is pa.RecordBatch and self._results.output is None:
            result = value
        else:
            counts: Sequence[int] = () if alone or type(value) is pa.RecordBatch else current.rows
            result = self._results.place(value, schema, counts)
        if not isinstance(result, list) and result.num_rows != expected:
            raise MethodFailed(
                f"{self.where} got {expected} rows and returned {result.num_rows}; a row-aligned method returns a "
                "row for each it gets, in order (others are declared with @method(row_aligned=False))"
            )
        return result if alone else keep_apart(result, current)

    def _divide(self, value: Any, pieces: Sequence[pa.RecordBatch]) -> MethodResult:
        rows, schema = context().rows, pieces[0].schema
        if type(value) is not list:
            return keep_apart(divide(self._one(value, schema), rows, self.where), context())
        apart: list[Apart] = []
        for parts, answer in value:
            if isinstance(answer, Stored):
                apart.append(Apart(parts, answer, answer.counts))
                continue
            found = divide(self._one(answer, schema), [rows[part] for part in parts], self.where)
            if not isinstance(found, list):
                found = [Apart([0], found, [found.num_rows])]
            apart += [Apart([parts[part] for part in each.parts], each.batch, each.counts) for each in found]
        return apart

    def _one(self, value: Any, schema: pa.Schema) -> Rows:
        """The result of a method that tells itself which rows are whose."""
        part = self._results.place(value, schema)
        assert not isinstance(part, list)
        return part

    # ---- generators

    def _stream(self, pieces: Sequence[pa.RecordBatch]) -> Iterator[MethodResult]:
        stream = self._results.stream(pieces[0].schema)
        try:
            values = iter(self._function(self._form(pieces, self.where)))
        except BaseException as error:
            raise self._explain(error, pieces) from error
        try:
            while True:
                try:
                    value = next(values)
                except StopIteration:
                    break
                except BaseException as error:
                    raise self._explain(error, pieces) from error
                yield self._read(stream, value)
                value = None  # the rows sent are not kept alive by this frame
        finally:
            self._close(values)
        if not stream.started and self._results.output is not None:
            yield empty_batch(self._results.output)

    async def _stream_async(self, pieces: Sequence[pa.RecordBatch]) -> AsyncIterator[MethodResult]:
        stream = self._results.stream(pieces[0].schema)
        try:
            values = self._function(self._form(pieces, self.where))
        except BaseException as error:
            raise self._explain(error, pieces) from error
        try:
            while True:
                try:
                    value = await anext(values)
                except StopAsyncIteration:
                    break
                except BaseException as error:
                    if is_our_cancellation(error):
                        raise
                    raise self._explain(error, pieces) from error
                yield self._read(stream, value)
                value = None
        finally:
            await self._aclose(values)
        if not stream.started and self._results.output is not None:
            yield empty_batch(self._results.output)

    def _read(self, stream: StreamReader, value: Any) -> MethodResult:
        try:
            rows = stream.read(value)
            if not self.spec.delimited:
                return rows
            current = context()
            return keep_apart(divide_part(rows, current.rows, self.where), current)
        except BaseException as error:
            raise self._explain(error) from error

    def _close(self, values: Any) -> None:
        """End a generator; what it still has to say changes nothing for its caller."""
        try:
            close = getattr(values, "close", None)
            if close is not None:
                close()
        except BaseException as error:
            self._explain(error)

    async def _aclose(self, values: Any) -> None:
        try:
            close = getattr(values, "aclose", None)
            if close is not None:
                await close()
        except BaseException as error:
            if is_our_cancellation(error):
                raise
            self._explain(error)

    # ---- @single_input

    def _rows(self, pieces: Sequence[pa.RecordBatch]) -> MethodResult:
        function, run = self._function, RowRun(self.where, pieces)
        values, current = run.values, run.context
        while rows := run.left():
            try:
                for row in rows:
                    if current.cancelled:
                        raise Cancelled(f"{self.where}: nobody waits for the result any more")
                    value = function(row)
                    values.append(value if type(value) is dict else self._row_result(value))
            except BaseException as error:
                run.fail(self._explain(error, pieces))
        return self._row_answers(run)

    async def _rows_async(self, pieces: Sequence[pa.RecordBatch]) -> MethodResult:
        run = RowRun(self.where, pieces)
        explain = functools.partial(self._explain, pieces=pieces)
        await AsyncRows(run, self._permits, self._run_row, explain).finish()
        return self._row_answers(run)

    async def _run_row(self, row: dict[str, Any]) -> dict[str, Any]:
        value = await self._function(row)
        return value if type(value) is dict else self._row_result(value)

    def _row_answers(self, run: RowRun) -> MethodResult:
        try:
            result: MethodResult = self._results.from_rows(run.values, run.schema, run.answered)
            if run.faults:
                result = [*at_places(result, run.places), *run.faults] if run.places else run.faults
            return keep_apart(result, run.context)
        except BaseException as error:
            raise self._explain(error) from error

    def _row_result(self, value: Any) -> dict[str, Any]:
        if value is None:
            raise MethodFailed(f"{self.where} returned None for a row; it returns a dict, or one value, for each")
        if hasattr(value, "keys") and hasattr(value, "__getitem__"):
            return dict(value)
        return {ROW_RESULT: value}

    # ---- errors

    def _explain(self, error: BaseException, pieces: Sequence[pa.RecordBatch] = ()) -> FlightserveError:
        """What the caller gets for what user code raised, or a library while it converted the method's rows."""
        columns = pieces[0].schema.names if pieces else ()
        return report_failure(error, self.where, log, context().describe(), columns)


def bind_methods(target: object, spec: DeploymentSpec, roles_apart: bool = False) -> dict[str, BoundMethod]:
    """The object's served methods by name; `roles_apart` as `BoundMethod` has it."""
    lanes = spec.lanes
    return {
        m.name: BoundMethod(
            getattr(target, m.name), m, f"{spec.name}.{m.name}", m.max_concurrent or lanes.side_by_side or lanes.serial,
            roles_apart,
        )
        for m in spec.methods
    }  # fmt: skip
