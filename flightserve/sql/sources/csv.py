"""Types of CSV columns, which the engine guesses by the first some 20,000 rows.

What comes later is made to fit: 1.5 in a column that looked like whole numbers is 2, a time in one that looked like
days loses its hour, 007 is 7; a text that does not fit at all is an error. So the rows are looked at as they are
written, and where some are not of the type that was guessed, the engine guesses once more by all rows. What no type
fits then is text: nothing of what it says is lost so.

How a file is written (what parts its values, how they are quoted) is guessed by the first rows as well. Where a later
row does not fit that, the engine guesses by all rows.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import duckdb

from flightserve.sql.sources import Source
from flightserve.sql.sources.files import rows_max
from flightserve.sql.sources.spelling import quoted, quoted_name

log = logging.getLogger(__name__)

_NOT_CONVERTED: Final = re.compile(r'Error when converting column "(.*)"\. (Could not convert string ".*?")', re.DOTALL)
_VALUE_CHARACTERS_MAX: Final = 80
_TEXT: Final = "VARCHAR"
_ALL_ROWS: Final = "sample_size="
# How the values of a type are written, that the engine would take for it if it had seen them first.
_WHOLE: Final = r"-?(0|[1-9][0-9]*)"
_FRACTION: Final = r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|(?i:[-+]?(inf|infinity|nan))"
_WRITTEN: Final = {
    "BIGINT": _WHOLE,
    "HUGEINT": _WHOLE,
    "DOUBLE": _FRACTION,
    "BOOLEAN": "(?i:true|false|t|f)",
    # Only how they are not written: the engine knows many ways.
    "DATE": "[^:]*",
    "TIME": "[^/-]*",
    # With a zone it is another type.
    "TIMESTAMP": r".*:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?( ?UTC)?|[^:]*",
}


def open_csv(connection: duckdb.DuckDBPyConnection, source: Source, create: str, all_fit: bool) -> None:
    """Create the table or view. `all_fit`: what does not fit its type is found out now, because nothing is converted
    yet. Raises what the engine says of files that cannot be read."""
    try:
        _open(connection, source, create, all_fit)
    except duckdb.InvalidInputException as first:
        # Of a row, not of a value.
        if isinstance(first, duckdb.ConversionException):
            raise
        try:
            _open(connection, _by_all_rows(source), create, all_fit)
        except duckdb.Error:
            raise first from None
        log.warning("table %s: how its files are written shows in later rows only", source.name)


def _open(connection: duckdb.DuckDBPyConnection, source: Source, create: str, all_fit: bool) -> None:
    types = types_of(connection, source)
    if all_fit:
        types = text_columns(connection, source, types)
    try:
        connection.execute(create + typed(source, types))
    except duckdb.ConversionException:
        connection.execute(create + typed(source, text_columns(connection, source, types)))


def _by_all_rows(source: Source) -> Source:
    return replace(source, options=", ".join(filter(None, [source.options, f"{_ALL_ROWS}{rows_max(source.files)}"])))


def typed(source: Source, types: Mapping[str, str]) -> str:
    """The scan, with the types of columns that are not left to the engine."""
    spelled = ", ".join(f"{quoted(name)}: {quoted(kind)}" for name, kind in types.items())
    return source.scan(f"types={{{spelled}}}" if spelled else "")


def types_of(connection: duckdb.DuckDBPyConnection, source: Source) -> dict[str, str]:
    """The columns that are not of the type that the engine would guess. Raises what the engine says of files that
    cannot be read."""
    guessed = _describe_columns(connection, source)
    types: dict[str, str] = {}
    misfits = _misfits(connection, source, guessed)
    if misfits:
        by_all = _describe_columns(connection, source if _ALL_ROWS in source.options else _by_all_rows(source))
        types = {name: by_all[name] for name in misfits}
        for name in _misfits(connection, source, types):
            types[name] = _TEXT
        for name, value in misfits.items():
            log.warning("table %s: column %s is %s: it has %r", source.name, name, types[name], value)
    return types


def text_columns(connection: duckdb.DuckDBPyConnection, source: Source, types: dict[str, str]) -> dict[str, str]:
    """The types, with text for columns of which some value is not of theirs. Raises as `types_of`."""
    types = dict(types)
    while True:
        try:
            connection.execute(f"SELECT count(COLUMNS(*)) FROM {typed(source, types)}").fetchall()
            return types
        except duckdb.ConversionException as error:
            found = _NOT_CONVERTED.search(str(error))
            if found is None or types.get(found[1]) == _TEXT:
                raise
            log.warning("table %s: column %s is text: %s", source.name, found[1], found[2][:_VALUE_CHARACTERS_MAX])
            types[found[1]] = _TEXT


def _describe_columns(connection: duckdb.DuckDBPyConnection, source: Source) -> dict[str, str]:
    """Types by column, without those that folders hold."""
    rows = connection.execute(f"DESCRIBE FROM {source.scan()}").fetchall()
    keys = set(source.keys())
    return {name: kind for name, kind, *_ in rows if name not in keys}


def _misfits(connection: duckdb.DuckDBPyConnection, source: Source, types: dict[str, str]) -> dict[str, str]:
    """Columns that have values which are not written as their type's, with one of these."""
    written = _written(source.options)
    judged = {name: written[kind] for name, kind in types.items() if kind in written}
    if not judged:
        return {}
    found = ", ".join(
        f"any_value({name}) FILTER (NOT regexp_full_match(trim({name}), {quoted(written)}))"
        for name, written in ((quoted_name(name), written) for name, written in judged.items())
    )
    # Read as text, and with no guess of what the folders hold either.
    texts = source.scan("all_varchar=true")
    (row,) = connection.execute(f"SELECT {found} FROM {texts}").fetchall()
    values = zip(judged, row, strict=True)
    return {name: str(value)[:_VALUE_CHARACTERS_MAX] for name, value in values if value is not None}


def _written(options: str) -> Mapping[str, str]:
    """How values are written, where the options say how numbers are."""
    if "thousands=" in options:
        return {kind: how for kind, how in _WRITTEN.items() if kind not in ("BIGINT", "HUGEINT", "DOUBLE")}
    if "decimal_separator=','" in options:
        return {**_WRITTEN, "DOUBLE": _FRACTION.replace(r"\.", ",")}
    return _WRITTEN
