"""Results whose first column, `rid`, says which row of the micro-batch each of their rows belongs to.

A delimited method gets the rows of many requests at once and returns any number of rows for each, in the order of
their `rid`. Here the result is divided among the requests without a copy of its columns, and `rid` is counted from
each request's own first row, so that a caller cannot tell what company its rows had. A generator's parts are divided
each by itself; a part need not have rows for all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from flightserve.errors import MethodFailed
from flightserve.fabric.memory.stored import Fresh, Stored
from flightserve.replica.apart import Apart, MethodResult, Rows
from flightserve.types import RID


def divide(result: Rows, rows: Sequence[int], where: str) -> MethodResult:
    """Divide a result among requests that had so many rows each; with one request it stays as it is. Raises
    MethodFailed for a batch without `rid`, and for row numbers that do not ascend or are out of range."""
    if isinstance(result, Stored):
        return result
    batch = result.batch if isinstance(result, Fresh) else result
    if not batch.num_columns or batch.schema.field(0).name != RID or batch.column(0).type != pa.int64():
        raise MethodFailed(f"{where} returned a batch that does not begin with a column {RID!r} of int64")
    if batch.column(0).null_count:
        raise MethodFailed(f"{where} returned {RID!r} with nulls; it is a row's number")
    rid = batch.column(0).to_numpy()
    total = sum(rows)
    if len(rid) and (rid[0] < 0 or rid[-1] >= max(total, 1) or (rid[1:] < rid[:-1]).any()):
        raise MethodFailed(f"{where} got {total} rows and returned {RID!r} that does not ascend from 0 to {total - 1}")
    if len(rows) <= 1:
        return result
    ends = np.cumsum(rows)
    stops = np.searchsorted(rid, ends)
    counts = np.diff(stops, prepend=0)
    own = pa.array(rid - np.repeat(ends - np.asarray(rows), counts))
    answer = pa.RecordBatch.from_arrays([own, *batch.columns[1:]], schema=batch.schema)
    whole = Fresh(answer, result.written) if isinstance(result, Fresh) else answer
    return [Apart(list(range(len(rows))), whole, counts.tolist())]


def divide_part(result: Rows, rows: Sequence[int], where: str) -> MethodResult:
    """As `divide`, of one part of a stream: only those that it has rows for get some."""
    divided = divide(result, rows, where)
    if not isinstance(divided, list):
        return divided
    found = []
    for parts, batch, counts in divided:
        some = [place for place, count in enumerate(counts) if count]
        if some:
            found.append(Apart([parts[place] for place in some], batch, [counts[place] for place in some]))
    return found
