"""A warehouse as a deployment: named queries, any SQL, what it says of itself, over real sockets and shared memory."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.clock import NS_PER_MS, monotonic_ns
from flightserve.contracts.warehouse import REQUEST
from flightserve.declare import spec_of
from flightserve.errors import (
    Cancelled,
    ConfigError,
    DeadlineExceeded,
    FlightserveError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    SchemaMismatch,
)
from flightserve.fabric.memory.schemas import decode_schema
from flightserve.sql.warehouse.queries import Prepared
from flightserve.testing import LocalService
from flightserve.types import RequestMeta
from tests.plane import Plane, meta, plane
from tests.sql.warehouses import PEOPLE
from tests.support import eventually


def warehouse(**options: Any) -> fs.sql.Warehouse:
    made = fs.sql.Warehouse({"people": PEOPLE}, name="people", **{"threads": 2, **options})
    made.query("team", "SELECT name, score FROM people WHERE team = $team ORDER BY id")
    made.query("best", "SELECT name FROM people ORDER BY score DESC NULLS LAST, id LIMIT $n")
    made.query("size", "SELECT count(*) AS n FROM people")
    return made.query("any", "SELECT name FROM people WHERE id > $id LIMIT 1")


@pytest.fixture(scope="module")
def served() -> Iterator[Plane]:
    (bound,) = fs.App(warehouse())
    with plane(bound) as running:
        yield running
        running.targets[0].close()


def stream(rows: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_batch(rows)
    return bytes(sink.getvalue().to_pybytes())


def request(sql: str, rows: pa.RecordBatch | None = None) -> pa.RecordBatch:
    return pa.record_batch([[sql], [None if rows is None else stream(rows)]], schema=REQUEST)


def rows_of(batches: list[pa.RecordBatch]) -> list[dict[str, Any]]:
    return [row for batch in batches for row in batch.to_pylist()]


def test_one_of_those_that_run_together_is_cancelled(served: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = served.targets[0]._tables.current.runner
    merged, seen = runner.merged, []
    go = [threading.Event(), threading.Event()]

    def held(prepared: Prepared, columns: Any, rows: range, *more: Any) -> Any:
        seen.append(len(rows))
        assert go[len(seen) - 1].wait(30)
        return merged(prepared, columns, rows, *more)

    monkeypatch.setattr(runner, "merged", held)
    asked = [["red", "blue"], ["blue", "red"], ["red", "red"], ["none", "blue"]]

    async def rows_by(call: Any) -> list[dict[str, Any]]:
        return rows_of([(await anext(call)).batch()])

    async def run() -> list[Any]:
        calls = [served.client.call("people", "team", pa.record_batch({"team": each}), meta()) for each in asked[:1]]
        answers = [asyncio.ensure_future(rows_by(calls[0]))]
        try:
            # The first runs by itself, the others wait for it and then run together.
            await asyncio.to_thread(eventually, lambda: len(seen) == 1, 20, "the first runs")
            calls += [
                served.client.call("people", "team", pa.record_batch({"team": each}), meta()) for each in asked[1:]
            ]
            answers += [asyncio.ensure_future(rows_by(call)) for call in calls[1:]]
            waiting = len(asked) - 1
            await asyncio.to_thread(
                eventually, lambda: served.router.statistics()["people.queued_requests"] == waiting, 20, "others wait"
            )
            go[0].set()
            await asyncio.to_thread(eventually, lambda: len(seen) == 2, 20, "the others run")
            calls[2].cancel()
            with pytest.raises(Cancelled):
                await answers[2]
        finally:
            for event in go:
                event.set()
        return [await answers[n] for n in (0, 1, 3)]

    teams = {"red": ["Ada", None, "Flo"], "blue": ["Bo", "Ed"], "none": []}
    for each, rows in zip([asked[n] for n in (0, 1, 3)], served.run(run()), strict=True):
        assert [(row["rid"], row["name"]) for row in rows] == [
            (n, name) for n, key in enumerate(each) for name in teams[key]
        ]
    assert seen == [2, 6]


def test_it_says_what_it_serves() -> None:
    (spec,) = fs.App(warehouse()).specs
    assert (spec.name, spec.kind) == ("people", "sql")
    assert [method.name for method in spec.methods] == [
        "query",
        "query_tagged",
        "describe",
        "tables",
        "refresh",
        "execute",
        "team",
        "best",
        "size",
        "any",
    ]
    team = spec.method("team")
    assert team is not None and team.input_schema and team.output_schema and not team.row_aligned
    assert decode_schema(team.input_schema) == pa.schema([("team", pa.string())])
    wanted = pa.schema([("rid", pa.int64()), ("name", pa.string()), ("score", pa.float64())])
    assert decode_schema(team.output_schema) == wanted
    assert "merged" in team.doc
    unmerged = spec.method("any")
    assert unmerged is not None and "LIMIT without ORDER BY" in unmerged.doc


def test_versions_follow_queries_and_files(tmp_path: Any) -> None:
    def version(made: fs.sql.Warehouse) -> str:
        return spec_of(made.bind()).version

    assert version(warehouse()) == version(warehouse())
    assert version(warehouse().query("more", "SELECT 1 AS one")) != version(warehouse())
    (tmp_path / "a.csv").write_text("a\n1\n")
    made = fs.sql.Warehouse({"a": tmp_path / "a.csv"})
    before = version(made)
    (tmp_path / "a.csv").write_text("a\n1\n2\n")
    assert version(made) != before


def test_it_travels_to_replicas() -> None:
    bound = pickle.loads(pickle.dumps(warehouse().bind()))
    replica = bound.make()
    try:
        assert replica.size(pa.record_batch([], names=[])).to_pydict() == {"rid": [0], "n": [6]}
    finally:
        replica.close()


def test_a_request_with_one_row_and_with_many(served: Plane) -> None:
    one = rows_of(served.call("team", pa.record_batch({"team": ["blue"]})))
    assert one == [{"rid": 0, "name": "Bo", "score": None}, {"rid": 0, "name": "Ed", "score": 3.5}]
    many = rows_of(served.call("team", pa.record_batch({"team": ["blue", "none", "red", "blue"]})))
    assert [(row["rid"], row["name"]) for row in many] == [
        (0, "Bo"), (0, "Ed"), (2, "Ada"), (2, None), (2, "Flo"), (3, "Bo"), (3, "Ed"),
    ]  # fmt: skip


def test_limits_as_parameters_and_none_at_all(served: Plane) -> None:
    best = rows_of(served.call("best", pa.record_batch({"n": pa.array([2, 0, 1], pa.int64())})))
    assert best == [{"rid": 0, "name": "Ada"}, {"rid": 0, "name": "Ed"}, {"rid": 2, "name": "Ada"}]
    assert rows_of(served.call("size", pa.record_batch([], names=[]))) == [{"rid": 0, "n": 6}]
    assert rows_of(served.call("any", pa.record_batch({"id": [0, 99]}))) == [{"rid": 0, "name": "Ada"}]


def test_wrong_columns_are_refused(served: Plane) -> None:
    for rows in (pa.record_batch({"other": ["x"]}), pa.record_batch({"team": [1]})):
        with pytest.raises(SchemaMismatch):
            served.call("team", rows)


def test_any_sql_is_streamed(served: Plane) -> None:
    batches = served.call("query", request("SELECT * FROM range(1000000)"))
    assert len(batches) > 3
    assert pa.Table.from_batches(batches).num_rows == 1_000_000
    (empty,) = served.call("query", request("SELECT id, name FROM people WHERE false"))
    assert empty.num_rows == 0 and empty.schema.names == ["id", "name"]
    assert rows_of(served.call("query", request("EXPLAIN SELECT * FROM people")))[0]["explain_key"] == "physical_plan"


@pytest.mark.parametrize(
    ("sql", "rows", "wanted"),
    [
        ("SELECT name FROM people WHERE id = ?", {"0": [1]}, ["Ada"]),
        ("SELECT name FROM people WHERE id = ?", {"0": [4, 99, 1]}, ["Di", "Ada"]),
        ("SELECT name FROM people WHERE id = ? AND team = ?", {"0": [1], "1": ["red"]}, ["Ada"]),
        ("SELECT name FROM people WHERE id = $id", {"id": pa.array([2], pa.int8())}, ["Bo"]),
        ("SELECT name FROM people WHERE $t = team AND id > $i ORDER BY id", {"i": [1], "t": ["blue"]}, ["Bo", "Ed"]),
        ("SELECT name FROM people WHERE DATE '2020-01-0' || id = $d", {"d": ["2020-01-02"]}, None),
        ("SELECT name FROM people WHERE DATE '2020-01-01' + id::INT = ?", {"0": ["2020-01-03"]}, ["Bo"]),
        ("SELECT name FROM people WHERE id = ?", {"0": [None]}, []),
    ],
)
def test_values_as_clients_send_them(served: Plane, sql: str, rows: dict[str, Any], wanted: list[str] | None) -> None:
    given = request(sql, pa.record_batch(rows))
    if wanted is None:
        with pytest.raises(InvalidArgument):
            served.call("query", given)
        return
    described = served.call("describe", given)[0].to_pylist()[0]
    batches = served.call("query", given)
    assert [row["name"] for row in rows_of(batches)] == wanted
    assert decode_schema(described["result_schema"]) == batches[0].schema


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (request("SELEC 1"), InvalidArgument),
        (request("SELECT 1; SELECT 2"), InvalidArgument),
        (request("SELECT * FROM nobody"), NotFound),
        (request("COPY people TO 'x.csv'"), PermissionDenied),
        (request("SELECT * FROM read_text('/etc/passwd')"), PermissionDenied),
        (request("SELECT ?"), InvalidArgument),
        (request("SELECT ?", pa.record_batch({"0": [1], "1": [2]})), InvalidArgument),
        (request("SELECT $a", pa.record_batch({"b": [1]})), InvalidArgument),
        (request("SELECT 1", pa.record_batch({"b": [1]})), InvalidArgument),
        (pa.record_batch([["SELECT ?"], [b"no stream"]], schema=REQUEST), InvalidArgument),
        (pa.record_batch([["SELECT 1", "SELECT 2"], [None, None]], schema=REQUEST), InvalidArgument),
        (pa.record_batch([[], []], schema=REQUEST), InvalidArgument),
    ],
)
def test_bad_requests(served: Plane, given: pa.RecordBatch, kind: type[FlightserveError]) -> None:
    with pytest.raises(kind):
        served.call("query", given)
    assert rows_of(served.call("size", pa.record_batch([], names=[]))) == [{"rid": 0, "n": 6}]


def test_describe_runs_nothing(served: Plane) -> None:
    row = served.call("describe", request("SELECT count(*) AS n FROM range(1000000000000), people WHERE id > $x"))
    (found,) = row[0].to_pylist()
    assert decode_schema(found["result_schema"]) == pa.schema([("n", pa.int64())])
    assert decode_schema(found["parameter_schema"]) == pa.schema([("x", pa.int64())])
    assert found["merged"] and not found["reason"]
    (found,) = served.call("describe", request("SELECT random() AS r, $x"))[0].to_pylist()
    assert not found["merged"] and "random" in found["reason"]


def test_tables_are_listed(served: Plane) -> None:
    (found,) = served.call("tables", request("tables"))[0].to_pylist()
    assert (found["table_name"], found["table_type"]) == ("people", "BASE TABLE")
    assert decode_schema(found["table_schema"]).names == PEOPLE.column_names


def test_the_catalog_is_called_as_the_deployment_is(served: Plane) -> None:
    for table in ("people", "main.people", "people.main.people", "people.people", '"people"."main"."people"'):
        (row,) = rows_of(served.call("query", request(f"SELECT count(*) AS n FROM {table}")))
        assert row == {"n": 6}, table
    (row,) = rows_of(served.call("query", request("SELECT people.main.people.id FROM people.main.people WHERE id = 1")))
    assert row == {"id": 1}
    (found,) = rows_of(served.call("query", request("SELECT DISTINCT table_catalog FROM information_schema.columns")))
    assert found == {"table_catalog": "people"}
    rows = pa.record_batch({"0": [1, 5]})
    sql = "SELECT name FROM people.main.people AS p WHERE p.id = ?"
    assert served.call("describe", request(sql, rows))[0].to_pylist()[0]["merged"]
    assert len(rows_of(served.call("query", request(sql, rows)))) == 2
    with pytest.raises(NotFound):
        served.call("query", request("SELECT count(*) FROM memory.main.people"))


@pytest.mark.parametrize("name", ["a-b.c", "main", "memory", "temp", "system", "information_schema", "select"])
def test_any_name_of_a_deployment_will_do(name: str) -> None:
    with LocalService(fs.App(**{name: warehouse()})) as service:
        assert service.run(name, "team", pa.record_batch({"team": ["blue"]})).num_rows == 2


def test_an_endless_query_ends_at_its_deadline_and_frees_its_lane(served: Plane) -> None:
    for _ in range(6):
        soon = RequestMeta(monotonic_ns() + 200 * NS_PER_MS)
        with pytest.raises(DeadlineExceeded):
            served.call("query", request("SELECT count(*) FROM range(1000000000000)"), soon)
    assert rows_of(served.call("size", pa.record_batch([], names=[]))) == [{"rid": 0, "n": 6}]


def test_the_local_service_serves_it() -> None:
    with LocalService(fs.App(people=warehouse())) as service:
        assert service.run("people", "team", pa.record_batch({"team": ["blue"]})).num_rows == 2


@pytest.mark.parametrize(
    ("name", "sql", "types", "message"),
    [
        ("bad", "SELEC 1", {}, "query 'bad'"),
        ("bad", "SELECT * FROM nobody", {}, "query 'bad'"),
        ("bad", "COPY people TO 'x'", {}, "read-only"),
        ("bad", "SELECT name FROM people WHERE id = ?", {}, "need names"),
        ("bad", "SELECT id, id FROM people", {}, "different names"),
        ("bad", "SELECT id AS rid FROM people", {}, "different names"),
        ("bad", "SELECT $x || 'a' AS y", {}, "declare it"),
        ("bad", "SELECT $x AS y", {"x": "NOTYPE"}, "no type"),
        ("bad", "SELECT 1 AS one", {"x": "BIGINT"}, "no parameter x"),
        ("query", "SELECT 1 AS one", {}, "already"),
        ("close", "SELECT 1 AS one", {}, "already"),
        ("team", "SELECT 1 AS one", {}, "already"),
        ("_own", "SELECT 1 AS one", {}, "cannot name"),
        ("a b", "SELECT 1 AS one", {}, "cannot name"),
    ],
)
def test_queries_that_cannot_be_served(name: str, sql: str, types: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _ = fs.App(warehouse().query(name, sql, types=types)).specs


OPTIONS_REFUSED: list[dict[str, Any]] = [
    {"load": "disk"},
    {"replicas": 0},
    {"nothing": 1},
    {"memory_limit": "much"},
    {"memory_limit": "1KB"},
    {"threads": -1},
    {"threads": 1025},
]


@pytest.mark.parametrize("options", OPTIONS_REFUSED)
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        _ = fs.App(warehouse(**options)).specs
