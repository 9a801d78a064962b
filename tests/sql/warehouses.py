"""Engines over small tables, for the tests of `flightserve.sql`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from flightserve.clock import NEVER_NS
from flightserve.sql.engine import Engine, EngineOptions
from flightserve.sql.engine.query_watch import QueryWatch
from flightserve.sql.engine.result_stream import ResultStream
from flightserve.sql.sources import find_sources

PEOPLE = pa.table(
    {
        "id": pa.array([1, 2, 3, 4, 5, 6], pa.int64()),
        "name": ["Ada", "Bo", None, "Di", "Ed", "Flo"],
        "team": ["red", "blue", "red", None, "blue", "red"],
        "score": pa.array([3.5, None, 1.0, 2.0, 3.5, -1.0]),
    }
)


@contextlib.contextmanager
def opened(tables: Mapping[str, Any] | None = None, **options: Any) -> Iterator[Engine]:
    """An engine with these tables, closed at the end."""
    leniency = options.pop("leniency", None)
    chosen = EngineOptions(**{"threads": 2, **options})
    engine = Engine(find_sources(tables or {"people": PEOPLE}, None, leniency, chosen.csv), chosen, leniency)
    try:
        yield engine
    finally:
        engine.close()


@contextlib.contextmanager
def watching() -> Iterator[QueryWatch]:
    """A watch, stopped at the end."""
    watch = QueryWatch()
    try:
        yield watch
    finally:
        watch.stop()


def run(engine: Engine, sql: str, values: Mapping[str, Any] | None = None, deadline_ns: int = NEVER_NS) -> pa.Table:
    """The statement's result, as a caller gets it: checked, run, gathered."""
    with watching() as watch:
        execution = ResultStream(engine, watch, engine.parser.parse(sql).text, values, deadline_ns=deadline_ns)
        return pa.Table.from_batches(list(execution), execution.schema)
