"""`execute`: parameter rows of a statement that is in their schema's metadata, over real sockets and shared memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.contracts.warehouse import EXECUTED_BYTES_MAX, REQUEST, SQL_KEY
from flightserve.declare import spec_of
from flightserve.errors import FlightserveError, InvalidArgument, NotFound, PermissionDenied, TooLarge
from tests.plane import Plane, meta, plane
from tests.sql.warehouses import PEOPLE

BY_TEAM = "SELECT id, name FROM people WHERE team = $1 ORDER BY id"
ANY_ABOVE = "SELECT id FROM people WHERE id > $1 LIMIT 1"


@pytest.fixture(scope="module", params=[0, 8], ids=["", "cached"])
def served(request: Any) -> Iterator[Plane]:
    made = fs.sql.Warehouse({"people": PEOPLE}, name="lake", threads=2, memory_limit="300MB", cache_mb=request.param)
    (bound,) = fs.App(made)
    with plane(bound) as running:
        yield running
        running.targets[0].close()


def rows(sql: str, *values: Any) -> pa.RecordBatch:
    return pa.record_batch([list(values)], names=["0"]).replace_schema_metadata({SQL_KEY: sql.encode()})


TWO_OF_A_NAME = pa.StructArray.from_arrays([pa.array([1]), pa.array(["a"])], names=["x", "x"])


def of_column(sql: str, values: pa.Array) -> pa.RecordBatch:
    return pa.record_batch([values], names=["0"]).replace_schema_metadata({SQL_KEY: sql.encode()})


def execute(served: Plane, sql: str, *values: Any) -> list[dict[str, Any]]:
    (batch,) = served.call("execute", rows(sql, *values))
    found: list[dict[str, Any]] = batch.to_pylist()
    return found


def test_it_is_a_method_whose_requests_share_micro_batches(served: Plane) -> None:
    method = spec_of(served.bound).method("execute")
    assert method is not None and method.delimited and not method.row_aligned and not method.streaming
    assert method.input_schema is None and "flightserve.sql" in method.doc


def test_each_row_has_its_result(served: Plane) -> None:
    for _ in range(2):
        assert execute(served, BY_TEAM, "blue") == [
            {"rid": 0, "id": 2, "name": "Bo"},
            {"rid": 0, "id": 5, "name": "Ed"},
        ]
        many = execute(served, BY_TEAM, "blue", None, "red", "none", "blue")
        assert [(row["rid"], row["id"]) for row in many] == [(0, 2), (0, 5), (2, 1), (2, 3), (2, 6), (4, 2), (4, 5)]
        assert execute(served, BY_TEAM, "none") == []


@pytest.mark.parametrize(("sql", "column"), [(BY_TEAM, "merged"), (ANY_ABOVE, "LIMIT without ORDER BY")])
def test_describe_says_whether_it_is_merged(served: Plane, sql: str, column: str) -> None:
    asked = pa.record_batch([[sql], [None]], schema=REQUEST)
    (row,) = served.call("describe", asked)[0].to_pylist()
    assert (row["merged"], row["reason"] == "") == ((True, True) if column == "merged" else (False, False))
    assert column == "merged" or column in row["reason"]


def test_what_cannot_be_merged_runs_row_by_row(served: Plane) -> None:
    assert [row["rid"] for row in execute(served, ANY_ABOVE, 0, 9, 3)] == [0, 2]

    async def several() -> list[list[dict[str, Any]]]:
        calls = [served.client.call("lake", "execute", rows(ANY_ABOVE, n), meta()) for n in (5, 99, 4)]
        return [[row async for result in call for row in result.batch().to_pylist()] for call in calls]

    got = served.run(several())
    assert [len(each) for each in got] == [1, 0, 1]
    assert got[0] == [{"rid": 0, "id": 6}] and got[2][0]["id"] in (5, 6)


def test_results_over_the_bound_are_refused(served: Plane) -> None:
    sql = "SELECT repeat('x', $1::BIGINT) AS t"
    assert len(execute(served, sql, EXECUTED_BYTES_MAX - 100)[0]["t"]) == EXECUTED_BYTES_MAX - 100
    # The bound is each row's.
    assert [len(row["t"]) for row in execute(served, sql, *[EXECUTED_BYTES_MAX // 2] * 5)] == [524_288] * 5
    for values in ([EXECUTED_BYTES_MAX + 1], [1, EXECUTED_BYTES_MAX + 1, 2]):
        with pytest.raises(TooLarge):
            execute(served, sql, *values)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (pa.record_batch({"0": [1]}), InvalidArgument),
        (pa.record_batch({"0": [1]}).replace_schema_metadata({SQL_KEY: b"SELECT \xff"}), InvalidArgument),
        (pa.record_batch([], names=[]).replace_schema_metadata({SQL_KEY: b"SELECT 1"}), InvalidArgument),
        (rows("SELECT 1", 1), InvalidArgument),
        (rows("SELECT $1 + $2", 1), InvalidArgument),
        (rows("SELEC $1", 1), InvalidArgument),
        (rows("SELECT $1::INTEGER", "x"), InvalidArgument),
        (of_column("SELECT $1", TWO_OF_A_NAME), InvalidArgument),
        (of_column("SELECT $1", pa.ListArray.from_arrays([0, 1], TWO_OF_A_NAME)), InvalidArgument),
        (of_column("SELECT $1", pa.array([None], pa.decimal128(5, -2))), InvalidArgument),
        (rows("SELECT * FROM nobody WHERE a = $1", 1), NotFound),
        (rows("INSERT INTO people VALUES ($1)", 1), PermissionDenied),
        (rows("SELECT * FROM read_text($1)", "/etc/passwd"), PermissionDenied),
    ],
)
def test_bad_requests(served: Plane, given: pa.RecordBatch, kind: type[FlightserveError]) -> None:
    with pytest.raises(kind):
        served.call("execute", given)
    assert execute(served, BY_TEAM, "blue")[0]["id"] == 2
