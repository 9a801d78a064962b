"""The answers of `app.Flights`, computed a second way: pyarrow's kernels on whole tables, no numpy, no loops over
rows, nothing shared with the app. What `make demo` and the tests compare with."""

from __future__ import annotations

import math

import pyarrow as pa
import pyarrow.compute as pc

from examples.flights import data

# Sums are the same in any order for integers only; what passes through sines may differ in the last bits.
RELATIVE_TOLERANCE = 1e-9


def _radians(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.multiply(column, math.pi / 180)


def distance(flights: pa.Table) -> pa.Table:
    """`distance_km` and `speed_kmh` by the spherical law of cosines in its stable form (atan2)."""
    airports = data.read("airports")
    lat, lon = _radians(airports["lat"]), _radians(airports["lon"])
    start = pc.index_in(flights["origin"], value_set=airports["faa"])
    end = pc.index_in(flights["dest"], value_set=airports["faa"])
    lat1, lat2 = pc.take(lat, start), pc.take(lat, end)
    turn = pc.subtract(pc.take(lon, end), pc.take(lon, start))
    east = pc.multiply(pc.cos(lat2), pc.sin(turn))
    north = pc.subtract(
        pc.multiply(pc.cos(lat1), pc.sin(lat2)), pc.multiply(pc.multiply(pc.sin(lat1), pc.cos(lat2)), pc.cos(turn))
    )
    along = pc.add(
        pc.multiply(pc.sin(lat1), pc.sin(lat2)), pc.multiply(pc.multiply(pc.cos(lat1), pc.cos(lat2)), pc.cos(turn))
    )
    across = pc.sqrt(pc.add(pc.multiply(east, east), pc.multiply(north, north)))
    km = pc.multiply(pc.atan2(across, along), 6371.0088)
    hours = pc.divide(flights["air_time"].cast(pa.float64()), 60.0)
    return pa.table({"distance_km": km, "speed_kmh": pc.divide(km, hours)})


def _join(*parts: pa.ChunkedArray | str) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(*parts, "")


def _minutes(delay: pa.ChunkedArray) -> pa.ChunkedArray:
    amount = pc.abs(delay).cast(pa.string())
    words = pc.if_else(pc.greater(delay, 0), _join(amount, " min late"), _join(amount, " min early"))
    return pc.if_else(pc.equal(delay, 0), "on time", words)


def explain(flights: pa.Table) -> pa.Table:
    """`verdict` and `text` of every flight."""
    left, arrived = flights["dep_delay"], flights["arr_delay"]
    name = _join(flights["carrier"], flights["flight"].cast(pa.string()), " ", flights["origin"], "-", flights["dest"])
    cancelled, lost = pc.is_null(left), pc.is_null(arrived)
    conditions = pc.make_struct(
        cancelled, lost, pc.greater(arrived, 15).fill_null(False), pc.less(arrived, 0).fill_null(False)
    )
    verdict = pc.case_when(conditions, "cancelled", "lost", "late", "early", "on time")
    text = pc.case_when(
        pc.make_struct(cancelled, lost),
        _join(name, " never left."),
        _join(name, " left ", _minutes(left), " and did not arrive as planned."),
        _join(name, " left ", _minutes(left), " and arrived ", _minutes(arrived), "."),
    )
    return pa.table({"verdict": verdict, "text": text})


def carriers(flights: pa.Table) -> pa.Table:
    """A row for each carrier, each computed by itself from its own flights."""
    rows = []
    for code in sorted(pc.unique(flights["carrier"]).to_pylist()):
        own = flights.filter(pc.equal(flights["carrier"], code))
        delay = own["arr_delay"]
        rows.append(
            {
                "carrier": code,
                "flights": own.num_rows,
                "cancelled": own["dep_delay"].null_count,
                "late": pc.sum(pc.greater(delay, 15)).as_py(),
                "mean_delay": pc.mean(delay).as_py(),
                "max_delay": pc.max(delay).as_py(),
            }
        )
    counts = [(name, pa.int64()) for name in ("flights", "cancelled", "late")]
    schema = pa.schema([("carrier", pa.string()), *counts, ("mean_delay", pa.float64()), ("max_delay", pa.int32())])
    return pa.Table.from_pylist(rows, schema=schema)


def worst(flights: pa.Table) -> pa.Table:
    """The first ten of each month, out of one sort of everything."""
    columns = ["month", "carrier", "flight", "origin", "dest", "time_hour", "arr_delay"]
    flown = flights.select(columns).filter(pc.is_valid(flights["arr_delay"]))
    ties = [(name, "ascending") for name in ("time_hour", "carrier", "flight")]
    ordered = flown.sort_by([("month", "ascending"), ("arr_delay", "descending"), *ties])
    months = ordered["month"].to_pylist()
    keep = [row for row, month in enumerate(months) if row < 10 or months[row - 10] != month]
    return ordered.take(keep)


def difference(expected: pa.Table, got: pa.Table, relative: float = 0.0) -> str:
    """What keeps `got` from being `expected`, in words, or "" where nothing does.

    Names, types, the number of rows, nulls and values must be equal, in order. Real numbers may differ by
    `relative` of the expected value, where it is not 0. Metadata of the schema is left out.
    """
    if expected.schema.remove_metadata() != got.schema.remove_metadata():
        return f"schema {got.schema.remove_metadata()} instead of {expected.schema.remove_metadata()}"
    if expected.num_rows != got.num_rows:
        return f"{got.num_rows} rows instead of {expected.num_rows}"
    for name in expected.column_names:
        want, have = expected[name], got[name]
        same = _close(want, have, relative) if relative and pa.types.is_floating(want.type) else want.equals(have)
        if not same:
            return f"column {name} differs first at row {_first_difference(want, have, relative)}"
    return ""


def _close(want: pa.ChunkedArray, have: pa.ChunkedArray, relative: float) -> bool:
    if not pc.is_null(want).equals(pc.is_null(have)):
        return False
    near = pc.less_equal(pc.abs(pc.subtract(want, have)), pc.multiply(pc.abs(want), relative))
    # Asked this way round, so that a NaN is never near.
    return pc.all(near, min_count=0).as_py() is True


def _first_difference(want: pa.ChunkedArray, have: pa.ChunkedArray, relative: float) -> str:
    for row, (a, b) in enumerate(zip(want.to_pylist(), have.to_pylist(), strict=True)):
        if a != b and not (relative and a is not None and b is not None and abs(a - b) <= abs(a) * relative):
            return f"{row}: {b!r} instead of {a!r}"
    return "?: equal as Python values"
