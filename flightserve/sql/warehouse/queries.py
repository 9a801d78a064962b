"""Prepared statements: what they take and give, known without running them, and many executions run as one.

`Runner.prepare` decides once whether executions of a statement can be merged, and says why where they cannot. Results
of many executions are one table that begins with `rid`, the number of the parameter row that each row belongs to,
ascending.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final, TypeAlias

import pyarrow as pa

from flightserve.errors import (
    Cancelled,
    DeadlineExceeded,
    FlightserveError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    SchemaMismatch,
    TooLarge,
    Unimplemented,
)
from flightserve.sql.engine import Engine
from flightserve.sql.engine.bound_queries import QuerySessions
from flightserve.sql.engine.columns import meant
from flightserve.sql.engine.errors import translate
from flightserve.sql.engine.narrowed import Narrowed
from flightserve.sql.engine.plain_layouts import marks
from flightserve.sql.engine.query_watch import QueryWatch
from flightserve.sql.engine.result_batches import conform, conforms, plain_schema
from flightserve.sql.engine.result_stream import OTHER_TYPES, PROFILES, Batches, ResultStream
from flightserve.sql.statements.merging import (
    PARAMS,
    RID,
    NotMergeable,
    merge,
    parameter_relation,
    refuse_undefined,
    types_over_rows,
)
from flightserve.sql.statements.parameters import (
    NARROWER,
    Parameters,
    Types,
    cast_text,
    check_texts,
    infer,
    is_text,
    names_as_written,
    patterned,
    resolve,
    tried,
    waits_for_types,
)
from flightserve.sql.statements.parser import ParsedStatement, walk
from flightserve.sql.statements.reading import read_sources
from flightserve.sql.statements.statement_cache import COLUMNS_MAX, StatementCache
from flightserve.sql.warehouse.engine_spans import run_in_span, stream_in_span
from flightserve.sql.warehouse.limits import NO_LIMITS, Limits
from flightserve.sql.warehouse.merged_results import check_sizes, repeat_result, result_too_large
from flightserve.sql.warehouse.result_cache import Scope, scope_of

# Parameter rows of one merged query: more of them save next to nothing, and its result lies in memory.
MERGED_ROWS_MAX: Final = 2048
# Results of one merged query; above that its rows run one by one.
MERGED_BYTES_MAX: Final = 256 << 20
EXPLAINED: Final = pa.schema([("explain_key", pa.string()), ("explain_value", pa.string())])

# Parameters that are tried with their own type again, where narrower ones were needed: each costs a binding.
WIDENED_MAX: Final = 8
# One row's values, by name.
Values: TypeAlias = Callable[[], Mapping[str, Any]]
Columns: TypeAlias = Sequence[pa.Array]

_SEVERAL: Final = ("SET_OPERATION_NODE", "RECURSIVE_CTE_NODE")

# What the engine says of a statement that binds with other values or types of its parameters.
UNBOUND: Final = (InvalidArgument, NotFound, Unimplemented)
# Errors that running row by row would not change.
_FINAL: Final = (Cancelled, DeadlineExceeded, PermissionDenied, TooLarge)


class Prepared:
    """A statement that is ready to run.

    `single` is its text with typed parameters, `shape` a text of the same types that is bound without values; `ran` is
    true once it was run by that. What is only needed sometimes is
    found out when it is: `result` is the schema of one execution's result, `merged` the merged form or None, `reason`
    why it has none. `shared` is true where
    every execution gives the same, so that one does for all.
    """

    def __init__(
        self, runner: Runner, statement: ParsedStatement, parameters: Parameters, single: str, shape: str = ""
    ) -> None:
        self.statement = statement
        self.parameters = parameters
        self.single = single
        self.shape = shape or single
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

    def result_for(self, columns: Columns, row: int) -> pa.Schema:
        """The result's schema, found with this row's values where it takes values to find it."""
        return self._runner.schemas(self, lambda: self.parameters.values(columns, row))[1]

    def text_for(self, values: Mapping[str, Any]) -> str:
        """What is run with these values."""
        parameters = self.parameters
        nulls = {name for name in parameters.literals - parameters.untyped if values[name] is None}
        return (nulls and cast_text(self.statement, parameters.typed(nulls))) or self.single

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
        runner = self._runner
        if runner.runs_apart(self.statement):
            return None
        return scope_of(self.statement, self.parameters.key, runner.parser, runner.engine.versions)

    @functools.cached_property
    def _decided(self) -> tuple[str | None, str]:
        return self._runner.decide(self)

    @functools.cached_property
    def tables(self) -> list[str]:
        """The tables and views that it reads, itself or by a macro."""
        return self._runner.engine.read_by(read_sources(self.statement.tree, self._runner.parser).read)


class Runner:
    """Prepares and runs statements on one engine; `narrowed` to some of its tables, on no other. Any thread."""

    # As traces call it.
    system: ClassVar[str] = "duckdb"

    def __init__(self, engine: Engine, watch: QueryWatch, narrowed: Narrowed | None = None) -> None:
        self.engine = engine
        self.watch = watch
        self.narrowed = narrowed
        self.shadow = (narrowed or engine).shadow
        self.parser = (narrowed or engine).parser
        self.types = Types(self.shadow)
        self._prepared: StatementCache[tuple[str, tuple[tuple[str, str], ...]], Prepared] = StatementCache()
        # To look what the plan says of parameters takes longer than to run many a statement.
        self._prepared_for: StatementCache[tuple[str, pa.Schema | None, tuple[object, ...]], Prepared] = (
            StatementCache()
        )
        # Not with the statements: a short text may have many columns.
        self._schemas: StatementCache[tuple[str, str], tuple[pa.Schema, pa.Schema]] = StatementCache(
            size_max=COLUMNS_MAX
        )

    # ---- preparing

    def prepare(self, sql: str, types: Mapping[str, str] | None = None) -> Prepared:
        """The statement, ready to run, remembered for the next time. `types` declares parameters' types, as the engine
        spells them. Raises what `Parser.parse` does, ConfigError for parameters of no known type, and what the engine
        says of the statement."""
        key = (sql, tuple(sorted((types or {}).items())))
        known = self._prepared.find(key)
        if known is not None:
            return known
        statement = self.parser.parse(sql)
        inferred = infer(self.shadow, statement)
        prepared = self._prepare(statement, resolve(statement, inferred, types or {}, self.types))
        self._prepared.add(key, prepared, len(sql))
        return prepared

    def prepare_for(self, sql: str, rows: pa.Schema | None, first: pa.RecordBatch | None = None) -> Prepared:
        """The statement for parameter rows of these types, `first` being one of them, for statements that only bind
        with values. Texts and untyped nulls are read as the engine reads literals. Remembered for the next time. Raises
        InvalidArgument, SchemaMismatch, and as `prepare`."""
        key = (sql, rows, () if rows is None else marks(rows))
        prepared = self._prepared_for.find(key)
        if prepared is None:
            prepared, fits = self._prepare_for(sql, rows, first)
            if fits:
                self._prepared_for.add(key, prepared, len(sql))
        return prepared

    def _prepare_for(self, sql: str, rows: pa.Schema | None, first: pa.RecordBatch | None) -> tuple[Prepared, bool]:
        """The statement, and whether that is for others of these types, too."""
        statement = self.parser.parse(sql)
        if not statement.parameters or rows is None:
            # What is not known of a parameter's type is taken for text.
            inferred = infer(self.shadow, statement)
            return self.prepare(sql, {name: inferred[name] or "VARCHAR" for name in statement.parameters}), True
        if len(rows) != len(statement.parameters):
            wanted = ", ".join(statement.parameters)
            raise SchemaMismatch(
                f"the statement has {len(statement.parameters)} parameters ({wanted}); {len(rows)} came"
            )
        by_name = set(rows.names) == set(statement.parameters)
        given = {name: rows.field(name if by_name else n) for n, name in enumerate(statement.parameters)}
        return self._fitted(self._prepare(statement, self._taken(statement, given)), first)

    def _taken(self, statement: ParsedStatement, given: Mapping[str, pa.Field]) -> Parameters:
        """The parameters for columns of these types."""
        untyped = frozenset(name for name, field in given.items() if pa.types.is_null(field.type))
        texts = frozenset(name for name, field in given.items() if is_text(field))
        inferred = infer(self.shadow, statement) if untyped or texts else {}
        any_text = tried(statement) if texts else set()
        types, columns = [], []
        for name, field in given.items():
            literal = name in untyped or name in texts
            read = None if name.lower() in any_text else inferred.get(name)
            types.append((read or "VARCHAR") if literal else self.types.engine(field))
            columns.append(pa.string() if name in texts else self.types.arrow(types[-1]))
        return Parameters(statement.parameters, tuple(types), tuple(columns), untyped | texts, untyped)

    def _prepare(self, statement: ParsedStatement, parameters: Parameters) -> Prepared:
        single = cast_text(statement, parameters.typed())
        shape = cast_text(statement, parameters.shapes())
        if single is None or shape is None:
            raise InvalidArgument("the parser does not say where the parameters stand; write them as $1, $2 or $name")
        return Prepared(self, statement, parameters, single, shape)

    def _fitted(self, prepared: Prepared, first: pa.RecordBatch | None) -> tuple[Prepared, bool]:
        """The statement as it is where it binds, else with parameters taken for narrower types where it does with them:
        as few of them as that needs. False where it binds in no way, maybe for the values' sake."""
        taken = prepared.parameters.types
        if not any(kind in NARROWER for kind in taken) or self._binds(prepared, first):
            return prepared, True
        for best in (0, -1):
            types = tuple(NARROWER.get(kind, (kind,))[best] for kind in taken)
            narrow = self._prepare(prepared.statement, prepared.parameters.taken_for(types))
            if self._binds(narrow, first):
                return self._widened(narrow, taken, first), True
        return prepared, False

    def _widened(self, prepared: Prepared, wide: tuple[str, ...], first: pa.RecordBatch | None) -> Prepared:
        """With each parameter's own type again where the statement binds with it, of the first so many."""
        for n in range(min(len(wide), WIDENED_MAX)):
            types = prepared.parameters.types
            if types[n] == wide[n]:
                continue
            wider = prepared.parameters.taken_for((*types[:n], wide[n], *types[n + 1 :]))
            trial = self._prepare(prepared.statement, wider)
            if self._binds(trial, first):
                prepared = trial
        return prepared

    def _binds(self, prepared: Prepared, first: pa.RecordBatch | None) -> bool:
        parameters = prepared.parameters
        try:
            self.schemas(prepared, None if first is None else lambda: parameters.values(parameters.columns(first), 0))
        except UNBOUND:
            return False
        return True

    def decide(self, prepared: Prepared) -> tuple[str | None, str]:
        """The merged form, or why there is none."""
        statement, parser = prepared.statement, self.parser
        try:
            if statement.explain:
                raise NotMergeable("it explains a statement")
            if self.runs_apart(statement):
                raise NotMergeable("it reads the catalogue")
            if not prepared.parameters.names:
                refuse_undefined(statement.tree, parser)
                return None, ""
            try:
                result = prepared.raw
            except UNBOUND as error:
                raise NotMergeable(f"it binds with values only: {error.message.partition(chr(10))[0]}") from error
            return merge(parser, self.shadow, statement, prepared.parameters, result), ""
        except NotMergeable as error:
            return None, str(error)

    def schemas(self, prepared: Prepared, values: Values | None = None) -> tuple[pa.Schema, pa.Schema]:
        """The result's schema as the engine gives it, and plain. It is remembered for the next time, unless the
        statement only binds with `values`. Raises InvalidArgument where they are needed and not given."""
        key = (prepared.statement.text, prepared.shape)
        known = self._schemas.find(key)
        if known is None:
            try:
                raw = self.describe(prepared)
            except UNBOUND:
                if values is None:
                    raise
                raw = self.describe(prepared, values())
                return raw, plain_schema(raw) or raw
            known = raw, plain_schema(raw) or raw
            self._schemas.add(key, known, len(raw))
        return known

    def describe(self, prepared: Prepared, values: Mapping[str, Any] | None = None) -> pa.Schema:
        """The result's schema, with the columns' names as the statement was written. The statement is bound over empty
        tables and not run, nor optimized: the optimizer computes what is constant, however long that takes."""
        statement = prepared.statement
        if statement.explain and self.narrowed is not None:
            self._bind(self._prepare(statement.explained(), prepared.parameters), values)
        schema = EXPLAINED if statement.explain else self._bind(prepared, values)
        if self.narrowed is not None:
            self.narrowed.check(statement)
        return schema

    def _bind(self, prepared: Prepared, values: Mapping[str, Any] | None) -> pa.Schema:
        statement = prepared.statement
        session = self.shadow.cursor()
        parameters = prepared.parameters
        nulls = dict.fromkeys(parameters.names)
        try:
            if values is None and patterned(statement):
                raise InvalidArgument("its columns depend on the value of a parameter in COLUMNS")
            if values is None:
                bound = [name for name in nulls if name not in parameters.literals]
                typed = session.sql(prepared.shape, params=dict.fromkeys(bound) or None)
            else:
                typed = session.sql(prepared.single, params=dict(values))
            types = typed.types
            if values is None and nulls and parameters.typed_all:
                # Of a NULL the engine says less than of values: what is taken out of a struct is of no type.
                types = types_over_rows(session, statement, parameters) or types
            kinds = ", ".join(f"CAST(NULL AS {meant(kind)}) AS c{n}" for n, kind in enumerate(types))
            schema = session.sql(f"SELECT {kinds}").to_arrow_table().schema
            names = names_as_written(session, statement.text, dict(values or nulls)) if nulls else None
            return pa.schema([f.with_name(name) for f, name in zip(schema, names or typed.columns, strict=True)])
        except Exception as error:
            raise translate(error) from error
        finally:
            session.close()

    def waits_for_types(self, prepared: Prepared) -> bool:
        """Whether nothing is known of the statement's result before its parameters have types."""
        return waits_for_types(self.shadow, prepared.statement)

    # ---- running

    def run(self, prepared: Prepared, columns: Columns, rows: int, limits: Limits = NO_LIMITS) -> pa.Table:
        """Every row's result, behind `rid`. `columns` are in the parameters' order and types. Raises TooLarge for a
        row's result that is over the limit."""
        return run_in_span(self, prepared.statement, lambda: self._run(prepared, columns, rows, limits))

    def _run(self, prepared: Prepared, columns: Columns, rows: int, limits: Limits) -> pa.Table:
        if prepared.shared and rows > 1:
            return repeat_result(self.one(prepared, columns, 0, limits), rows)
        parts: list[pa.Table] = []
        for start in range(0, rows, MERGED_ROWS_MAX):
            some = range(start, min(rows, start + MERGED_ROWS_MAX))
            table = self._merged_or_none(prepared, columns, some, limits)
            parts.extend([table] if table is not None else self._one_by_one(prepared, columns, some, limits))
        if parts:
            try:
                return pa.concat_tables(parts)
            except pa.ArrowInvalid as error:
                raise InvalidArgument(OTHER_TYPES) from error
        return pa.schema([pa.field(RID, pa.int64()), *prepared.result]).empty_table()

    def stream(
        self, prepared: Prepared, columns: Columns, rows: int, limits: Limits = NO_LIMITS
    ) -> Iterator[pa.RecordBatch]:
        """The rows' results one after another, without `rid`; the first batch has the schema even where it has no
        rows."""
        return stream_in_span(self, prepared.statement, self._stream(prepared, columns, rows, limits))

    def _stream(self, prepared: Prepared, columns: Columns, rows: int, limits: Limits) -> Iterator[pa.RecordBatch]:
        if rows == 1 or not prepared.parameters.names:
            stream = self._open_stream(prepared, columns, 0, limits)
            # Without parameters it runs as it was written, its columns have their names, and nothing needs to be known
            # before.
            named = stream.rename(self._result_of(stream, prepared, columns)) if columns else stream
            for batch in named:
                if stream.last:
                    limits.ending()
                yield batch
            return
        check_texts(self.shadow, prepared.parameters, columns)
        result = prepared.result_for(columns, 0)
        yield pa.RecordBatch.from_arrays([pa.nulls(0, kind) for kind in result.types], schema=result)
        for start in range(0, rows, MERGED_ROWS_MAX):
            some = range(start, min(rows, start + MERGED_ROWS_MAX))
            table = self._merged_or_none(prepared, columns, some, limits)
            if table is not None:
                yield from table.remove_column(0).to_batches()
                continue
            for row in some:
                stream = self._open_stream(prepared, columns, row, limits)
                yield from stream.rename(result)

    def _result_of(self, stream: Batches, prepared: Prepared, columns: Columns) -> pa.Schema:
        """The schema of this one execution's result, which may depend on its values: `COLUMNS(?)`."""
        result = prepared.result_for(columns, 0)
        if conforms(stream.schema, result):
            return result
        raw = self.describe(prepared, prepared.parameters.values(columns, 0))
        return plain_schema(raw) or raw

    def _merged_or_none(self, prepared: Prepared, columns: Columns, rows: range, limits: Limits) -> pa.Table | None:
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

    def merged(self, prepared: Prepared, columns: Columns, rows: range, limits: Limits = NO_LIMITS) -> pa.Table | None:
        """The rows' results by one query; None where they are too large for that."""
        if prepared.merged is None:
            raise InvalidArgument(f"the statement is not merged: {prepared.reason}")
        some = [column.slice(rows.start, len(rows)) for column in columns]
        relation = parameter_relation(some, rows.start, rows.stop)
        stream = ResultStream(
            self.engine,
            self.watch,
            prepared.merged,
            deadline_ns=limits.deadline_ns,
            cancelled=limits.cancelled,
            rows=(PARAMS, relation),
        )
        table = stream.read_all(min(MERGED_BYTES_MAX, limits.result_bytes_max * len(rows)))
        if table is None:
            return None
        check_sizes(table, rows, limits.result_bytes_max)
        return table.rename_columns([RID, *prepared.result.names])

    def one(self, prepared: Prepared, columns: Columns, row: int, limits: Limits = NO_LIMITS) -> pa.Table:
        """One row's result. Raises TooLarge where it is over the limit; what is left of it is not run then."""
        table = self._open_stream(prepared, columns, row, limits).read_all(limits.result_bytes_max)
        if table is None:
            raise result_too_large(limits.result_bytes_max)
        try:
            return conform(table, prepared.result_for(columns, row))
        except (pa.ArrowException, ValueError) as error:
            raise InvalidArgument(OTHER_TYPES) from error

    def _one_by_one(self, prepared: Prepared, columns: Columns, rows: range, limits: Limits) -> Iterator[pa.Table]:
        for row in rows:
            table = self.one(prepared, columns, row, limits)
            yield table.add_column(0, pa.field(RID, pa.int64()), pa.repeat(pa.scalar(row, pa.int64()), table.num_rows))

    def runs_apart(self, statement: ParsedStatement) -> bool:
        """Whether it asks for the catalogue as some see it."""
        return self.narrowed is not None and self.narrowed.is_of_catalogue(statement)

    def _place(self, prepared: Prepared, values: Mapping[str, Any]) -> QuerySessions:
        """Where the statement runs. Raises what it is told over the tables that its caller sees: only what binds there
        comes to where there are others."""
        if self.narrowed is None:
            return self.engine
        self.schemas(prepared, lambda: values)
        return self.narrowed.catalogue if self.runs_apart(prepared.statement) else self.engine

    def _open_stream(self, prepared: Prepared, columns: Columns, row: int, limits: Limits) -> Batches:
        # Most texts without parameters run once, and a session for each would push out others.
        keeps_bound = prepared.ran and not prepared.parameters.names
        prepared.ran = True
        values = prepared.parameters.values(columns, row) if prepared.parameters.names else {}
        stream = PROFILES.get(prepared.statement.explain, ResultStream)
        return stream(
            self._place(prepared, values),
            self.watch,
            prepared.text_for(values) if values else prepared.single,
            values,
            deadline_ns=limits.deadline_ns,
            cancelled=limits.cancelled,
            keeps_bound=keeps_bound,
            looks_ahead=prepared.one_source,
        )
