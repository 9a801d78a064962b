"""What runs in each replica of a warehouse: its queries by name, and the methods that the SQL frontends call
(`contracts.warehouse`)."""

from __future__ import annotations

import functools
import hashlib
import logging
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import pyarrow as pa

from flightserve.contracts.access import OPEN, Access
from flightserve.contracts.context import context
from flightserve.contracts.hosting import Host
from flightserve.contracts.refreshing import Refreshed, RefreshOutcome
from flightserve.contracts.warehouse import (
    EXECUTED_BYTES_MAX,
    KIND,
    METHODS,
    REFRESHED,
    Description,
    TableInfo,
    read_execution,
    read_request,
    tables_batch,
)
from flightserve.core.access.rights import Rights
from flightserve.declare import Bound
from flightserve.errors import InvalidArgument, PermissionDenied, SchemaMismatch, Unavailable
from flightserve.fabric.conversion.unions import untagged
from flightserve.fabric.memory.stored import Fresh, Stored
from flightserve.sql.engine import EngineOptions
from flightserve.sql.engine.errors import scrub
from flightserve.sql.engine.memory import MemoryWatch, bound, private_bytes
from flightserve.sql.engine.query_watch import QueryWatch, WatchedQuery
from flightserve.sql.sources import Known, describe_sources, known_columns, split
from flightserve.sql.statements.parameters import decode_rows
from flightserve.sql.statements.pivots import PivotValuesMissing
from flightserve.sql.warehouse.cached import Executions, Result, answer, one_batch
from flightserve.sql.warehouse.limits import Limits
from flightserve.sql.warehouse.named import NamedQuery, describe_named, prepare_named, schema_message
from flightserve.sql.warehouse.pivot_values import fill
from flightserve.sql.warehouse.queries import UNBOUND, Prepared, Runner
from flightserve.sql.warehouse.refresh import Generation, Generations, Refresher, find
from flightserve.sql.warehouse.result_cache import Key, ResultCache, Scope, rows_digest
from flightserve.sql.warehouse.tags import Tags
from flightserve.types import DeploymentSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Upkeep:
    """How often a replica looks whether its tables' files changed, in seconds; 0: when it is told to. How many bytes of
    results it keeps."""

    refresh_s: float = 0.0
    cache_bytes: int = 0


