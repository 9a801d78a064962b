"""Prepared statements: what they take and give, known without running them, and many executions run as one.

`Runner.prepare` decides once whether executions of a statement can be merged, and says why where they cannot. Results
of many executions are one table that begins with `rid`, the number of the parameter row that each row belongs to,
ascending.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import duckdb
import numpy as np
import pyarrow as pa

from flightserve.clock import NEVER_NS
from flightserve.errors import (
    Cancelled,
    DeadlineExceeded,
    FlightserveError,
    InvalidArgument,
    PermissionDenied,
    SchemaMismatch,
    TooLarge,
)
from flightserve.sql.caching import Scope, scope_of
from flightserve.sql.columns import meant
from flightserve.sql.engine import Engine
from flightserve.sql.errors import translate
from flightserve.sql.execution import OTHER_TYPES, Execution, Watch, plain_schema
from flightserve.sql.merging import (
    PARAMS,
    RID,
    NotMergeable,
    merge,
    parameter_relation,
    refuse_undefined,
    types_over_rows,
)
from flightserve.sql.parameters import Parameters, Types, cast_text, infer, resolve, waits_for_types
from flightserve.sql.remembering import COLUMNS_MAX, Remembered
from flightserve.sql.statements import Statement, walk

# Parameter rows of one merged query: more of them save next to nothing, and its result lies in memory.
MERGED_ROWS_MAX: Final = 2048
# Results of one merged query; above that its rows run one by one.
MERGED_BYTES_MAX: Final = 256 << 20
EXPLAINED: Final = pa.schema([("explain_key", pa.string()), ("explain_value", pa.string())])

_SEVERAL: Final = ("SET_OPERATION_NODE", "RECURSIVE_CTE_NODE")

# Errors that running row by row would not change.
_FINAL: Final = (Cancelled, DeadlineExceeded, PermissionDenied, TooLarge)
# More than any result.
_UNBOUNDED: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request allows: until when, and whether anybody still waits. `ending` is told before a stream's last
    batch, where it is known to be that. `result_bytes_max` is for the result of each execution that is gathered."""

    deadline_ns: int = NEVER_NS
    cancelled: Callable[[], bool] = lambda: False
    ending: Callable[[], None] = lambda: None
    result_bytes_max: int = _UNBOUNDED


class Prepared:
    """A statement that is ready to run.

    `single` is its text with typed parameters; `ran` is true once it was run by that. What is only needed sometimes is
    found out when it is: `result` is the schema of one execution's result, `merged` the merged form or None, `reason`
    why it has none. `shared` is true where
    every execution gives the same, so that one does for all.
    """

    def __init__(self, runner: Runner, statement: Statement, parameters: Parameters, single: str) -> None:
        self.statement = statement
        self.parameters = parameters
        self.single = single
        self.ran = False
        self._runner = runner

    @property
    def raw(self) -> pa.Schema:
        """The result's schema as the engine gives it, dictionaries and all."""
        return self._runner.schemas(self)[0]

    @property
    def result(self) -> pa.Schema:
        """The result's schema."""
        return self._runner.schemas(self)[1]

    @functools.cached_property
    def shared(self) -> bool:
        """No parameters, and nothing that changes from one execution to the next."""
        return not self.parameters.names and not self._decided[1]

    @functools.cached_property
    def one_source(self) -> bool:
        """Its rows come from one place. Those of a UNION come branch by branch, the first maybe long before others."""
        return not any(node.get("type") in _SEVERAL for node in walk(self.statement.tree))

    @property
    def merged(self) -> str | None:
        """The merged form's text."""
        return self._decided[0]

    @property
    def reason(self) -> str:
        """Why executions run one by one; "" where they are merged or shared."""
        return self._decided[1]

    @functools.cached_property
    def scope(self) -> Scope | None:
        """What its results may be kept under; None where they may not be kept."""
        engine = self._runner.engine
        return scope_of(self.statement, self.parameters.types, engine.parser, engine.versions)

    @functools.cached_property
    def _decided(self) -> tuple[str | None, str]:
        return self._runner.decide(self)


