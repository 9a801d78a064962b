"""Types of CSV columns, which the engine guesses by the first some thousand rows.

A column that looks like numbers for so long and then says "n/a" is text: nothing of what it says is lost so. Only the
whole file tells; it is read through before queries read it anew each time, or when the guess turned out wrong.
"""

from __future__ import annotations

import logging
import re
from typing import Final

import duckdb

from flightserve.sql.sources import Source

log = logging.getLogger(__name__)

_NOT_CONVERTED: Final = re.compile(r'Error when converting column "(.*)"\. (Could not convert string ".*?")', re.DOTALL)
_VALUE_CHARACTERS_MAX: Final = 80


def text_columns(connection: duckdb.DuckDBPyConnection, source: Source) -> dict[str, str]:
    """The columns that are text, though the engine takes them for something else, as `Source.scan` takes types. Raises
    what the engine says of files that cannot be read."""
    types: dict[str, str] = {}
    while True:
        try:
            connection.execute(f"SELECT count(COLUMNS(*)) FROM {source.scan(types)}").fetchall()
            return types
        except duckdb.ConversionException as error:
            found = _NOT_CONVERTED.search(str(error))
            if found is None or found[1] in types:
                raise
            log.warning("table %s: column %s is text: %s", source.name, found[1], found[2][:_VALUE_CHARACTERS_MAX])
            types[found[1]] = "VARCHAR"
