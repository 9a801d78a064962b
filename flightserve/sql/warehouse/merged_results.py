"""The result of executions that ran as one query: each row's lie together, behind its number (`rid`)."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa

from flightserve.errors import TooLarge
from flightserve.fabric.memory.sizes import nbytes_of
from flightserve.sql.statements.merging import RID


def check_sizes(table: pa.Table, rows: range, bytes_max: int) -> None:
    """Raise TooLarge where one of the rows' results, which lie behind its number, is over that."""
    if nbytes_of(table) <= bytes_max:
        return
    stops = np.searchsorted(table.column(0).to_numpy(), np.arange(rows.start, rows.stop + 1)).tolist()
    for start, stop in itertools.pairwise(stops):
        if nbytes_of(table.slice(start, stop - start)) > bytes_max:
            raise result_too_large(bytes_max)


def result_too_large(bytes_max: int) -> TooLarge:
    """The error for one execution's result that is over the limit."""
    return TooLarge(f"the result has more than {bytes_max} bytes; `query` streams it")


def repeat_result(table: pa.Table, times: int) -> pa.Table:
    """One execution's result for each of so many, behind `rid`; the columns are not copied until they are joined."""
    rid = pa.chunked_array([pa.repeat(pa.scalar(n, pa.int64()), table.num_rows) for n in range(times)], type=pa.int64())
    return pa.concat_tables([table] * times).add_column(0, pa.field(RID, pa.int64()), rid)
