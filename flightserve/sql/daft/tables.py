"""The tables that Daft reads: Parquet files, which every node has to find where this one does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flightserve.errors import ConfigError
from flightserve.sql.daft.library import daft
from flightserve.sql.engine.errors import scrub
from flightserve.sql.sources import Source


def open_tables(sources: Sequence[Source], schemas: Mapping[str, pa.Schema]) -> dict[str, Any]:
    """Daft's frame of each table; nothing is read but the footer of a file. Raises ConfigError for a table of another
    kind, and for files that Daft takes for something else than DuckDB does."""
    found = {}
    for source in sources:
        if source.format != "parquet" or source.hive:
            kind = "folders named key=value" if source.hive else f"{source.format} data"
            raise ConfigError(f"table {source.name!r}: engine='daft' reads plain Parquet files, and this is {kind}")
        try:
            rows = daft().read_parquet([_address(name) for name in source.files])
            names = list(rows.column_names)
        except Exception as error:
            said = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            raise ConfigError(
                f"table {source.name!r}: engine='daft' cannot read its files: {scrub(said[0])}"
            ) from error
        if not _alike(source.files) or names != schemas[source.name].names:
            raise ConfigError(
                f"table {source.name!r}: engine='daft' reads files that have the same columns, and these differ"
            )
        found[source.name] = rows
    return found


def _alike(files: Sequence[str]) -> bool:
    """Whether all of them have the columns of the first, of the same types: Daft would read them as those."""
    first, *others = files
    columns = pq.read_schema(first).remove_metadata()
    return all(pq.read_schema(name).remove_metadata().equals(columns) for name in others)


def _address(path: str) -> str:
    """The file, in which no character is a pattern."""
    if any(mark in path for mark in "*?[]{}"):
        raise ConfigError("the names of files for engine='daft' have none of * ? [ ] { }")
    return path
