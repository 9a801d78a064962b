"""The examples but the flights, served together: those of one file each are called as their own last lines do, the
pipeline of `examples/delays` by every client, as `make demo` does with more requests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pyarrow as pa
import pytest

import flightserve as fs
from examples import model, pipeline, stream, warehouse
from examples.delays import app as delays
from examples.delays import demo
from examples.delays.stages import FLIGHT

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def addresses() -> Iterator[Mapping[str, str]]:
    """One app with the deployments of all: an app is a list of bound deployments, so they can be put together."""
    # The delays have a `Clean` of their own.
    scores = fs.bind(pipeline.Scores, fs.bind(pipeline.Clean).options(name="CleanText"))
    bound = (fs.bind(model.Delay), scores, fs.bind(stream.Collatz), *delays.app)
    app = fs.App(*bound, warehouse.warehouse.bind())
    with fs.serve(app, http_port=0, grpc_port=0, flight_port=0, zmq_port=None) as running:
        yield running.addresses


def test_the_model_is_better_than_saying_no_delay_changes(addresses: Mapping[str, str]) -> None:
    table = model.flights(model.pc.field("month") > model.LAST_MONTH_SEEN).slice(0, 1000)
    unchanged = model.pc.mean(model.pc.abs(model.pc.subtract(table["arr_delay"], table["dep_delay"]))).as_py()
    assert 0 < model.call(addresses) < unchanged


def test_the_pipeline_scores_what_its_first_stage_cleaned(addresses: Mapping[str, str]) -> None:
    assert pipeline.call(addresses) == [
        {"words": 3, "shouting": False},
        {"words": 1, "shouting": True},
        {"words": None, "shouting": None},
    ]


def test_the_warehouse_counts_as_arrow_does(addresses: Mapping[str, str]) -> None:
    december = warehouse.data.read("flights").filter(model.pc.field("month") == 12)
    counts = december.group_by("carrier").aggregate([([], "count_all")]).sort_by([("count_all", "descending")])
    expected = [{"carrier": row["carrier"], "flights": row["count_all"]} for row in counts.slice(0, 3).to_pylist()]
    assert warehouse.call(addresses) == expected
    with fs.connect(addresses["flight"], way="flight") as client:
        assert client.sql(warehouse.QUERY, [12], as_="rows") == expected


def test_the_warehouses_query_is_a_method(addresses: Mapping[str, str]) -> None:
    asked = {"rows": [{"carrier": "UA", "over": 60}]}
    reply = httpx.post(f"{addresses['http']}/v1/departures/late", json=asked).raise_for_status().json()
    late = (model.pc.field("carrier") == "UA") & (model.pc.field("dep_delay") > 60)
    counts = warehouse.data.read("flights").filter(late).group_by("origin").aggregate([([], "count_all")])
    expected = {row["origin"]: row["count_all"] for row in counts.to_pylist()}
    assert {row["origin"]: row["flights"] for row in reply["rows"]} == expected


def test_the_stream_ends_at_one(addresses: Mapping[str, str]) -> None:
    assert stream.call(addresses) == [6, 3, 10, 5, 16, 8, 4, 2, 1]


def test_all_clients_of_the_delays_agree(addresses: Mapping[str, str]) -> None:
    asked = [*demo.requests()[:4], pa.RecordBatch.from_pylist([], FLIGHT)]
    assert list(demo.compare(addresses, asked)) == []


def test_an_example_serves_calls_prints_and_ends() -> None:
    command = [sys.executable, "-m", "examples.stream"]
    root = Path(__file__).parents[2]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == "[6, 3, 10, 5, 16, 8, 4, 2, 1]"