class WarehouseReplica:
    """What runs in each replica. Methods of named queries are made when they are asked for by name."""

    flightserve_named = "served_as"
    flightserve_counted = "replicas"

    def __init__(
        self,
        tables: Mapping[str, Any],
        queries: tuple[NamedQuery, ...],
        options: EngineOptions,
        upkeep: Upkeep = Upkeep(),
        known: Known | None = None,
        *,
        served_as: str = "",
        replicas: int = 1,
    ) -> None:
        """`known` are the tables as they were when the app was planned; `served_as` is the deployment's name,
        and the catalog's that its tables are in; `replicas` is how many share what may be spilled."""
        options = replace(options, catalog=served_as, engines=replicas)
        # What there is before the engine, and tables that came as Arrow data, is none of the engine's.
        self._base_bytes = private_bytes()
        self._options = options
        self._watch = QueryWatch()
        self._tables = Generations(
            tables,
            options,
            self._watch,
            lambda runner: {query.name: prepare_named(runner, query) for query in queries},
            known,
        )
        self._upkeep = upkeep
        self._cache: ResultCache | None = None
        self._tags = Tags()
        self._access: Access = OPEN
        self._replica = secrets.token_hex(8)
        self._refresher = Refresher(self._tables.look, upkeep.refresh_s)
        if upkeep.refresh_s:
            self._refresher.start()

    @classmethod
    def flightserve_spec(cls, bound: Bound[Any], version: str) -> DeploymentSpec:
        """The deployment as the tiers know it. The tables are opened here for their columns; nothing is copied. Raises
        ConfigError for files that cannot be served and queries that do not fit them."""
        tables, queries, options, upkeep, known = bound.args
        sources = find(tables, options, None).sources
        known.clear()
        known.update(known_columns(sources))
        for given, tables_of_it in split(sources).items():
            log.warning("the files of %s are of several tables: %s", given, describe_sources(tables_of_it))
        replica = cls(tables, queries, replace(options, load="view"), known=known, served_as=bound.name)
        try:
            generation = replica._tables.current
            for problem in generation.problems:
                log.error("left out, all else is served: %s", problem.told)
            methods = (*METHODS, *(describe_named(query, generation.named[query.name]) for query in queries))
            stamp = repr((queries, options, upkeep, bound.settings, methods, sorted(generation.versions.items())))
        finally:
            replica.close()
        version = version or hashlib.blake2b(stamp.encode(), digest_size=8).hexdigest()
        # Not by their names: who sees the deployment may see some tables only.
        said = f"SQL over {len(generation.versions)} table{'s' * (len(generation.versions) != 1)}."
        return DeploymentSpec(bound.name, version, bound.settings, methods, said, kind=KIND)

    def close(self) -> None:
        """End the engine."""
        self._refresher.stop()
        self._watch.stop()
        if self._cache is not None:
            self._cache.clear()
        self._tables.close()

    # ---- the process it is in

    def flightserve_hosted(self, host: Host) -> None:
        """Results are kept in its shared memory, statements judged by its access. In a process of its own its memory is
        watched over."""
        self._access = host.access
        if self._upkeep.cache_bytes:
            cache = self._cache = ResultCache(host.pool, self._upkeep.cache_bytes)
            self._tables.on_switch.append(lambda now: cache.retain(lambda scope: set(scope.tables) <= now.version_set))
        if not host.own_process:
            return
        memory: MemoryWatch[WatchedQuery] = MemoryWatch(functools.partial(host.broken, at_once=True))
        each = self._tables.current.engine.memory_bytes

        def allow(engines: int) -> None:
            memory.allow(bound(self._base_bytes, each, engines))

        allow(1)
        self._tables.on_change.append(allow)
        self._watch.memory = memory

    def flightserve_stopped(self) -> None:
        """The process ends: nothing that was spilled stays behind."""
        self.close()

    def flightserve_statistics(self) -> dict[str, float]:
        """What `/metrics` shows of it."""
        tables, memory = self._tables, self._watch.memory
        return {
            "table_changes": float(tables.changes),
            "tables_out_of_date": float(bool(tables.problem)),
            "files_left_out": float(len(tables.current.problems)),
            "queries_out_of_memory": 0.0 if memory is None else float(memory.interrupted),
            **({} if self._cache is None else self._cache.statistics()),
        }

    def flightserve_note(self) -> str:
        """What it does not serve as it should (`contracts.hosting`)."""
        return self._tables.note

    # ---- who asks

    @property
    def _rights(self) -> Rights:
        """Of those that the micro-batch is for: what all of them may."""
        return self._access.rights(context().caller)

    def _runner(self, tables: Generation) -> Runner:
        """Who runs their statements. Raises PermissionDenied for those who may query nothing."""
        return tables.visible.runner(self._rights)

    def _prepared(
        self, runner: Runner, sql: str, rows: pa.RecordBatch | None, runs: bool = True
    ) -> tuple[Prepared, list[pa.Array]]:
        """`_prepare_for`, and who keeps books is told what it reads."""
        found = prepared, _ = _prepare_for(runner, sql, rows, runs)
        _tell_tables(prepared)
        return found

    # ---- methods

    def query(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch | Stored | Fresh]:
        """Run SQL: rows `sql` and `parameters`; streams the result."""
        return self._query(batch, None)

    def query_tagged(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch | Stored | Fresh]:
        """Run SQL whose result is still what `tag` stands for, which `describe` told; otherwise it is Unavailable."""
        return self._query(batch, batch.column("tag")[0].as_py() if batch.num_rows else "")

    def _query(self, batch: pa.RecordBatch, tag: str | None) -> Iterator[pa.RecordBatch | Stored | Fresh]:
        sql, rows = _read(batch)
        with self._tables.using() as tables:
            runner = self._runner(tables)
            prepared, columns = self._prepared(runner, sql, rows)
            cache, scope = self._cache_for(prepared)
            count = 1 if rows is None else rows.num_rows
            if tag is not None and tag != self._tags.tag_of(tables, prepared, columns, count):
                raise Unavailable("the tables are others than they were when the statement was described; try again")
            if cache is None or scope is None:
                yield from runner.stream(prepared, columns, count, _limits())
            else:
                key = (scope, (count, rows_digest(columns)))
                yield from _keep_stream(cache, key, lambda: runner.stream(prepared, columns, count, _limits()))

    def execute(self, batch: pa.RecordBatch) -> Result:
        """Run SQL for each row of parameters: where they can be merged, as one query."""
        sql, rows = read_execution(batch)
        with self._tables.using() as tables:
            runner = self._runner(tables)
            prepared, columns = self._prepared(runner, sql, rows)
            if not columns:
                raise InvalidArgument("the statement has no parameters, so that nothing is merged; `query` runs it")
            executions = Executions(columns, rows.num_rows, context().rows)
            limits = replace(_limits(), result_bytes_max=EXECUTED_BYTES_MAX)
            return self._executed(runner, prepared, executions, limits, delimited=True)

    def _cache_for(self, prepared: Prepared) -> tuple[ResultCache | None, Scope | None]:
        """Where the statement's results are kept and under what, or nothing. Files that are read by each query and have
        changed, though they are not served as they are, are those of no version."""
        if self._cache is None or (self._tables.problem and self._options.load == "view"):
            return None, None
        return self._cache, prepared.scope

    def describe(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """What a statement takes and gives, and whether executions of it are merged; nothing is run but what a PIVOT
        looks its values up by. Without parameter rows, a result that depends on the parameters' types has no schema."""
        sql, rows = _read(batch)
        with self._tables.using() as tables:
            runner = self._runner(tables)
            prepared, columns = self._prepared(runner, sql, rows, runs=False)
            if rows is None and _is_open(runner, prepared):
                taken = pa.schema([(name, pa.null()) for name in prepared.parameters.names])
                return Description(b"", schema_message(taken), False, "its parameters have no types yet").batch()
            result = prepared.result_for(columns, 0) if columns and len(columns[0]) else prepared.result
            reason = prepared.reason
            tag = ""
            if rows is not None or not prepared.parameters.names:
                tag = self._tags.tag_of(tables, prepared, columns, 1 if rows is None else rows.num_rows)
            return Description(
                schema_message(result), schema_message(prepared.parameters.schema), not reason, reason, tag
            ).batch()

    def tables(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The warehouse's tables, of those that the caller may query."""
        problem = self._tables.problem
        with self._tables.using() as now:
            bad = {each.table: scrub(each.public) for each in now.problems}
            views, counts, seen = now.engine.views, now.row_counts, now.visible.tables(self._rights)
            return tables_batch(
                TableInfo(
                    name,
                    "VIEW" if name in views else "BASE TABLE",
                    schema,
                    now.versions[name],
                    problem or bad.get(name, ""),
                    counts[name],
                )
                for name, schema in sorted(now.engine.tables.items())
                if name in seen
            )

    def refresh(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Look whether the tables' files changed, and serve them as they are now; in this replica alone."""
        if not self._rights.operate:
            raise PermissionDenied(f"to refresh {self._options.catalog or 'tables'} takes a role with operate = true")
        self._refresher.now(_limits())
        return pa.record_batch([[self._replica], [self._tables.changes], [self._tables.problem]], schema=REFRESHED)

    def flightserve_refresh(self, deadline_ns: int) -> Refreshed:
        """The same, told by the control plane."""
        before = self._tables.changes
        self._refresher.now(Limits(deadline_ns))
        changes, problem = self._tables.changes, self._tables.problem
        if problem:
            outcome = RefreshOutcome.FAILED
        else:
            outcome = RefreshOutcome.UNCHANGED if changes == before else RefreshOutcome.REFRESHED
        return Refreshed(self._replica, outcome, changes, problem)

    def __getattr__(self, name: str) -> Callable[[pa.RecordBatch], Result]:
        tables = self.__dict__.get("_tables")
        if tables is None or name not in tables.current.named:
            raise AttributeError(name)
        return lambda batch: self._run(name, batch)

    def _run(self, name: str, batch: pa.RecordBatch) -> Result:
        """Every row of the batch is one execution; `rid` says which row a result belongs to."""
        with self._tables.using() as tables:
            prepared = tables.named[name]
            _tell_tables(prepared)
            columns = prepared.parameters.columns(batch) if prepared.parameters.names else []
            rows = batch.num_rows if batch.num_columns else 1
            delimited = prepared.merged is not None
            spans = context().rows if delimited else (rows,)
            return self._executed(tables.runner, prepared, Executions(columns, rows, spans), _limits(), delimited)

    def _executed(
        self, runner: Runner, prepared: Prepared, executions: Executions, limits: Limits, delimited: bool
    ) -> Result:
        """The executions' results behind `rid`, from the cache or run; of several requests where it is `delimited`."""
        cache, scope = self._cache_for(prepared)
        run = functools.partial(runner.run, prepared, limits=limits)
        if cache is None or scope is None:
            return one_batch(run(executions.columns, executions.rows))
        return answer(cache, scope, executions, run, delimited)


# What no query may be called.
OWN_METHODS: Final = frozenset(name for name in vars(WarehouseReplica) if not name.startswith("_"))


def _is_open(runner: Runner, prepared: Prepared) -> bool:
    """Whether the engine binds the statement only once its parameters have types. Raises what is wrong with it."""
    try:
        _ = prepared.raw
    except UNBOUND:
        if runner.waits_for_types(prepared):
            return True
        raise
    return False


def _read(batch: pa.RecordBatch) -> tuple[str, pa.RecordBatch | None]:
    """The statement and its parameter rows. Raises InvalidArgument."""
    sql, parameters = read_request(batch)
    return sql, decode_rows(parameters)


def _check_columns(prepared: Prepared, rows: pa.RecordBatch | None) -> list[pa.Array]:
    if rows is None:
        if prepared.parameters.names:
            names = ", ".join(prepared.parameters.names)
            raise InvalidArgument(f"the statement has parameters ({names}), and no values came")
        return []
    if not prepared.parameters.names and rows.num_columns:
        raise InvalidArgument(f"the statement has no parameters; {rows.num_columns} came")
    return prepared.parameters.columns(rows) if prepared.parameters.names else []


def _prepare_for(
    runner: Runner, sql: str, rows: pa.RecordBatch | None, runs: bool = True
) -> tuple[Prepared, list[pa.Array]]:
    """The statement for these parameter rows, and their columns; one that only is described needs none. A statement's
    parameters are no columns of the request, which are right: what is wrong with them is a wrong value (HTTP 400), and
    no SchemaMismatch (422)."""
    try:
        if rows is None:
            prepared = runner.prepare_for(sql, None)
            return prepared, _check_columns(prepared, None) if runs else []
        rows = untagged(rows)
        prepared = runner.prepare_for(sql, rows.schema, rows.slice(0, 1) if rows.num_rows else None)
        return prepared, _check_columns(prepared, rows)
    except SchemaMismatch as error:
        raise InvalidArgument(error.message) from error
    except PivotValuesMissing as missing:
        # What the tables hold may change: it is looked up each time.
        return _prepare_for(runner, fill(runner, missing.pivot, _limits()), rows, runs)


def _tell_tables(prepared: Prepared) -> None:
    tell = context().tell_tables
    if tell is not None and prepared.tables:
        tell(prepared.tables)


def _limits() -> Limits:
    current = context()
    return Limits(current.deadline, lambda: current.cancelled, current.ending)


def _keep_stream(
    cache: ResultCache, key: Key, run: Callable[[], Iterator[pa.RecordBatch]]
) -> Iterator[pa.RecordBatch | Stored | Fresh]:
    """A stream's batches, from the cache or for it."""
    kept, current = cache.stream(key), context()
    if kept is not None:
        yield from kept[:-1]
        current.ending()
        yield kept[-1]
        return
    recording = cache.record(key)
    try:
        for batch in run():
            # Where the end travels with the last batch, nothing behind it is run.
            yield recording.fresh(batch, current.last)
        recording.end()
    finally:
        recording.drop()
