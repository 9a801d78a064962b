"""Opens a warehouse's tables in an engine, each in the way of its kind.

| kind | memory | view |
|---|---|---|
| Parquet, CSV | copied | read by each query |
| JSON | copied | read by each query; more than a few files are copied |
| Arrow IPC, data, datasets, Delta | copied | read by each query |
| DuckDB file: tables | copied | read by each query |
| DuckDB file: views; workbooks, Iceberg | copied | copied |

DuckDB files are attached while external access is on and read when it is off: a view in one may name any file.
What cannot be opened is put aside as the `Leniency` says: a file, where the rest of its table can be, or the table.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from flightserve.sql.engine import growth, loading
from flightserve.sql.engine.errors import explain
from flightserve.sql.sources import Source
from flightserve.sql.sources.csv import open_csv
from flightserve.sql.sources.databases import attach
from flightserve.sql.sources.files import check_packed
from flightserve.sql.sources.json_files import open_json
from flightserve.sql.sources.problems import BadFile, Leniency, SourceError
from flightserve.sql.sources.spelling import quoted_name
from flightserve.sql.statements.policy import RESERVED_PREFIX

_DATABASE: Final = f"{RESERVED_PREFIX}file_"
_PROBE: Final = f"{RESERVED_PREFIX}probe"


class TableOpener:
    """Opens tables on one connection, with `kind` TABLE (copied) or VIEW (read by each query)."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, kind: str, leniency: Leniency) -> None:
        self._connection = connection
        self._kind = kind
        self._leniency = leniency
        # What views are over: it has to live as long as they do.
        self.data: dict[str, Any] = {}
        self._databases: dict[str, str] = {}

    def open(self, source: Source) -> Source | None:
        """Open the table; what of it could be, None where nothing could."""
        try:
            with loading.told(self._connection, source) if self._kind == "TABLE" else contextlib.nullcontext():
                self._open(source)
            return source
        except (duckdb.Error, BadFile, SourceError, pa.ArrowException) as error:
            return self._without_bad_files(source, error)

    def attach(self, source: Source) -> bool:
        """Open the DuckDB file that the table is in, unless it is; False where that cannot be."""
        file = source.files[0]
        if file in self._databases:
            return True
        name = f"{_DATABASE}{len(self._databases)}"
        try:
            attach(self._connection, file, name)
        except BadFile as error:
            self._leniency.add(source.problem(error.why, file), error)
            return False
        self._databases[file] = name
        return True

    def detach(self) -> None:
        """Leave DuckDB files to others, where all of them was copied."""
        if self._kind == "TABLE":
            for name in self._databases.values():
                self._connection.execute(f"DETACH {quoted_name(name)}")

    # ---- what cannot be opened

    def _without_bad_files(self, source: Source, error: Exception) -> Source | None:
        """The table without the files that cannot be opened by themselves either. Raises SourceError where nothing is
        to be left out."""
        bad = {}
        if not self._leniency.strict and len(source.files) > 1:
            bad = {file: why for file in source.files if (why := self._fault(source.only([file]))) is not None}
        for file, why in bad.items():
            self._leniency.add(source.problem(why, file))
        left = [file for file in source.files if file not in bad]
        if bad and left:
            return self.open(source.only(left))
        if not bad:
            self._leniency.add(_problem(source, error), error)
        return None

    def _fault(self, source: Source) -> str | None:
        """What is wrong with the table of this one file; None where nothing is."""
        try:
            self._open(replace(source, name=_PROBE))
        except (duckdb.Error, BadFile, SourceError, pa.ArrowException) as error:
            return _why(source, error)
        finally:
            self.data.pop(_PROBE, None)
            for kind in ("TABLE", "VIEW"):
                self._drop(kind)
        return None

    def _drop(self, kind: str) -> None:
        found = self._connection.execute(
            f"SELECT 1 FROM duckdb_{kind.lower()}s() WHERE {kind.lower()}_name = '{_PROBE}'"
        ).fetchone()
        if found:
            self._connection.execute(f"DROP {kind} {_PROBE}")

    # ---- by kind

    def _open(self, source: Source) -> None:
        name = quoted_name(source.name)
        create = f"CREATE {self._kind} {name} AS FROM "
        ways: dict[str, Callable[[], object]] = {
            "csv": lambda: open_csv(self._connection, source, create, all_fit=self._kind == "VIEW"),
            "json": lambda: open_json(self._connection, source, self._kind),
            "parquet": lambda: self._connection.execute(create + source.scan()),
            "duckdb": functools.partial(self._open_attached, source, name),
        }
        for file in source.files:
            check_packed(file)
        with growth.bounded(self._connection, source):
            ways.get(source.format, functools.partial(self._open_arrow, source, name))()

    def _open_attached(self, source: Source, name: str) -> None:
        schema, table, what = source.part
        kind = self._kind if what == "table" else "TABLE"
        place = ".".join(map(quoted_name, (self._databases[source.files[0]], schema, table)))
        self._connection.execute(f"CREATE {kind} {name} AS FROM {place}")

    def _open_arrow(self, source: Source, name: str) -> None:
        data = source.read_arrow()
        if self._kind == "VIEW" and source.format not in ("xlsx", "iceberg"):
            # A registered table would be seen by one connection only, and be in no catalog.
            self._connection.from_arrow(data).create_view(source.name)
            self.data[source.name] = data
            return
        given = f"{RESERVED_PREFIX}source"
        self._connection.register(given, data.scanner() if isinstance(data, ds.Dataset) else data)
        try:
            self._connection.execute(f"CREATE TABLE {name} AS FROM {given}")
        finally:
            self._connection.unregister(given)


def _problem(source: Source, error: Exception) -> Any:
    if isinstance(error, SourceError):
        return error.problem
    file = source.files[0] if len(source.files) == 1 else ""
    return source.problem(_why(source, error), file)


def _why(source: Source, error: Exception) -> str:
    if isinstance(error, SourceError):
        return error.problem.why
    if isinstance(error, BadFile):
        return error.why
    files = [*source.patterns(), *source.files] if source.scanned else source.files
    inner = f"has a {source.part[-1]} {'.'.join(source.part[:-1])} that " if source.format == "duckdb" else ""
    return f"{inner}cannot be opened: {explain(error, files)}"
