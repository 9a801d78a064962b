"""`client.sql` over Flight, for code that blocks and for coroutines: parameters, results, streams, statements that come
often. A real warehouse answers behind LocalService; by memory tests/examples and the documents ask."""

from __future__ import annotations

import asyncio
import datetime
import decimal
from collections.abc import Iterator
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.client import sql
from flightserve.client.aio import AsyncClient
from flightserve.config import EdgeLimits
from flightserve.errors import InvalidArgument
from flightserve.frontends.flight.server import FlightFrontend
from flightserve.metrics import Metrics
from flightserve.sql.warehouse.declare import Warehouse
from flightserve.testing import LocalService

THINGS = pa.table(
    {"id": pa.array(range(100), pa.int64()), "colour": pa.array(["red", "blue"] * 50).dictionary_encode()}
)
BY_ID = "SELECT id FROM things WHERE id = ?"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    warehouses = [Warehouse({"things": THINGS}, name=name, threads=1, memory_limit="300MB") for name in ("one", "two")]
    with LocalService(fs.App(*warehouses)) as service:
        frontend = FlightFrontend(service, "127.0.0.1", 0, EdgeLimits(), Metrics(), b"k" * 32)
        yield frontend.start()
        frontend.stop()


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[Any]:
    with fs.connect(address, way="flight") as client:
        yield client


def ask(client: Any, query: str, parameters: Any = None, **options: Any) -> Any:
    return client.sql(query, parameters, warehouse="one", **options)


@pytest.mark.parametrize(
    ("query", "parameters", "expected"),
    [
        ("SELECT count(*) AS n FROM things", None, [{"n": 100}]),
        ("SELECT count(*) AS n FROM things", [], [{"n": 100}]),
        (BY_ID, [7], [{"id": 7}]),
        (BY_ID, (7,), [{"id": 7}]),
        ("SELECT id FROM things WHERE id = $x AND colour = $c", {"x": 2, "c": "red"}, [{"id": 2}]),
        (BY_ID, [[1], [2]], [{"id": 1}, {"id": 2}]),
        ("SELECT id FROM things WHERE id = $id", [{"id": 1}, {"id": 3}], [{"id": 1}, {"id": 3}]),
        ("SELECT id FROM things WHERE id = $id", pl.DataFrame({"id": [8, 9]}), [{"id": 8}, {"id": 9}]),
        ("SELECT len($l) AS n", {"l": [1, 2, 3]}, [{"n": 3}]),
        (
            "SELECT $1 AS d, $2 AS e, $3 AS f",
            [datetime.date(2024, 2, 29), decimal.Decimal("1.50"), None],
            [{"d": datetime.date(2024, 2, 29), "e": decimal.Decimal("1.50"), "f": None}],
        ),
    ],
)
def test_parameters(client: Any, query: str, parameters: Any, expected: list[dict[str, Any]]) -> None:
    assert ask(client, query, parameters, as_="rows") == expected


def test_results_of_any_kind_and_size(client: Any) -> None:
    table = ask(client, "SELECT i FROM range(300000) t(i)")
    assert isinstance(table, pa.Table)
    assert table.num_rows == 300_000
    assert ask(client, "SELECT colour FROM things LIMIT 2", as_="polars")["colour"].to_list() == ["red", "blue"]
    assert ask(client, "SELECT id FROM things WHERE false").schema == pa.schema([("id", pa.int64())])
    reader = ask(client, "SELECT i FROM range(300000) t(i)", as_="reader")
    assert isinstance(reader, pa.RecordBatchReader)
    assert sum(batch.num_rows for batch in reader) == 300_000


def test_a_statement_that_comes_often_runs_together_with_others(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    way = client._ways.current()
    call = type(way).call

    def spied(self: Any, deployment: Any, method: Any, *rest: Any) -> pa.RecordBatch:
        asked.append(method.name)
        return call(self, deployment, method, *rest)

    monkeypatch.setattr(type(way), "call", spied)
    query = "SELECT id, colour FROM things WHERE id = $1"
    assert [ask(client, query, [i], as_="rows") for i in range(4)] == [
        [{"id": i, "colour": ("red", "blue")[i % 2]}] for i in range(4)
    ]
    # The first as it is; then it is asked whether it may; two and the one that was asked for.
    assert asked == ["describe", "execute", "execute", "execute"]
    large = "SELECT repeat('x', 2000000) AS t, $1 AS n"
    assert [len(ask(client, large, [i])["t"][0].as_py()) for i in range(3)] == [2_000_000] * 3


@pytest.mark.parametrize(
    ("query", "options", "error", "says"),
    [
        ("SELEC 1", {}, fs.InvalidArgument, "SELEC"),
        ("DROP TABLE things", {}, fs.PermissionDenied, "read-only"),
        ("SELECT * FROM nowhere", {}, fs.NotFound, "nowhere"),
        ("", {}, fs.InvalidArgument, "the query is empty"),
        ("SELECT 1", {"as_": "csv"}, fs.InvalidArgument, "as_ is 'csv'"),
        ("SELECT count(*) FROM range(1000000000000)", {"timeout_s": 0.2}, fs.DeadlineExceeded, "deadline"),
    ],
)
def test_what_is_refused(client: Any, query: str, options: dict[str, Any], error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        ask(client, query, **options)


def test_one_of_several_warehouses_has_to_be_named(client: Any) -> None:
    with pytest.raises(fs.InvalidArgument, match="there are several warehouses"):
        client.sql("SELECT 1")
    with pytest.raises(fs.NotFound, match="no warehouse 'three'"):
        client.sql("SELECT 1", warehouse="three")
    with pytest.raises(TypeError, match="a query is a text"):
        ask(client, b"SELECT 1")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="rows of 1 to 2 values"):
        sql.parameters_of([[1], [1, 2]])


def test_coroutines_ask(address: str) -> None:
    async def run() -> None:
        async with fs.connect_async(address, way="flight") as client:
            assert isinstance(client, AsyncClient)
            found = await asyncio.gather(*[ask(client, BY_ID, [i], as_="rows") for i in range(6)])
            assert found == [[{"id": i}] for i in range(6)]
            parts = await ask(client, "SELECT i FROM range(300000) t(i)", as_="parts")
            assert sum([part.num_rows async for part in parts]) == 300_000
            with pytest.raises(fs.NotFound, match="nowhere"):
                await ask(client, "SELECT * FROM nowhere")

    asyncio.run(run())
