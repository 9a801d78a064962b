"""DuckDB's own files, opened read-only. Each table and view of one is a table."""

from __future__ import annotations

import functools
import os
import re
import threading
from typing import Final

import duckdb

from flightserve.sql.engine.errors import explain
from flightserve.sql.sources.problems import BadFile
from flightserve.sql.sources.spelling import quoted, quoted_name

_DATABASES_MAX: Final = 256
_LISTED: Final = "__fs_listed"
_lock: Final = threading.Lock()
_IN_USE: Final = "Unique file handle conflict"
_HELD: Final = re.compile(r"Conflicting lock is held in .*?\(PID (\d+)\)")
_TABLES: Final = (
    "SELECT schema_name, table_name, 'table' FROM duckdb_tables() WHERE database_name = '{0}' UNION ALL "
    "SELECT schema_name, view_name, 'view' FROM duckdb_views() WHERE database_name = '{0}' AND NOT internal "
    "ORDER BY ALL"
)


@functools.lru_cache(maxsize=_DATABASES_MAX)
def tables_in(file: str, stamp: tuple[int, ...]) -> list[tuple[str, ...]]:
    """Schema, name and "table" or "view" of all that is in the file, whose `stamp` this is. Raises BadFile."""
    with _lock, duckdb.connect(config={"autoinstall_known_extensions": False, "threads": 1}) as connection:
        attach(connection, file, _LISTED)
        return connection.execute(_TABLES.format(_LISTED)).fetchall()


def attach(connection: duckdb.DuckDBPyConnection, file: str, name: str) -> None:
    """Open the file under that name. Raises BadFile."""
    try:
        connection.execute(f"ATTACH {quoted(file)} AS {quoted_name(name)} (READ_ONLY, TYPE duckdb)")
    except duckdb.Error as error:
        raise BadFile(file, _why(error, file)) from error


def write_ahead(file: str) -> str:
    """What was written to the file and is not in it yet lies there."""
    return f"{file}.wal"


def _why(error: duckdb.Error, file: str) -> str:
    text = str(error)
    held = _HELD.search(text)
    if held:
        return f"is open for writing in another process ({held[1]}); close it there, or serve a copy"
    if _IN_USE in text:
        return "is open for writing in this program; close that connection first, or serve a copy"
    reason = explain(error, (file, os.path.realpath(file)))
    return f"cannot be opened by this engine (DuckDB {duckdb.__version__}): {reason}"
