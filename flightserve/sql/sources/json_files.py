"""JSON files: types by all their rows, and a few files at a time.

The engine guesses a column's type by the first rows and files, and fails at the first that does not fit. So it is told
to look at all of them, once, and each later read is given the types. It holds 32 MiB for each file that one statement
reads, however small: so files are read a few at a time, and a table of many is a copy with `load="view"`, too.

A whole number that no type of the engine's takes beside fractions would lose digits: such a column is text.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Final

import duckdb

from flightserve.sql.sources import Source
from flightserve.sql.sources.files import rows_max
from flightserve.sql.sources.spelling import quoted, quoted_name

log = logging.getLogger(__name__)

FILES_AT_ONCE: Final = 4
_TEXT: Final = "VARCHAR"
# More than a double's 53 bits, or with more digits than it has.
_LOSES: Final = r"-?[0-9]{16,}"
_EXACT: Final = 1 << 53


def open_json(connection: duckdb.DuckDBPyConnection, source: Source, kind: str) -> None:
    """Create the table, or the view where that can be read at once. Raises what the engine says of files that cannot be
    read."""
    name = quoted_name(source.name)
    pieces = list(_pieces(source))
    columns = _columns(connection, pieces)
    folders = source.keys()
    read = {column: each for column, each in columns.items() if column not in folders}
    if len(pieces) == 1:
        connection.execute(f"CREATE {kind} {name} AS FROM {_typed(source, read)}")
        return
    if kind == "VIEW":
        log.info("table %s: more than %d JSON files are copied, not read by each query", source.name, FILES_AT_ONCE)
    spelled = ", ".join(f"{quoted_name(column)} {each}" for column, each in columns.items())
    connection.execute(f"CREATE TABLE {name} ({spelled})")
    try:
        for piece in pieces:
            connection.execute(f"INSERT INTO {name} BY NAME FROM {_typed(piece, read)}")
    except BaseException:
        connection.execute(f"DROP TABLE {name}")
        raise


def _pieces(source: Source) -> Iterator[Source]:
    for first in range(0, len(source.files), FILES_AT_ONCE):
        yield source.only(source.files[first : first + FILES_AT_ONCE])


def _typed(source: Source, columns: Mapping[str, str]) -> str:
    spelled = ", ".join(f"{quoted(name)}: {quoted(kind)}" for name, kind in columns.items())
    return source.scan(f"columns={{{spelled}}}")


def _columns(connection: duckdb.DuckDBPyConnection, pieces: list[Source]) -> dict[str, str]:
    """The columns' types, such as all rows fit."""
    each = [_describe_columns(connection, piece) for piece in pieces]
    columns = each[0] if len(each) == 1 else _common(connection, each)
    doubles = [name for name, kind in columns.items() if kind == "DOUBLE"]
    for piece in pieces if doubles else []:
        for name in _losing(connection, piece, columns, doubles):
            if columns[name] != _TEXT:
                log.warning("table %s: column %s is text: it has whole numbers of many digits", piece.name, name)
                columns[name] = _TEXT
    return columns


def _describe_columns(connection: duckdb.DuckDBPyConnection, piece: Source) -> dict[str, str]:
    all_rows = f"sample_size={rows_max(piece.files)}, maximum_sample_files={FILES_AT_ONCE}"
    rows = connection.execute(f"DESCRIBE FROM {piece.scan(all_rows)}").fetchall()
    return {name: kind for name, kind, *_ in rows}


def _common(connection: duckdb.DuckDBPyConnection, each: list[dict[str, str]]) -> dict[str, str]:
    """Types that hold those of all pieces. What has no value in a piece is JSON there, and says nothing."""
    types: dict[str, dict[str, None]] = {}
    for columns in each:
        for name, kind in columns.items():
            types.setdefault(name, {})[kind] = None
    return {name: _wider(connection, list(kinds)) for name, kinds in types.items()}


def _wider(connection: duckdb.DuckDBPyConnection, kinds: list[str]) -> str:
    if len(kinds) == 1:
        return kinds[0]
    if "JSON" in kinds:
        # No value, or values of several types: as text both are read.
        return _TEXT if set(kinds) == {"JSON", _TEXT} else "JSON"
    try:
        union = " UNION ALL ".join(f"SELECT NULL::{kind} AS c" for kind in kinds)
        ((_, kind, *_),) = connection.execute(f"DESCRIBE {union}").fetchall()
        return str(kind)
    except duckdb.Error:
        return "JSON"


def _losing(
    connection: duckdb.DuckDBPyConnection, piece: Source, columns: Mapping[str, str], doubles: list[str]
) -> list[str]:
    """Columns with a whole number that a double does not hold."""
    found = ", ".join(
        f"bool_or(regexp_full_match({name}, '{_LOSES}') AND (TRY_CAST({name} AS HUGEINT) IS NULL "
        f"OR abs(TRY_CAST({name} AS HUGEINT)) > {_EXACT}))"
        for name in map(quoted_name, doubles)
    )
    folders = piece.keys()
    texts = {name: _TEXT if name in doubles else kind for name, kind in columns.items() if name not in folders}
    (row,) = connection.execute(f"SELECT {found} FROM {_typed(piece, texts)}").fetchall()
    return [name for name, loses in zip(doubles, row, strict=True) if loses]
