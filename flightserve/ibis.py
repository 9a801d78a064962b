"""A backend for ibis: `ibis.flightserve.connect("grpc://host:8815")`, `ibis.connect("flightserve://host:8815")`.

Expressions become DuckDB's SQL, which ADBC's Flight SQL driver brings to a warehouse; results come back as Arrow.
Tables are read-only, so nothing is created. What is in memory (`ibis.memtable`) is written into the query, as VALUES.

ibis finds it by the entry point `ibis.backends` of this package (extra `flightserve[ibis]`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Final, NoReturn
from urllib.parse import ParseResult, unquote

import adbc_driver_flightsql.dbapi as adbc
import adbc_driver_manager
import ibis.common.exceptions as exc
import ibis.expr.datatypes as dt
import ibis.expr.operations as ops
import ibis.expr.schema as sch
import ibis.expr.types as ir
import pyarrow as pa
import sqlglot as sg
import sqlglot.expressions as sge
from adbc_driver_flightsql import ConnectionOptions, DatabaseOptions
from ibis.backends import HasCurrentCatalog, HasCurrentDatabase, NoExampleLoader
from ibis.backends.sql import SQLBackend
from ibis.backends.sql.compilers.duckdb import DuckDBCompiler
from ibis.formats.pandas import PandasData

PORT: Final = 8815
# Of frames and lists that are written into a query, all of which is bounded by the server.
MEMORY_ROWS_MAX: Final = 10_000
_CATALOG: Final = ConnectionOptions.OPTION_SESSION_OPTION_PREFIX.value + "catalog"
# The session that has it is known by its cookie, where nobody logs in.
_COOKIES: Final = {DatabaseOptions.WITH_COOKIE_MIDDLEWARE.value: "true"}
_READ_ONLY: Final = "the tables of a flightserve warehouse are read-only"


class Compiler(DuckDBCompiler):
    """DuckDB's SQL, with what is in memory written out."""

    __slots__ = ()

    def visit_InMemoryTable(self, op: Any, *, name: str, schema: sch.Schema, data: Any) -> sge.Expression:
        """A query of the rows. Raises UnsupportedOperationError for too many."""
        table = data.to_pyarrow(schema)
        if table.num_rows > MEMORY_ROWS_MAX:
            raise exc.UnsupportedOperationError(
                f"{table.num_rows} rows in memory; at most {MEMORY_ROWS_MAX} are written into a query"
            )
        rows = table.to_pylist() or [dict.fromkeys(schema.names)]
        columns = [sg.to_identifier(column, quoted=True) for column in schema.names]
        values = sge.Values(
            expressions=[
                sge.Tuple(expressions=[self._literal(row[n], schema[n]) for n in schema.names]) for row in rows
            ],
            alias=sge.TableAlias(this=sg.to_identifier(name, quoted=True), columns=columns),
        )
        query = sg.select(*columns).from_(values)
        if not table.num_rows:
            query = query.where(sge.false())
        named: sge.Expression = query.subquery(sg.to_identifier(name, quoted=True))
        return named

    def _literal(self, value: Any, dtype: dt.DataType) -> sge.Expression:
        literal: sge.Expression = self.visit_Literal(ops.Literal(value, dtype), value=value, dtype=dtype)
        typed: sge.Expression = self.cast(literal, dtype)
        return typed


