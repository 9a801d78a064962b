"""A deployment with a method of each kind that flightserve serves, and a warehouse of the tables (`warehouse`).

    distance   vectorised and row-aligned: great-circle distance and implied speed of every flight sent
    explain    @single_input: one flight's delay in words; a for loop over the rows of the micro-batch
    carriers   row_aligned=False: many rows in, a few rows of statistics out
    worst      row_aligned=False and a generator: streams one record batch a month

Serve it with `make run`, or `flightserve run examples.flights.app:app`. The methods can be called like any
others, without flightserve: tests/examples does, and `make demo` compares that with what comes back over each
protocol.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import flightserve as fs
from examples.flights import data
from examples.flights.warehouse import warehouse

EARTH_RADIUS_KM = 6371.0088
WORST_OF_MONTH = 10
LATE_MINUTES = 15

DISTANCE_INPUT = pa.schema([("origin", pa.string()), ("dest", pa.string()), ("air_time", pa.int32())])
DISTANCE_OUTPUT = pa.schema([("distance_km", pa.float64()), ("speed_kmh", pa.float64())])
EXPLAIN_OUTPUT = pa.schema([("verdict", pa.string()), ("text", pa.string())])
# The first of 2013, and one that never left: what `/docs` tries the methods with.
TWO_FLIGHTS = pa.table(
    {
        "month": [1, 1],
        "carrier": ["UA", "EV"],
        "flight": [1545, 4308],
        "origin": ["EWR", "EWR"],
        "dest": ["IAH", "RDU"],
        "dep_delay": [2, None],
        "arr_delay": [11, None],
        "air_time": pa.array([227, None], pa.int32()),
        "time_hour": [dt.datetime(2013, 1, 1, hour, tzinfo=dt.UTC) for hour in (10, 21)],
    }
)


def great_circle_km(lat1: Any, lon1: Any, lat2: Any, lon2: Any) -> Any:
    """Kilometres between points given in degrees, as numpy arrays: the haversine formula (R. W. Sinnott,
    Sky and Telescope 68, 1984) on a sphere of the earth's mean radius."""
    lat1, lon1, lat2, lon2 = (np.radians(x) for x in (lat1, lon1, lat2, lon2))
    h = np.sin((lat2 - lat1) / 2) ** 2 + np.cos(lat1) * np.cos(lat2) * np.sin((lon2 - lon1) / 2) ** 2
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(h))


@fs.deployment(replicas=2, max_batch_rows=65_536)
class Flights:
    """Questions about the flights that are sent; the airports' coordinates are all it knows of its own."""

    def __init__(self) -> None:
        airports = data.read("airports")
        self._codes = airports["faa"].combine_chunks()
        # One row more, all NaN, for airports that are not in the table: index -1 takes it.
        self._lat = np.append(airports["lat"].to_numpy(), np.nan)
        self._lon = np.append(airports["lon"].to_numpy(), np.nan)

    @fs.method(input=DISTANCE_INPUT, output=DISTANCE_OUTPUT, example=TWO_FLIGHTS.select(DISTANCE_INPUT.names))
    def distance(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """`distance_km` from `origin` to `dest`, null where an airport's place is unknown; `speed_kmh` over
        `air_time` (minutes), null also where that is."""
        start, end = self._places(batch.column("origin")), self._places(batch.column("dest"))
        km = great_circle_km(self._lat[start], self._lon[start], self._lat[end], self._lon[end])
        hours = pc.divide(batch.column("air_time").cast(pa.float64()), 60.0)
        distance = pa.array(km, mask=np.isnan(km))
        return pa.record_batch([distance, pc.divide(distance, hours)], schema=DISTANCE_OUTPUT)

    def _places(self, codes: pa.Array) -> Any:
        return pc.index_in(codes, value_set=self._codes).fill_null(-1).to_numpy(zero_copy_only=False)

    @fs.method(output=EXPLAIN_OUTPUT, example=TWO_FLIGHTS)
    @fs.single_input
    def explain(self, row: dict[str, Any]) -> dict[str, Any]:
        """One flight's `dep_delay` and `arr_delay` (minutes, null for what never happened) in words."""
        left, arrived = row["dep_delay"], row["arr_delay"]
        name = f"{row['carrier']}{row['flight']} {row['origin']}-{row['dest']}"
        if left is None:
            return {"verdict": "cancelled", "text": f"{name} never left."}
        if arrived is None:
            return {"verdict": "lost", "text": f"{name} left {_minutes(left)} and did not arrive as planned."}
        verdict = "late" if arrived > LATE_MINUTES else "early" if arrived < 0 else "on time"
        return {"verdict": verdict, "text": f"{name} left {_minutes(left)} and arrived {_minutes(arrived)}."}

    @fs.method(row_aligned=False, example=TWO_FLIGHTS)
    def carriers(self, table: pa.Table) -> pa.Table:
        """Statistics by carrier of the flights sent, a row for each carrier, ordered by its code: flights,
        cancelled, late (arrived more than 15 minutes late), mean and greatest arrival delay in minutes."""
        delay = table["arr_delay"]
        facts = pa.table(
            {
                "carrier": table["carrier"],
                "delay": delay,
                "cancelled": pc.is_null(table["dep_delay"]).cast(pa.int64()),
                "late": pc.greater(delay, LATE_MINUTES).fill_null(False).cast(pa.int64()),
            }
        )
        wanted = [([], "count_all"), ("cancelled", "sum"), ("late", "sum"), ("delay", "mean"), ("delay", "max")]
        groups = facts.group_by("carrier", use_threads=False).aggregate(wanted).sort_by("carrier")
        columns = ["carrier", "count_all", "cancelled_sum", "late_sum", "delay_mean", "delay_max"]
        names = ["carrier", "flights", "cancelled", "late", "mean_delay", "max_delay"]
        return groups.select(columns).rename_columns(names)

    @fs.method(row_aligned=False, example=TWO_FLIGHTS)
    def worst(self, table: pa.Table) -> Iterator[pa.RecordBatch]:
        """The ten latest arrivals of each month of the flights sent, worst first, a record batch a month."""
        table = table.select(["month", "carrier", "flight", "origin", "dest", "time_hour", "arr_delay"])
        order = [("arr_delay", "descending"), ("time_hour", "ascending"), ("carrier", "ascending")]
        for month in sorted(pc.unique(table["month"]).drop_null().to_pylist()):
            flown = table.filter((pc.field("month") == month) & pc.field("arr_delay").is_valid())
            worst = flown.sort_by([*order, ("flight", "ascending")]).slice(0, WORST_OF_MONTH)
            yield worst.combine_chunks().to_batches()[0] if worst.num_rows else _empty(worst.schema)


def _minutes(delay: int) -> str:
    return f"{delay} min late" if delay > 0 else f"{-delay} min early" if delay < 0 else "on time"


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=schema)


app = fs.App(fs.bind(Flights), warehouse().bind())
