"""What a method returned for a micro-batch, and whose rows of it are whose.

Most often all requests are answered by one batch, in their order. Requests whose columns are not like the others', that
failed by themselves, or that have another number of rows than they brought, are answered apart (`Apart`). Nobody gets
a buffer that holds values of others (`keep_apart`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import pyarrow as pa

from flightserve.contracts.context import Context
from flightserve.errors import FlightserveError
from flightserve.fabric.conversion.exact import own, shares_buffers
from flightserve.fabric.memory.batches import own_rows
from flightserve.fabric.memory.stored import Fresh, Stored

# Rows that a method returned, checked.
Rows: TypeAlias = pa.RecordBatch | Stored | Fresh


class Apart(NamedTuple):
    """The rows of some requests of a micro-batch: those that have other columns than the others' do, or whose number
    is not the requests' own; or the error of those that failed by themselves. `parts` are the requests' places in the
    micro-batch, `counts` the rows of each, where they are not as many as the request brought."""

    parts: Sequence[int]
    batch: Rows | FlightserveError
    counts: Sequence[int] = ()


# What a micro-batch's requests are answered by: all by the same batch, or some apart from the others.
MethodResult: TypeAlias = Rows | list[Apart]


def at_places(result: MethodResult, places: Sequence[int]) -> list[Apart]:
    """The result of some requests of a micro-batch, by their places there."""
    if not isinstance(result, list):
        return [Apart(places, result)]
    return [Apart([places[part] for part in each.parts], each.batch, each.counts) for each in result]


def keep_apart(result: MethodResult, current: Context) -> MethodResult:
    """The result with nothing in a request's part that belongs to others: where buffers hold values for several rows,
    as dictionaries do, each request gets its own."""
    if current.requests <= 1 or isinstance(result, (Stored, Fresh)):
        return result
    if not isinstance(result, list):
        if not _shares_buffers(result.schema):
            return result
        result = [Apart(range(current.requests), result)]
    counts = current.rows
    return [own for each in result for own in _separate(each, counts)]


_last_looked_at: list[tuple[pa.Schema, bool]] = [(pa.schema([]), False)]


def _shares_buffers(schema: pa.Schema) -> bool:
    known, shares = _last_looked_at[0]
    if not known.equals(schema):
        shares = any(map(shares_buffers, schema.types))
        # One thing, so that threads see all of it or nothing.
        _last_looked_at[0] = (schema, shares)
    return shares


def _separate(each: Apart, counts: Sequence[int]) -> Iterator[Apart]:
    batch = each.batch
    if not isinstance(batch, pa.RecordBatch):
        yield each
    elif not _shares_buffers(batch.schema):
        yield each._replace(batch=own_rows(batch))
    else:
        offset = 0
        for place, part in enumerate(each.parts):
            count = each.counts[place] if each.counts else counts[part]
            rows = own_rows(batch.slice(offset, count))
            offset += count
            alone = pa.RecordBatch.from_arrays([own(column) for column in rows.columns], schema=batch.schema)
            yield Apart([part], alone, [count] if each.counts else ())