class Runner:
    """Prepares and runs statements on one engine. Any thread."""

    def __init__(self, engine: Engine, watch: Watch) -> None:
        self.engine = engine
        self.watch = watch
        self.types = Types(engine.shadow)
        self._prepared: Remembered[tuple[str, tuple[tuple[str, str], ...]], Prepared] = Remembered()
        # To look what the plan says of parameters takes longer than to run many a statement.
        self._prepared_for: Remembered[tuple[str, pa.Schema | None], Prepared] = Remembered()
        # Not with the statements: a short text may have many columns.
        self._schemas: Remembered[tuple[str, str], tuple[pa.Schema, pa.Schema]] = Remembered(size_max=COLUMNS_MAX)

    # ---- preparing

    def prepare(self, sql: str, types: Mapping[str, str] | None = None) -> Prepared:
        """The statement, ready to run, remembered for the next time. `types` declares parameters' types, as the engine
        spells them. Raises what `Parser.parse` does, ConfigError for parameters of no known type, and what the engine
        says of the statement."""
        key = (sql, tuple(sorted((types or {}).items())))
        known = self._prepared.find(key)
        if known is not None:
            return known
        statement = self.engine.parser.parse(sql)
        inferred = infer(self.engine.shadow, statement)
        prepared = self._prepare(statement, resolve(statement, inferred, types or {}, self.types))
        self._prepared.add(key, prepared, len(sql))
        return prepared

    def prepare_for(self, sql: str, rows: pa.Schema | None) -> Prepared:
        """The statement for parameter rows of these types. What the statement says of a parameter wins over what came
        where that is text or nothing; a client that has no dates sends them so. Where nothing is known of one, it is
        taken for text. Remembered for the next time. Raises InvalidArgument, SchemaMismatch, and as `prepare`."""
        prepared = self._prepared_for.find((sql, rows))
        if prepared is None:
            prepared = self._prepare_for(sql, rows)
            self._prepared_for.add((sql, rows), prepared, len(sql))
        return prepared

    def _prepare_for(self, sql: str, rows: pa.Schema | None) -> Prepared:
        statement = self.engine.parser.parse(sql)
        if not statement.parameters:
            return self.prepare(sql)
        if rows is not None and len(rows) != len(statement.parameters):
            wanted = ", ".join(statement.parameters)
            raise SchemaMismatch(
                f"the statement has {len(statement.parameters)} parameters ({wanted}); {len(rows)} came"
            )
        inferred = infer(self.engine.shadow, statement) if rows is None or _vague(rows) else {}
        by_name = rows is not None and set(rows.names) == set(statement.parameters)
        types = {}
        for n, name in enumerate(statement.parameters):
            given = pa.null() if rows is None else rows.field(name if by_name else n).type
            types[name] = (inferred.get(name) if _is_vague(given) else None) or self._spelled(given)
        return self.prepare(sql, types)

    def _spelled(self, kind: pa.DataType) -> str:
        return "VARCHAR" if pa.types.is_null(kind) else self.types.engine(kind)

    def _prepare(self, statement: Statement, parameters: Parameters) -> Prepared:
        single = cast_text(statement, parameters.typed())
        if single is None:
            raise InvalidArgument("the parser does not say where the parameters stand; write them as $1, $2 or $name")
        return Prepared(self, statement, parameters, single)

    def decide(self, prepared: Prepared) -> tuple[str | None, str]:
        """The merged form, or why there is none."""
        statement, parser = prepared.statement, self.engine.parser
        try:
            if statement.explain:
                raise NotMergeable("it explains a statement")
            if not prepared.parameters.names:
                refuse_undefined(statement.tree, parser.volatile)
                return None, ""
            return merge(parser, self.engine.shadow, statement, prepared.parameters, prepared.raw), ""
        except NotMergeable as error:
            return None, str(error)

    def schemas(self, prepared: Prepared) -> tuple[pa.Schema, pa.Schema]:
        """The result's schema as the engine gives it, and plain; remembered for the next time."""
        key = (prepared.statement.text, prepared.single)
        known = self._schemas.find(key)
        if known is None:
            raw = self.described(prepared)
            known = raw, plain_schema(raw) or raw
            self._schemas.add(key, known, len(raw))
        return known

    def described(self, prepared: Prepared) -> pa.Schema:
        """The result's schema, with the columns' names as the statement was written. The statement is bound over empty
        tables and not run, nor optimized: the optimizer computes what is constant, however long that takes."""
        statement = prepared.statement
        if statement.explain:
            return EXPLAINED
        session = self.engine.shadow.cursor()
        nulls = dict.fromkeys(prepared.parameters.names)
        try:
            typed = session.sql(prepared.single, params=nulls or None)
            types = typed.types
            if nulls and any(kind.id == "null" for kind in types):
                # What is taken out of a struct that is NULL is of no type.
                types = types_over_rows(session, statement, prepared.parameters) or types
            kinds = ", ".join(f"CAST(NULL AS {meant(kind)}) AS c{n}" for n, kind in enumerate(types))
            schema = session.sql(f"SELECT {kinds}").to_arrow_table().schema
            names = _names(session, statement.text, nulls) if nulls else None
            return pa.schema([f.with_name(name) for f, name in zip(schema, names or typed.columns, strict=True)])
        except Exception as error:
            raise translate(error) from error
        finally:
            session.close()

    def waits_for_types(self, prepared: Prepared) -> bool:
        """Whether nothing is known of the statement's result before its parameters have types."""
        return waits_for_types(self.engine.shadow, prepared.statement)

    # ---- running

    def run(self, prepared: Prepared, columns: Sequence[pa.Array], rows: int, limits: Limits = Limits()) -> pa.Table:
        """Every row's result, behind `rid`. `columns` are in the parameters' order and types. Raises TooLarge for a
        row's result that is over the limit."""
        if prepared.shared and rows > 1:
            return _repeated(self.one(prepared, columns, 0, limits), rows)
        parts: list[pa.Table] = []
        for start in range(0, rows, MERGED_ROWS_MAX):
            some = range(start, min(rows, start + MERGED_ROWS_MAX))
            table = self._merged_or_none(prepared, columns, some, limits)
            parts.extend([table] if table is not None else self._one_by_one(prepared, columns, some, limits))
        schema = pa.schema([pa.field(RID, pa.int64()), *prepared.result])
        return pa.concat_tables(parts) if parts else schema.empty_table()

    def stream(
        self, prepared: Prepared, columns: Sequence[pa.Array], rows: int, limits: Limits = Limits()
    ) -> Iterator[pa.RecordBatch]:
        """The rows' results one after another, without `rid`; the first batch has the schema even where it has no
        rows."""
        if rows == 1 or not prepared.parameters.names:
            execution = self._execution(prepared, columns, 0, limits)
            # Without parameters it runs as it was written, its columns have their names, and nothing needs to be known
            # before.
            for batch in execution.renamed(prepared.result) if prepared.parameters.names else execution:
                if execution.last:
                    limits.ending()
                yield batch
            return
        yield pa.RecordBatch.from_arrays([pa.nulls(0, kind) for kind in prepared.result.types], schema=prepared.result)
        for start in range(0, rows, MERGED_ROWS_MAX):
            some = range(start, min(rows, start + MERGED_ROWS_MAX))
            table = self._merged_or_none(prepared, columns, some, limits)
            if table is not None:
                yield from table.remove_column(0).to_batches()
                continue
            for row in some:
                execution = self._execution(prepared, columns, row, limits)
                yield from execution.renamed(prepared.result)

    def _merged_or_none(
        self, prepared: Prepared, columns: Sequence[pa.Array], rows: range, limits: Limits
    ) -> pa.Table | None:
        """The rows' results by one query; None where they have to run one by one."""
        if len(rows) < 2 or prepared.merged is None:
            return None
        try:
            return self.merged(prepared, columns, rows, limits)
        except _FINAL:
            raise
        except FlightserveError:
            # One row's error, or memory that suffices for each but not for all: each by itself says which.
            return None

    def merged(
        self, prepared: Prepared, columns: Sequence[pa.Array], rows: range, limits: Limits = Limits()
    ) -> pa.Table | None:
        """The rows' results by one query; None where they are too large for that."""
        if prepared.merged is None:
            raise InvalidArgument(f"the statement is not merged: {prepared.reason}")
        some = [column.slice(rows.start, len(rows)) for column in columns]
        relation = parameter_relation(some, rows.start, rows.stop)
        execution = Execution(
            self.engine,
            self.watch,
            prepared.merged,
            deadline_ns=limits.deadline_ns,
            cancelled=limits.cancelled,
            rows=(PARAMS, relation),
        )
        table = execution.read_all(min(MERGED_BYTES_MAX, limits.result_bytes_max * len(rows)))
        if table is None:
            return None
        _check_sizes(table, rows, limits.result_bytes_max)
        return table.rename_columns([RID, *prepared.result.names])

    def one(self, prepared: Prepared, columns: Sequence[pa.Array], row: int, limits: Limits = Limits()) -> pa.Table:
        """One row's result. Raises TooLarge where it is over the limit; what is left of it is not run then."""
        table = self._execution(prepared, columns, row, limits).read_all(limits.result_bytes_max)
        if table is None:
            raise _too_large(limits.result_bytes_max)
        try:
            return pa.Table.from_arrays(table.columns, schema=prepared.result)
        except pa.ArrowException as error:
            raise InvalidArgument(OTHER_TYPES) from error

    def _one_by_one(
        self, prepared: Prepared, columns: Sequence[pa.Array], rows: range, limits: Limits
    ) -> Iterator[pa.Table]:
        for row in rows:
            table = self.one(prepared, columns, row, limits)
            yield table.add_column(0, pa.field(RID, pa.int64()), pa.repeat(pa.scalar(row, pa.int64()), table.num_rows))

    def _execution(self, prepared: Prepared, columns: Sequence[pa.Array], row: int, limits: Limits) -> Execution:
        # Most texts without parameters run once, and a session for each would push out others.
        stands = prepared.ran and not prepared.parameters.names
        prepared.ran = True
        return Execution(
            self.engine,
            self.watch,
            prepared.single,
            prepared.parameters.values(columns, row),
            deadline_ns=limits.deadline_ns,
            cancelled=limits.cancelled,
            stands=stands,
            looks_ahead=prepared.one_source,
        )


