"""A micro-batch of executions of one query by name, answered in part from the cache.

Requests all of whose rows lie together are answered with where they lie. The rows of the others that are known are
copied into the micro-batch's result, those that are not run, merged; and all of that result is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from flightserve.fabric.memory.stored import Answered, Fresh, Stored
from flightserve.sql.warehouse.result_cache import Key, Place, ResultCache, Scope, values_of

Result: TypeAlias = pa.RecordBatch | Stored | Fresh | list[Answered]


class Executions(NamedTuple):
    """Parameter columns, how many rows they have, and how many of these each request brought."""

    columns: Sequence[pa.Array]
    rows: int
    spans: Sequence[int]


def answer(
    cache: ResultCache,
    scope: Scope,
    executions: Executions,
    run: Callable[[Sequence[pa.Array], int], pa.Table],
    delimited: bool,
) -> Result:
    """The executions' results. `run(columns, rows)` gives those of rows that are not known, behind `rid`. Without
    `delimited` there is one request, and the answer is its alone."""
    columns, _, spans = executions
    keys: list[Key] = [(scope, values) for values in values_of(columns, executions.rows)]
    looked = cache.look(keys, spans)
    answered: list[Answered] = looked.answered
    if looked.rest:
        starts = [0, *accumulate(spans)]
        rows = [row for part in looked.rest for row in range(starts[part], starts[part + 1])]
        numbers = [row - starts[part] for part in looked.rest for row in range(starts[part], starts[part + 1])]
        table = _together(rows, looked.known, _run_missing(columns, rows, looked.known, run))
        batch = one_batch(table)
        counts = np.bincount(batch.column(0).to_numpy(), minlength=len(rows)).tolist()
        firsts = accumulate(counts, initial=0)
        places = {
            keys[row]: Place(first, count, number)
            for row, first, count, number in zip(rows, firsts, counts, numbers, strict=False)
        }
        answered = [*answered, Answered(looked.rest, Fresh(batch, cache.keeper(places)))]
    return answered if delimited else answered[0].answer


def _run_missing(
    columns: Sequence[pa.Array],
    rows: Sequence[int],
    known: dict[int, pa.RecordBatch],
    run: Callable[[Sequence[pa.Array], int], pa.Table],
) -> pa.Table | None:
    """The results of rows that are not known, whose `rid` is their place in `rows`; None where all are."""
    missing = [place for place, row in enumerate(rows) if row not in known]
    if known and not missing:
        return None
    numbers = pa.array([rows[place] for place in missing], pa.int64())
    whole = not columns or len(missing) == len(columns[0])
    table = run(columns if whole else [column.take(numbers) for column in columns], len(missing))
    return _renumbered(table, pa.array(missing, pa.int64()).take(table.column(0).combine_chunks()))


def _together(rows: Sequence[int], known: dict[int, pa.RecordBatch], ran: pa.Table | None) -> pa.Table:
    """The rows' results in their order, with their places in `rows` as `rid`."""
    if not known:
        assert ran is not None
        return ran
    pieces: list[pa.Table] = []
    rid: list[int] = []
    ends = [] if ran is None else np.searchsorted(ran.column(0).to_numpy(), np.arange(len(rows) + 1)).tolist()
    for place, row in enumerate(rows):
        if row in known:
            piece = pa.Table.from_batches([known[row]])
        else:
            assert ran is not None
            piece = ran.slice(ends[place], ends[place + 1] - ends[place])
        pieces.append(piece)
        rid += [place] * piece.num_rows
    return _renumbered(pa.concat_tables(pieces), pa.array(rid, pa.int64()))


def _renumbered(table: pa.Table, rid: pa.Array) -> pa.Table:
    return table.set_column(0, table.schema.field(0), rid)


def one_batch(table: pa.Table) -> pa.RecordBatch:
    """The table as one record batch."""
    batches = table.combine_chunks().to_batches()
    if batches:
        return batches[0]
    return pa.RecordBatch.from_arrays([pa.nulls(0, kind) for kind in table.schema.types], schema=table.schema)
