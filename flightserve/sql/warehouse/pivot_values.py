"""The values of a PIVOT that names none (`sql.statements.pivots`), as the tables have them now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa

from flightserve.contracts.warehouse import SQL_BYTES_MAX
from flightserve.errors import InvalidArgument, TooLarge
from flightserve.fabric.memory.sizes import nbytes_of
from flightserve.sql.statements.pivots import NAME_THEM, OpenPivot
from flightserve.sql.warehouse.limits import Limits
from flightserve.sql.warehouse.queries import Runner


def fill(runner: Runner, pivot: OpenPivot, limits: Limits) -> str:
    """The statement with the values in it. Raises what the engine says of the queries for them, TooLarge and
    Unimplemented for too many."""
    asked = [runner.prepare_for(query, None) for query in pivot.queries]
    if any(prepared.parameters.names for prepared in asked):
        raise InvalidArgument("the values of a PIVOT are looked up without parameters; name them: ON column IN (...)")
    # What ends with them is not the caller's own query.
    own = replace(limits, ending=lambda: None)
    return pivot.filled([_read(runner.stream(prepared, [], 1, own)) for prepared in asked])


def _read(batches: Iterator[pa.RecordBatch]) -> list[str]:
    values: list[str] = []
    nbytes = 0
    for batch in batches:
        nbytes += nbytes_of(batch)
        if nbytes > SQL_BYTES_MAX:
            raise TooLarge(f"PIVOT finds values of more than {SQL_BYTES_MAX} bytes; {NAME_THEM}")
        values += batch.column(0).to_pylist()
    return values
