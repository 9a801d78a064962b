"""How many rows tables have, where that is known without reading them."""

from __future__ import annotations

from typing import Final

import duckdb
import pyarrow as pa

from flightserve.sql.engine import Engine
from flightserve.sql.sources import Source
from flightserve.sql.sources.spelling import quoted_name

# Parquet files whose footers are read for it.
COUNTED_FILES_MAX: Final = 64
UNKNOWN: Final = -1


def count_rows(engine: Engine) -> dict[str, int]:
    """By the tables' names; UNKNOWN where the files would have to be read or a view be run, or where they cannot be."""
    sources = {source.name: source for source in engine.sources}
    with engine.session() as session:
        return {
            name: _count(session, name) if name not in engine.views or _is_counted(sources.get(name)) else UNKNOWN
            for name in engine.tables
        }


def _is_counted(source: Source | None) -> bool:
    """Whether a view of this says how many rows it has without reading them."""
    if source is None:
        return False
    return isinstance(source.arrow, pa.Table) or (source.format == "parquet" and len(source.files) <= COUNTED_FILES_MAX)


def _count(session: duckdb.DuckDBPyConnection, name: str) -> int:
    try:
        ((rows,),) = session.execute(f"SELECT count(*) FROM {quoted_name(name)}").fetchall()
    except duckdb.Error:
        return UNKNOWN
    return int(rows)
