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


def make() -> fs.App:
    """The app, with the table handed to the replica as it is."""
    warehouse = Warehouse({"facts": table()}, name="lookups", threads=THREADS)
    return fs.App(warehouse.query("point", POINT).query("grouped", GROUPED).bind())


app = make()
