"""The models and stages of `examples/delays`; served they are in test_small.py."""

from __future__ import annotations

import pyarrow as pa

from examples.delays import training
from examples.delays.stages import FLIGHT, Clean, Weather


def test_the_models_are_better_than_saying_no_delay_changes() -> None:
    errors = training.errors()
    assert 0 < errors["careful"] < errors["quick"] < errors["unchanged"]


def test_gaps_are_filled_and_no_row_is_lost() -> None:
    rows = pa.RecordBatch.from_pylist(
        [{"origin": " ewr", "month": 2, "day": 1, "hour": 9}, {}, {"distance": 1e9}], FLIGHT
    )
    got = Weather().add(Clean().clean(rows)).to_pylist()
    assert [row["origin"] for row in got] == ["EWR", "", ""]
    assert [row["distance"] for row in got] == [0.0, 0.0, 5000.0]
    assert all(value is not None for row in got for value in row.values())
