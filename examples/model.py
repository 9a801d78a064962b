"""A model: how late a flight arrives, from how late it left and how far it goes.

It is fitted when a replica starts, by least squares on the flights of January to September; the error on the other
three months is what `python -m examples.model` prints. One row or a million, the method is the same: rows of
many callers come together as one record batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import flightserve as fs
from examples.flights import data
from examples.shown import show

LAST_MONTH_SEEN = 9
FEATURES = pa.schema([("dep_delay", pa.float64()), ("distance", pa.float64())])
PREDICTION = pa.schema([("arr_delay", pa.float64())])


def flights(months: pc.Expression) -> pa.Table:
    """`dep_delay`, `distance` and `arr_delay` of the flights that arrived in those months."""
    table = data.read("flights").filter(months & pc.field("arr_delay").is_valid())
    return table.select([*FEATURES.names, *PREDICTION.names]).cast(pa.schema([*FEATURES, *PREDICTION]))


def matrix(batch: pa.RecordBatch | pa.Table) -> np.ndarray:
    """A row (1, dep_delay, distance) for each of the batch's."""
    columns = [batch.column(name).to_numpy(zero_copy_only=False) for name in FEATURES.names]
    return np.column_stack([np.ones(batch.num_rows), *columns])


@fs.deployment(replicas=2, max_batch_rows=16_384)
class Delay:
    """A linear model of arrival delays in minutes."""

    def __init__(self) -> None:
        seen = flights(pc.field("month") <= LAST_MONTH_SEEN)
        self._weights, *_ = np.linalg.lstsq(matrix(seen), seen.column("arr_delay").to_numpy(), rcond=None)

    @fs.method(input=FEATURES, output=PREDICTION)
    def predict(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Minutes late at arrival for `dep_delay` minutes late at departure and `distance` miles."""
        return pa.record_batch([pa.array(matrix(batch) @ self._weights)], schema=PREDICTION)


app = fs.App(fs.bind(Delay))


def call(addresses: Mapping[str, str]) -> float:
    """The mean error in minutes on the months that the model has not seen."""
    unseen = flights(pc.field("month") > LAST_MONTH_SEEN).slice(0, 1000)
    with fs.connect(addresses["flight"]) as client:
        predicted = client.Delay.predict(unseen.select(FEATURES.names), as_="numpy")["arr_delay"]
    return float(np.abs(unseen.column("arr_delay").to_numpy() - predicted).mean())


if __name__ == "__main__":
    show(app, call)
