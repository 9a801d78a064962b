"""Statements with parameters over HTTP and gRPC that come again: run together, and answered as if each ran by itself.

A real warehouse, the data plane, the frontends and clients. Runs are held inside the replica until the others wait in
the router, so that they share a micro-batch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import httpx
import pyarrow as pa
import pytest

from flightserve.contracts.warehouse import EXECUTED_BYTES_MAX
from flightserve.proto import flightserve_pb2 as pb
from flightserve.proto import flightserve_pb2_grpc as pb_grpc
from flightserve.sql.warehouse.replica import WarehouseReplica
from tests.frontends.rpc_support import read, stream_of
from tests.frontends.sql.support import PEOPLE, Runs, Served, sql_served
from tests.support import eventually

NAMES = PEOPLE["name"].to_pylist()
ACCEPTS = ["application/json", "application/x-ndjson", "text/csv", "application/vnd.apache.arrow.stream"]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with sql_served() as running:
        yield running


@pytest.fixture
def runs(served: Served, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(served.plane.targets[0]._tables.current.runner, monkeypatch)


Ask = Callable[[str, list[Any]], Any]


def over_http(served: Served, accept: str = ACCEPTS[0]) -> Ask:
    def ask(sql: str, values: list[Any]) -> Any:
        body = {"query": sql, "parameters": values}
        answer = httpx.post(f"{served.http}/v1/sql", json=body, headers={"accept": accept}, timeout=30)
        if answer.status_code != 200:
            return answer.json()["error"]["code"]
        return json.loads(answer.content)["rows"] if accept == ACCEPTS[0] else answer.content

    return ask


def over_grpc(served: Served) -> Ask:
    def ask(sql: str, values: list[Any]) -> Any:
        parameters = stream_of(pa.record_batch({str(n): [value] for n, value in enumerate(values)}))
        with grpc.insecure_channel(served.grpc) as channel:
            stub = pb_grpc.FlightServeStub(channel)
            try:
                replies = list(stub.Query(pb.QueryRequest(query=sql, parameters=parameters), timeout=30))
            except grpc.RpcError as error:
                return error.code().name
        return [row for reply in replies for row in read(reply.arrow_stream).to_pylist()]

    return ask


@pytest.fixture(params=["http", "grpc"])
def ask(request: pytest.FixtureRequest, served: Served) -> Ask:
    return over_http(served) if request.param == "http" else over_grpc(served)


def learn(ask: Ask, runs: Runs, sql: str, values: list[Any]) -> None:
    """Ask until the text goes to `execute`."""

    def executed() -> bool:
        before = len(runs.by("one"))
        ask(sql, values)
        return len(runs.by("one")) > before

    eventually(executed, 30, what="the text is executed")
    runs.seen.clear()


def together(served: Served, runs: Runs, ask: Ask, sql: str, asked: Sequence[list[Any]]) -> list[Any]:
    """The answers; all but the first wait in the router until all have come."""
    runs.hold = True
    with ThreadPoolExecutor(len(asked)) as clients:
        try:
            answers = [clients.submit(ask, sql, asked[0])]
            # Two that came at once would be one run, for which nothing waits.
            eventually(lambda: runs.by("one"), 20, "the first runs")
            answers += [clients.submit(ask, sql, values) for values in asked[1:]]
            queued = len(asked) - 1
            statistics = served.plane.router.statistics
            eventually(lambda: statistics()["lake.queued_requests"] == queued, 20, "the others wait")
        finally:
            runs.go.set()
        return [answer.result(30) for answer in answers]


def test_what_comes_often_shares_a_query(served: Served, runs: Runs, ask: Ask) -> None:
    sql = "SELECT id, name FROM people WHERE id = $1 ORDER BY id"
    learn(ask, runs, sql, [1])
    asked = [1, 2, 3, 4, 4, 99, 6]
    answers = together(served, runs, ask, sql, [[n] for n in asked])
    assert answers == [[{"id": n, "name": NAMES[n - 1]}] if n <= 6 else [] for n in asked]
    assert (runs.by("one"), runs.by("merged"), runs.by("stream")) == ([1], [len(asked) - 1], [])


def test_an_error_is_its_execution_s_alone(served: Served, runs: Runs, ask: Ask) -> None:
    sql = "SELECT $1::VARCHAR::INTEGER AS n"
    learn(ask, runs, sql, ["1"])
    answers = together(served, runs, ask, sql, [["1"], ["x"], ["3"], ["y"], ["5"]])
    assert answers == [[{"n": 1}], "INVALID_ARGUMENT", [{"n": 3}], "INVALID_ARGUMENT", [{"n": 5}]]


@pytest.mark.parametrize("accept", ACCEPTS)
def test_the_answer_is_byte_for_byte_that_of_a_query(served: Served, runs: Runs, accept: str) -> None:
    ask = over_http(served, accept)
    # A comment makes it another text for each form.
    sql = f"SELECT id, name, $1 AS asked, 1.5 AS d, [id] AS l FROM people WHERE id <= $1 ORDER BY id -- {accept}"
    by_query = [ask(f"{sql} ", [3]), ask(f"{sql}  ", [0])]
    learn(ask, runs, sql, [3])
    assert [ask(sql, [3]), ask(sql, [0])] == by_query
    assert runs.by("one") == [1, 1] and not runs.by("stream")


def test_a_large_result_is_streamed_after_all(served: Served, runs: Runs, ask: Ask) -> None:
    sql = f"SELECT repeat('x', $1::BIGINT) AS t, {id(ask)} AS other"
    learn(ask, runs, sql, [1])
    (row,) = ask(sql, [EXECUTED_BYTES_MAX + 1])
    assert row["t"] == "x" * (EXECUTED_BYTES_MAX + 1)
    assert (runs.by("one"), runs.by("stream")) == ([1], [1])
    # The text is known for it now: nothing is tried in vain.
    assert ask(sql, [2])[0]["t"] == "xx"
    assert (runs.by("one"), runs.by("stream")) == ([1], [1, 1])


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT random() < 2 AND $1 > 0 AS yes",
        "SELECT name FROM people WHERE id > $1 LIMIT 1",
        f"SELECT $1 AS n -- {'x' * 20_000}",
    ],
)
def test_what_cannot_be_merged_is_streamed_each_time(runs: Runs, ask: Ask, sql: str) -> None:
    for _ in range(6):
        assert len(ask(sql, [1])) == 1
    assert runs.by("stream") == [1] * 6 and not runs.by("one")


def test_a_text_that_comes_once_is_not_looked_at(
    served: Served, runs: Runs, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    describe = WarehouseReplica.describe

    def counted(self: WarehouseReplica, batch: pa.RecordBatch) -> pa.RecordBatch:
        looked.append(batch.column("sql")[0].as_py())
        return describe(self, batch)

    target = served.plane.targets[0]
    methods = served.plane.replicas[0]._lane_parts.methods
    monkeypatch.setattr(methods["describe"], "_function", lambda batch: counted(target, batch))
    once, twice = (f"SELECT $1 + {id(ask) + n} AS n" for n in range(2))
    ask(once, [1])
    for _ in range(2):
        ask(twice, [1])
    eventually(lambda: looked == [twice], what="the second one was looked at")
    learn(ask, runs, twice, [1])
    assert looked == [twice]


def test_what_is_wrong_with_a_text_is_said_each_time(ask: Ask) -> None:
    for _ in range(4):
        assert ask("SELECT nothing FROM people WHERE id = $1", [1]) == "INVALID_ARGUMENT"


def test_many_rows_are_one_request(served: Served, runs: Runs) -> None:
    ask = over_http(served)
    sql = "SELECT name FROM people WHERE id = $1::BIGINT"
    learn(ask, runs, sql, [1])
    assert ask(sql, [[2], [1]]) == [{"name": "Bo"}, {"name": "Ada"}]
    assert runs.by("merged") == [2] and not runs.by("one")
