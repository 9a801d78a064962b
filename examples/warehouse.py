"""A warehouse: Parquet files as SQL tables, and a question with a name of its own.

`late` is published like a method, with its parameters as columns: `POST /v1/departures/late`. Callers that ask at the
same time are answered by one run of the query. Any other SELECT goes to `POST /v1/sql`, and to every client that speaks
Flight SQL.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flightserve as fs
from examples.flights import data
from examples.shown import show

warehouse = fs.sql.Warehouse({"flights": str(data.ensure("flights"))}, name="departures")
warehouse.query(
    "late",
    """SELECT origin, count(*) AS flights, avg(dep_delay) AS minutes
       FROM flights WHERE carrier = $carrier AND dep_delay > $over GROUP BY origin ORDER BY origin""",
)

app = fs.App(warehouse.bind())

QUERY = "SELECT carrier, count(*) AS flights FROM flights WHERE month = ? GROUP BY carrier ORDER BY 2 DESC LIMIT 3"


def call(addresses: Mapping[str, str]) -> list[dict[str, Any]]:
    """The three carriers with most flights in December."""
    with fs.connect(addresses["flight"]) as client:
        rows: list[dict[str, Any]] = client.sql(QUERY, [12], as_="rows")
    return rows


if __name__ == "__main__":
    show(app, call)
