"""The warehouse under test for merged queries: a million rows, a point lookup and a grouped aggregate by name."""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa

import flightserve as fs
from flightserve.sql import Warehouse

ROWS: Final = 1_000_000
GROUPS: Final = 10_000
THREADS: Final = 2
POINT: Final = "SELECT id, label, amount FROM facts WHERE id = $id"
GROUPED: Final = (
    "SELECT kind, count(*) AS n, sum(amount) AS total FROM facts WHERE grp = $grp GROUP BY kind ORDER BY kind"
)


def table() -> pa.Table:
    """The rows; the same every time."""
    random = np.random.default_rng(7)
    ids = random.permutation(ROWS)
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "grp": pa.array(ids % GROUPS, pa.int64()),
            "kind": pa.array([f"k{i}" for i in random.integers(0, 8, ROWS)]),
            "label": pa.array([f"label {i}" for i in ids]),
            "amount": pa.array(random.integers(0, 1000, ROWS), pa.int64()),
        }
    )


def asked(number: int, rows: int, values: int) -> np.ndarray:
    """So many parameters of `values` there are, from the `number`th on: far apart from one another."""
    return (np.arange(number, number + rows) * 7919) % values


class Expected:
    """What the queries have to answer, computed without the engine."""

    def __init__(self) -> None:
        facts = table()
        self.points = facts.select(["id", "label", "amount"]).sort_by("id").combine_chunks().to_batches()[0]
        sums = facts.group_by(["grp", "kind"]).aggregate([([], "count_all"), ("amount", "sum")])
        ordered = sums.sort_by([("grp", "ascending"), ("kind", "ascending")]).combine_chunks().to_batches()[0]
        self._ends = np.searchsorted(ordered["grp"].to_numpy(), np.arange(GROUPS + 1))
        columns = [ordered["kind"], ordered["count_all"], ordered["amount_sum"].cast(pa.decimal128(38, 0))]
        self.grouped = pa.record_batch(columns, names=["kind", "n", "total"])

    def answer(self, query: str, parameters: np.ndarray) -> pa.RecordBatch:
        """The rows for these parameters, behind `rid`."""
        if query == "point":
            rows, counts, found = parameters, np.ones(len(parameters), np.int64), self.points
        else:
            first, counts = self._ends[parameters], self._ends[parameters + 1] - self._ends[parameters]
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            rows, found = np.repeat(first, counts) + within, self.grouped
        rid = pa.array(np.repeat(np.arange(len(parameters)), counts))
        batch = found.take(pa.array(rows))
        return pa.record_batch([rid, *batch.columns], names=["rid", *batch.schema.names])


def make() -> fs.App:
    """The app, with the table handed to the replica as it is."""
    warehouse = Warehouse({"facts": table()}, name="lookups", threads=THREADS)
    return fs.App(warehouse.query("point", POINT).query("grouped", GROUPED).bind())


def __getattr__(name: str) -> fs.App:
    """`app`, made when it is asked for: the load generator imports this module for what has to be answered."""
    if name != "app":
        raise AttributeError(name)
    return make()