class Backend(SQLBackend, HasCurrentCatalog, HasCurrentDatabase, NoExampleLoader):
    """A warehouse, or several: `catalog` names the one that tables without a catalog are of."""

    name = "flightserve"
    compiler = Compiler()
    supports_temporary_tables = False

    # ---- connecting

    def do_connect(
        self,
        uri: str = f"grpc://127.0.0.1:{PORT}",
        *,
        catalog: str = "",
        user: str = "",
        password: str = "",
        **db_kwargs: str,
    ) -> None:
        """`uri` is what flightserve says at its start, `grpc+tls://...` where it encrypts; `db_kwargs` are options of
        ADBC's driver."""
        named = {"username": user, "password": password} if user else {}
        options = {_CATALOG: catalog} if catalog else None
        self.con = adbc.connect(uri, db_kwargs={**_COOKIES, **named, **db_kwargs}, conn_kwargs=options, autocommit=True)

    def _from_url(self, url: ParseResult, **kwargs: Any) -> Any:
        """`flightserve://[user:password@]host[:port][/catalog][?tls=true]`."""
        scheme = "grpc+tls" if str(kwargs.pop("tls", "")).lower() in ("true", "1") else "grpc"
        host = f"[{url.hostname}]" if url.hostname and ":" in url.hostname else url.hostname or "127.0.0.1"
        given = {
            "catalog": unquote(url.path.strip("/")),
            "user": unquote(url.username or ""),
            "password": unquote(url.password or ""),
        }
        return self.connect(f"{scheme}://{host}:{url.port or PORT}", **{**given, **kwargs})

    def disconnect(self) -> None:
        """Close the connection."""
        self.con.close()

    @property
    def version(self) -> str:
        """The engine's."""
        return str(self.con.adbc_get_info()["vendor_version"])

    # ---- what there is

    @property
    def current_catalog(self) -> str:
        """The warehouse in use."""
        return str(self._value("SELECT current_catalog()"))

    @property
    def current_database(self) -> str:
        """The schema in use."""
        return str(self._value("SELECT current_schema()"))

    def list_tables(self, *, like: str | None = None, database: tuple[str, str] | str | None = None) -> list[str]:
        """The tables' names, of the catalog in use or of `database`, which is a schema, or a catalog and a schema."""
        place = self._to_sqlglot_table(database)
        catalog = place.catalog or self.current_catalog
        query = (
            "SELECT table_name FROM information_schema.tables WHERE (table_catalog, table_schema) = (?, ?) ORDER BY 1"
        )
        with self._safe_raw_sql(query, parameters=(catalog, place.db or "main")) as cursor:
            names = [name for (name,) in cursor.fetchall()]
        return list(self._filter_with_like(names, like))

    def get_schema(self, name: str, *, catalog: str | None = None, database: str | None = None) -> sch.Schema:
        """A table's columns. Raises TableNotFound."""
        place = {"catalog_filter": catalog or self.current_catalog, "db_schema_filter": database or "main"}
        try:
            found = self.con.adbc_get_table_schema(name, **place)
        except adbc_driver_manager.ProgrammingError as error:
            raise exc.TableNotFound(name) from error
        return sch.Schema.from_pyarrow(found)

    def _get_schema_using_query(self, query: str) -> sch.Schema:
        with self.con.cursor() as cursor:
            return sch.Schema.from_pyarrow(cursor.adbc_execute_schema(query))

    # ---- running

    @contextlib.contextmanager
    def _safe_raw_sql(self, query: str | sge.Expression, **kwargs: Any) -> Iterator[Any]:
        with self.con.cursor() as cursor:
            cursor.execute(query if isinstance(query, str) else query.sql(self.dialect), **kwargs)
            yield cursor

    def raw_sql(self, query: str | sge.Expression, **kwargs: Any) -> Any:
        """A cursor of ADBC that ran the statement; close it."""
        cursor = self.con.cursor()
        cursor.execute(query if isinstance(query, str) else query.sql(self.dialect), **kwargs)
        return cursor

    def _value(self, query: str) -> Any:
        with self._safe_raw_sql(query) as cursor:
            return cursor.fetchone()[0]

    def to_pyarrow_batches(
        self,
        expr: ir.Expr,
        /,
        *,
        params: Mapping[ir.Scalar, Any] | None = None,
        limit: int | str | None = None,
        chunk_size: int = 1_000_000,
        **_: Any,
    ) -> pa.RecordBatchReader:
        """The rows as the server sends them, in batches of up to `chunk_size`."""
        self._run_pre_execute_hooks(expr)
        table = expr.as_table()
        schema = table.schema().to_pyarrow()
        query = self.compile(table, params=params, limit=limit)

        def read() -> Iterator[pa.RecordBatch]:
            with self._safe_raw_sql(query) as cursor:
                for batch in cursor.fetch_record_batch():
                    whole = pa.Table.from_batches([batch]).rename_columns(schema.names).cast(schema)
                    yield from whole.to_batches(max_chunksize=chunk_size)

        return pa.RecordBatchReader.from_batches(schema, read())

    def _fetch_from_cursor(self, cursor: Any, schema: sch.Schema) -> Any:
        """All rows as a pandas frame."""
        table = cursor.fetch_arrow_table().rename_columns(schema.names).cast(schema.to_pyarrow())
        return PandasData.convert_table(table.to_pandas(), schema)

    # ---- what is in memory, and what cannot be

    def _register_in_memory_table(self, op: ops.InMemoryTable) -> None:
        """It is written into each query."""

    def _make_memtable_finalizer(self, name: str) -> None:
        """There is nothing to end."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise exc.UnsupportedOperationError(_READ_ONLY)

    create_table = create_view = drop_table = drop_view = insert = truncate_table = rename_table = upsert = _refuse
