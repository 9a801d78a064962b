"""`Query` and named queries over gRPC, on a real warehouse behind the data plane."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import grpc
import pyarrow as pa
import pytest

from flightserve.proto import flightserve_pb2 as pb
from flightserve.proto import flightserve_pb2_grpc as pb_grpc
from tests.frontends.rpc_support import BAD_STREAMS, read, stream_of
from tests.frontends.sql.support import (
    BAD_QUERIES,
    ENDLESS,
    TYPES,
    Served,
    answers,
    hosted,
    sql_served,
    warehouse,
)
from tests.support import eventually

Code = grpc.StatusCode


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with sql_served() as running:
        yield running


@pytest.fixture
def stub(served: Served) -> Iterator[Any]:
    # gRPC's own default for the largest message a client takes: no options.
    with grpc.insecure_channel(served.grpc) as channel:
        yield pb_grpc.FlightServeStub(channel)


def query(stub: Any, sql: str, rows: dict[str, Any] | None = None, metadata: Any = (), timeout: float = 30) -> Any:
    """An open `Query`."""
    parameters = b"" if rows is None else stream_of(pa.record_batch(rows))
    return stub.Query(pb.QueryRequest(query=sql, parameters=parameters), timeout=timeout, metadata=metadata)


def table(replies: Any) -> pa.Table:
    """All rows; each reply is a complete stream."""
    return pa.concat_tables([read(reply.arrow_stream) for reply in replies])


def refused(stub: Any, replies: Any) -> Any:
    """The error that ends it; the next query works."""
    with pytest.raises(grpc.RpcError) as caught:
        list(replies)
    assert table(query(stub, "SELECT 1 AS one")).to_pydict() == {"one": [1]}
    return caught.value


def test_all_types(stub: Any) -> None:
    found = table(query(stub, "FROM types"))
    place = TYPES.schema.get_field_index("code")
    assert found.to_pylist() == TYPES.set_column(place, "code", TYPES["code"].cast(pa.string())).to_pylist()


def test_parameters(stub: Any) -> None:
    by_position = query(stub, "SELECT id, name FROM people WHERE id = $1", {"0": [6, 1, 9, 6]})
    assert table(by_position)["name"].to_pylist() == ["Flo", "Ada", "Flo"]
    by_name = query(stub, "SELECT id FROM people WHERE id = $n AND name = $m", {"m": ["Bo", "Bo"], "n": [1, 2]})
    assert table(by_name)["id"].to_pylist() == [2]


def test_an_empty_result_is_its_schema(stub: Any) -> None:
    (reply,) = query(stub, "SELECT id, name FROM people WHERE false")
    assert read(reply.arrow_stream).schema.names == ["id", "name"]
    (reply,) = query(stub, "SELECT id FROM people WHERE id = $1", {"0": pa.array([], pa.int64())})
    assert read(reply.arrow_stream).schema == pa.schema([("id", pa.int64())])


@pytest.mark.parametrize("sql", ["SET TimeZone = 'UTC'", "USE lake.main", "BEGIN", "CHECKPOINT"])
def test_what_changes_nothing_is_answered(stub: Any, sql: str) -> None:
    (reply,) = query(stub, sql)
    assert read(reply.arrow_stream).to_pydict() == {"Success": []}


def test_a_pivot_finds_its_values(stub: Any) -> None:
    pivoted = table(query(stub, "PIVOT people ON name IS NULL USING count(*) GROUP BY id ORDER BY id"))
    assert pivoted.column_names == ["id", "false", "true"] and pivoted["true"].to_pylist() == [0, 0, 1, 0, 0, 0]


def test_large_results_come_in_replies_that_any_client_takes(stub: Any) -> None:
    replies = list(query(stub, "SELECT range AS a, repeat('x', 500) AS b FROM range(100000)"))
    assert max(reply.ByteSize() for reply in replies) <= 4 << 20
    assert table(replies)["a"].to_pylist() == list(range(100_000))
    uneven = "SELECT range AS a, repeat('x', CASE WHEN range % 7 = 0 THEN 3000000 ELSE 1 END) AS b FROM range(21)"
    replies = list(query(stub, uneven))
    assert table(replies)["a"].to_pylist() == list(range(21))


def test_a_slow_reader_slows_the_query(served: Served, stub: Any) -> None:
    call = query(stub, "SELECT range AS a, repeat('x', 1000) AS b FROM range(500000)")
    assert read(next(call).arrow_stream)["a"][0].as_py() == 0
    held: list[float] = []

    def settled() -> bool:
        held.append(sum(served.plane.leases().values()))
        return len(held) > 100 and len(set(held[-50:])) == 1

    eventually(settled, what="the query waits for its reader")
    assert served.plane.targets[0]._watch._running, "the query ran to its end without a reader"
    assert table(query(stub, "SELECT 1 AS one")).num_rows == 1
    call.cancel()
    eventually(served.at_rest, what="the query ended with its reader")


@pytest.mark.parametrize("sql", [ENDLESS, "SELECT range AS a FROM range(100000000000)"])
def test_a_client_that_cancels_ends_the_query(served: Served, stub: Any, sql: str) -> None:
    before = answers(served.metrics, "grpc", "CANCELLED")
    call = query(stub, sql)
    eventually(lambda: served.plane.targets[0]._watch._running, what="the query runs")
    call.cancel()
    eventually(served.at_rest, what="the query ended")
    eventually(lambda: answers(served.metrics, "grpc", "CANCELLED") == before + 1, what="it was counted")


@pytest.mark.parametrize("native", [True, False])
def test_the_deadline_ends_an_endless_query(served: Served, stub: Any, native: bool) -> None:
    call = query(stub, ENDLESS, timeout=0.2) if native else query(stub, ENDLESS, metadata=[("x-timeout-ms", "200")])
    assert refused(stub, call).code() == Code.DEADLINE_EXCEEDED
    eventually(served.at_rest, what="the query was interrupted")


@pytest.mark.parametrize(("sql", "code", "_"), BAD_QUERIES)
def test_rows_23_24_and_26(stub: Any, sql: str, code: str, _: int) -> None:
    error = refused(stub, query(stub, sql))
    assert error.code().name == code
    assert "root:" not in error.details()
    assert dict(error.trailing_metadata())["x-request-id"]


@pytest.mark.parametrize("rows", [{"0": [1], "1": [2]}, {"0": ["x"]}, {"0": [[1]]}])
def test_wrong_number_or_type(stub: Any, rows: dict[str, Any]) -> None:
    error = refused(stub, query(stub, "SELECT * FROM people WHERE id = $1", rows))
    assert error.code() == Code.INVALID_ARGUMENT


@pytest.mark.parametrize("name", sorted(set(BAD_STREAMS) - {"empty"}))
def test_rows_10_to_14_parameters_that_are_no_stream(stub: Any, name: str) -> None:
    request = pb.QueryRequest(query="SELECT $1", parameters=BAD_STREAMS[name])
    error = refused(stub, stub.Query(request, timeout=30))
    assert error.code() in (Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED)


def test_the_message_and_its_metadata(served: Served, stub: Any) -> None:
    with grpc.insecure_channel(served.grpc) as channel:
        raw = channel.unary_stream("/flightserve.v1.FlightServe/Query")
        assert refused(stub, raw(b"\xff\xff\xff")).code() == Code.INVALID_ARGUMENT
    for metadata, code in (
        ([("x-timeout-ms", "soon")], Code.INVALID_ARGUMENT),
        ([("x-priority", "10")], Code.INVALID_ARGUMENT),
        ([("x-timeout-ms", "0")], Code.DEADLINE_EXCEEDED),
        ([("x-warehouse", "nope")], Code.NOT_FOUND),
    ):
        assert refused(stub, query(stub, "SELECT 1", metadata=metadata)).code() == code
    before = answers(served.metrics, "grpc", "OK")
    call = query(stub, "SELECT 1 AS one", metadata=[("x-request-id", "mine")])
    assert table(call).num_rows == 1
    assert dict(call.trailing_metadata())["x-request-id"] == "mine"
    # A reply has no room for the id that was made up.
    call = query(stub, "SELECT 1 AS one")
    assert table(call).num_rows == 1
    assert dict(call.trailing_metadata())["x-request-id"]
    eventually(lambda: answers(served.metrics, "grpc", "OK") == before + 2, what="they were counted")


def test_the_warehouse_is_named_where_there_are_several() -> None:
    with (
        hosted(warehouse("one"), warehouse("two")) as addresses,
        grpc.insecure_channel(addresses["grpc"]) as channel,
    ):
        stub = pb_grpc.FlightServeStub(channel)
        assert table(query(stub, "SELECT 1 AS one", metadata=[("x-warehouse", "two")])).num_rows == 1
        with pytest.raises(grpc.RpcError) as caught:
            list(query(stub, "SELECT 1"))
        assert caught.value.code() == Code.INVALID_ARGUMENT
        assert "one, two" in caught.value.details()


def test_named_queries_are_methods(stub: Any) -> None:
    def call(method: str, rows: dict[str, Any]) -> dict[str, Any]:
        stream = stream_of(pa.record_batch(rows))
        reply = stub.Call(pb.CallRequest(deployment="lake", method=method, arrow_stream=stream), timeout=30)
        return read(reply.arrow_stream).to_pydict()

    assert call("person", {"id": [2]}) == {"rid": [0], "id": [2], "name": ["Bo"]}
    assert call("above", {"id": [4, 9, 3], "name": ["Ed", "x", "x"]}) == {"rid": [0, 2, 2, 2], "id": [6, 4, 5, 6]}
    with pytest.raises(grpc.RpcError) as caught:
        call("person", {"id": ["two"]})
    assert caught.value.code() == Code.INVALID_ARGUMENT


def test_named_queries_that_are_called_together_are_merged_and_answered_apart(served: Served, stub: Any) -> None:
    def batches() -> int:
        counts = served.plane.router.statistics()
        return int(sum(value for name, value in counts.items() if name.endswith("dispatched_batches")))

    def call(number: int) -> Any:
        ids = pa.record_batch({"id": pa.array([1 + (number + row) % 8 for row in range(1 + number % 3)], pa.int64())})
        request = pb.CallRequest(deployment="lake", method="person", arrow_stream=stream_of(ids))
        return ids["id"].to_pylist(), stub.Call.future(request, timeout=30)

    before = batches()
    for ids, reply in [call(number) for number in range(60)]:
        found = read(reply.result().arrow_stream).select(["rid", "id"]).to_pylist()
        assert found == [{"rid": rid, "id": id} for rid, id in enumerate(ids) if id <= 6]
    assert batches() - before < 40, "hardly two requests shared a micro-batch"


def test_the_catalogue_tells_warehouses_and_their_named_queries(stub: Any) -> None:
    (deployment,) = stub.ListDeployments(pb.ListDeploymentsRequest()).deployments
    assert deployment.kind == "sql"
    delimited = {method.name: method.options.delimited for method in deployment.methods}
    # One without parameters has no rows to tell apart.
    assert delimited["person"] and delimited["above"]
    assert not delimited["size"] and not delimited["query"]


def test_an_error_after_the_first_rows_holds_no_rows(served: Served, stub: Any) -> None:
    sql = "SELECT CASE WHEN range = 2000000 THEN error('boom') ELSE range END AS a FROM range(3000000)"
    gc.collect()
    gc.disable()
    try:
        assert refused(stub, query(stub, sql)).code() == Code.INVALID_ARGUMENT
        eventually(served.at_rest, what="regions were given back, and not by the collector")
    finally:
        gc.enable()
