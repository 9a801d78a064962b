"""The stages before and beside the models. They are plain classes: `training` calls the same ones.

A row is a flight that is about to leave. `Clean` makes it whole, `Weather` adds what its airport measured in that hour,
`Features` makes numbers of it, and `Explain` says which of them speak for a late arrival.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

import flightserve as fs
from examples.flights import data

FLIGHT = pa.schema(
    [
        ("origin", pa.string()),
        ("month", pa.int64()),
        ("day", pa.int64()),
        ("hour", pa.int64()),
        ("distance", pa.float64()),
        ("dep_delay", pa.float64()),
    ]
)
HOUR = ("origin", "month", "day", "hour")
MEASURED = ("temp", "wind_speed", "precip", "visib")
WITH_WEATHER = pa.schema([*FLIGHT, *(pa.field(name, pa.float64()) for name in MEASURED)])
FEATURES = pa.schema(
    [pa.field(name, pa.float64()) for name in ("dep_delay", "distance", "hour", "month", *MEASURED, "from_newark")]
)
REASON = pa.schema([("why", pa.string())])

# Of what a row says, where it says too much or nothing.
DISTANCE_MAX = 5000.0
LATE_MIN, WINDY_MPH, DIM_MILES = 15.0, 20.0, 2.0


@fs.deployment
class Clean:
    """Flights as they are typed in: gaps are filled, and what cannot be is brought back to what can."""

    @fs.method(input=FLIGHT, output=FLIGHT)
    def clean(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The same rows, whole."""
        origin = pc.utf8_upper(pc.utf8_trim_whitespace(pc.fill_null(batch["origin"], "")))
        whole = [pc.fill_null(batch[name], 0) for name in ("month", "day", "hour")]
        distance = pc.min_element_wise(pc.fill_null(batch["distance"], 0.0), DISTANCE_MAX)
        columns = [origin, *whole, distance, pc.fill_null(batch["dep_delay"], 0.0)]
        return pa.RecordBatch.from_arrays(columns, schema=FLIGHT)


@fs.deployment
class Weather:
    """The weather of 2013 at New York's airports, hour by hour."""

    def __init__(self) -> None:
        table = data.read("weather").select([*HOUR, *MEASURED])
        # An hour that was measured twice counts once.
        table = table.group_by(list(HOUR)).aggregate([(name, "mean") for name in MEASURED])
        table = table.rename_columns([*HOUR, *MEASURED])
        self._means = [pc.mean(table[name]).as_py() for name in MEASURED]
        keys = [pa.field(name, WITH_WEATHER.field(name).type) for name in HOUR]
        self._hours = table.cast(pa.schema([*keys, *(WITH_WEATHER.field(name) for name in MEASURED)]))

    @fs.method(input=FLIGHT, output=WITH_WEATHER)
    def add(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows with what was measured in their hours; the year's mean where nothing was."""
        rows = pa.table(batch).append_column("row", pa.array(range(batch.num_rows), pa.int64()))
        joined = rows.join(self._hours, list(HOUR), join_type="left outer").sort_by("row")
        filled = [pc.fill_null(joined[name], mean) for name, mean in zip(MEASURED, self._means, strict=True)]
        table = pa.table([*batch.columns, *filled], schema=WITH_WEATHER).combine_chunks()
        return table.to_batches()[0] if table.num_rows else pa.RecordBatch.from_pylist([], WITH_WEATHER)


@fs.deployment
class Features:
    """What the models are fitted on."""

    @fs.method(input=WITH_WEATHER, output=FEATURES)
    def build(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Numbers only."""
        newark = pc.equal(batch["origin"], "EWR").cast(pa.float64())
        columns = [batch[name].cast(pa.float64()) for name in FEATURES.names[:-1]]
        return pa.RecordBatch.from_arrays([*columns, newark], schema=FEATURES)


@fs.deployment
class Explain:
    """Reasons in words."""

    @fs.method(input=FEATURES, output=REASON)
    def why(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """For each row what speaks for a late arrival."""
        late = pc.greater(batch["dep_delay"], LATE_MIN)
        windy = pc.greater(batch["wind_speed"], WINDY_MPH)
        dim = pc.less(batch["visib"], DIM_MILES)
        conditions = pc.make_struct(late, windy, dim, field_names=["late", "windy", "dim"])
        reasons = pc.case_when(conditions, "it left late", "strong wind", "poor visibility", "nothing")
        return pa.RecordBatch.from_arrays([reasons], schema=REASON)
