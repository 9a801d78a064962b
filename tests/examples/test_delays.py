"""The pipeline of `examples/delays`, by every client: what `make demo` does, with fewer requests."""

from __future__ import annotations

import pyarrow as pa
import pytest

import flightserve as fs
from examples.delays import demo, training
from examples.delays.app import app
from examples.delays.stages import FLIGHT, Clean, Weather

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


def test_all_clients_agree() -> None:
    asked = [*demo.requests()[:4], pa.RecordBatch.from_pylist([], FLIGHT)]
    with fs.serve(app, http_port=0, grpc_port=0, flight_port=0, zmq_port=None) as running:
        assert list(demo.compare(running.addresses, asked)) == []


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