def _check_sizes(table: pa.Table, rows: range, bytes_max: int) -> None:
    """Raise TooLarge where one of the rows' results, which lie behind its number, is over that."""
    if table.nbytes <= bytes_max:
        return
    stops = np.searchsorted(table.column(0).to_numpy(), np.arange(rows.start, rows.stop + 1)).tolist()
    for start, stop in itertools.pairwise(stops):
        if table.slice(start, stop - start).nbytes > bytes_max:
            raise _too_large(bytes_max)


def _too_large(bytes_max: int) -> TooLarge:
    return TooLarge(f"the result has more than {bytes_max} bytes; `query` streams it")


def _repeated(table: pa.Table, times: int) -> pa.Table:
    """One execution's result for each of so many, behind `rid`; the columns are not copied until they are joined."""
    rid = pa.chunked_array([pa.repeat(pa.scalar(n, pa.int64()), table.num_rows) for n in range(times)], type=pa.int64())
    return pa.concat_tables([table] * times).add_column(0, pa.field(RID, pa.int64()), rid)


def _names(session: duckdb.DuckDBPyConnection, text: str, nulls: dict[str, None]) -> list[str] | None:
    """The columns' names in the text as it was written; None where it does not bind without types."""
    try:
        return list(session.sql(text, params=nulls or None).columns)
    except duckdb.Error:
        return None


def _is_vague(kind: pa.DataType) -> bool:
    return bool(pa.types.is_null(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _vague(rows: pa.Schema) -> bool:
    return any(_is_vague(kind) for kind in rows.types)
