"""`POST /v1/sql` and named queries over HTTP, on a real warehouse behind the data plane."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet
import pytest

from flightserve.config import EdgeLimits
from flightserve.frontends.http.sql import parameters_of
from tests.frontends.http.support import ARROW, JSON, NDJSON, Raw, ipc, post, table_of
from tests.frontends.sql.support import (
    BAD_QUERIES,
    ENDLESS,
    PEOPLE,
    TYPES,
    Served,
    answers,
    hosted,
    sql_served,
    warehouse,
)
from tests.support import eventually

SQL = "/v1/sql"
CSV = "text/csv"
PARQUET = "application/vnd.apache.parquet"
LIMITS = EdgeLimits(json_bytes_max=1 << 20)
ROW = {
    "i8": -8,
    "u64": 2**64 - 1,
    "i64": 2**63 - 1,
    "f32": 0.5,
    "f64": 0.1,
    "yes": True,
    "text": 'Zoë, "x"',
    "empty": "",
    "raw": "AP8=",
    "day": "2013-01-02",
    "at": "2013-01-02T12:30:00.250000",
    "when": "2013-01-02T12:30:00.250000Z",
    "clock": "12:30:00.250000",
    "price": "12345678901234567.89",
    "code": "red",
    "list": [1, None, 3],
    "pair": {"x": 1, "y": "b"},
}
NULLS = dict.fromkeys(ROW)
# As JSON has them unless numbers are asked for.
TEXTS = ROW | {"u64": str(2**64 - 1), "i64": str(2**63 - 1)}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with sql_served(LIMITS) as running:
        yield running


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.http, timeout=30) as client:
        yield client


def ask(client: httpx.Client, query: str, parameters: Any = None, accept: str = "", **body: Any) -> httpx.Response:
    sent = {"query": query, **({} if parameters is None else {"parameters": parameters}), **body}
    return client.post(SQL, json=sent, headers={"accept": accept} if accept else {})


def check(answer: httpx.Response, status: int, code: str) -> str:
    """The message of an error."""
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"]
    return str(answer.json()["error"]["message"])


def still_works(client: httpx.Client) -> None:
    assert ask(client, "SELECT 1 AS one").json() == {"rows": [{"one": 1}]}


# ---- forms


def test_json_by_rows_and_by_columns(client: httpx.Client) -> None:
    answer = ask(client, "FROM types")
    assert (answer.status_code, answer.headers["content-type"]) == (200, JSON)
    assert answer.json() == {"rows": [TEXTS, NULLS]}
    columns = ask(client, "FROM types", shape="columns").json()
    assert columns == {"columns": {name: [value, None] for name, value in TEXTS.items()}}
    assert ask(client, "FROM types", integers="number").json() == {"rows": [ROW, NULLS]}
    columns = ask(client, "FROM types", shape="columns", integers="number").json()
    assert columns == {"columns": {name: [value, None] for name, value in ROW.items()}}


def test_ndjson(client: httpx.Client) -> None:
    answer = ask(client, "FROM types", accept=NDJSON)
    assert answer.headers["content-type"] == NDJSON
    assert [json.loads(line) for line in answer.text.splitlines()] == [TEXTS, NULLS]
    answer = ask(client, "FROM types", accept=NDJSON, integers="number")
    assert [json.loads(line) for line in answer.text.splitlines()] == [ROW, NULLS]


def test_whole_numbers_of_any_size_as_parameters(client: httpx.Client) -> None:
    numbers = [2**63, 2**64, -(2**63) - 1, 10**38 - 1]
    answer = ask(client, "SELECT ? AS v", [[number] for number in numbers], integers="number")
    assert answer.json() == {"rows": [{"v": number} for number in numbers]}
    check(ask(client, "SELECT ? AS v", [10**38]), 400, "INVALID_ARGUMENT")


def test_a_text_that_is_no_date_is_told_before_any_row(client: httpx.Client) -> None:
    answer = ask(client, "SELECT day FROM types WHERE day > ?", [["2013-01-01"], ["x"]])
    message = check(answer, 400, "INVALID_ARGUMENT")
    assert "parameter '1'" in message and '"x"' in message


def test_explained_statements_have_parameters(client: httpx.Client) -> None:
    for query in ("EXPLAIN SELECT id FROM people WHERE id > ?", "/* ü */ explain /* é */ FROM people WHERE id = $1"):
        for value in (1, "1"):
            assert "explain_value" in ask(client, query, [value]).json()["rows"][0]


def test_sums_are_numbers_as_counts_are(client: httpx.Client) -> None:
    """What a client that has but floats would read as another number is text, whatever its type is."""
    query = "SELECT sum(id) AS s, count(*) AS n, 9007199254740992 AS exact, 9007199254740993 AS large, "
    query += "1000000000000000000000 AS huge, [-9007199254740993, 1] AS list FROM people"
    row = {"s": 21, "n": 6, "exact": 2**53, "list": [-(2**53) - 1, 1], "large": 2**53 + 1, "huge": 10**21}
    assert ask(client, query, integers="number").json() == {"rows": [row]}
    texts = {"large": str(2**53 + 1), "huge": str(10**21), "list": [str(-(2**53) - 1), 1]}
    assert ask(client, query).json() == ask(client, query, integers="text").json() == {"rows": [row | texts]}
    assert str(10**21) in ask(client, query, accept=CSV).text
    check(ask(client, "SELECT 1", integers="none"), 400, "INVALID_ARGUMENT")
    query = "SELECT sum(id) * 0.5 AS a, 1.50 AS b, 1234567890123456.5 AS c, 'nan'::DOUBLE AS d, 1 AS d FROM people"
    assert ask(client, query).text == '{"rows":[{"a":10.5,"b":1.50,"c":"1234567890123456.5","d":null,"d_1":1}]}'
    assert ask(client, "SELECT '-inf'::FLOAT AS x", nan="text").json() == {"rows": [{"x": "-Infinity"}]}
    check(ask(client, "SELECT 1", nan="none"), 400, "INVALID_ARGUMENT")


def test_csv(client: httpx.Client) -> None:
    answer = ask(client, "FROM types", accept=CSV)
    assert answer.headers["content-type"] == f"{CSV}; charset=utf-8"
    names, values, nulls = csv.reader(io.StringIO(answer.text))
    assert names == list(ROW)
    found = dict(zip(names, values, strict=True))
    assert {name: json.loads(found[name]) for name in ("list", "pair")} == {n: ROW[n] for n in ("list", "pair")}
    texts = {"yes": "true"}
    plain = [name for name in ROW if name not in ("list", "pair")]
    assert [found[name] for name in plain] == [texts.get(name, str(ROW[name])) for name in plain]
    assert answer.text.splitlines()[2] == "," * (len(ROW) - 1)
    assert nulls == [""] * len(ROW)


def test_arrow_and_parquet(client: httpx.Client) -> None:
    plain = TYPES.set_column(TYPES.schema.get_field_index("code"), "code", TYPES["code"].cast(pa.string()))
    answer = ask(client, "FROM types", accept=ARROW)
    assert answer.headers["content-type"] == ARROW
    assert table_of(answer.content).to_pylist() == plain.to_pylist()
    answer = ask(client, "FROM types", accept=PARQUET)
    assert answer.headers["content-type"] == PARQUET
    assert pa.parquet.read_table(io.BytesIO(answer.content)).to_pylist() == plain.to_pylist()


@pytest.mark.parametrize("query", ["FROM people WHERE false", "FROM people WHERE id = $1"])
def test_empty_results(client: httpx.Client, query: str) -> None:
    parameters = [[-1], [-2]] if "$1" in query else None
    assert ask(client, query, parameters).json() == {"rows": []}
    assert ask(client, query, parameters, shape="columns").json() == {"columns": {"id": [], "name": []}}
    assert ask(client, query, parameters, NDJSON).text == ""
    assert ask(client, query, parameters, CSV).text == '"id","name"\n'
    assert table_of(ask(client, query, parameters, ARROW).content).schema.names == ["id", "name"]
    parquet = pa.parquet.ParquetFile(io.BytesIO(ask(client, query, parameters, PARQUET).content))
    assert (parquet.schema_arrow.names, parquet.metadata.num_rows) == (["id", "name"], 0)


@pytest.mark.parametrize("accept", [JSON, NDJSON, CSV, ARROW, PARQUET])
def test_results_of_many_batches(client: httpx.Client, accept: str) -> None:
    rows = 100_000
    content = ask(client, f"SELECT range AS a, 'x' || range AS b FROM range({rows})", accept=accept).content
    if accept == JSON:
        found = pa.Table.from_pylist(json.loads(content)["rows"])
    elif accept == NDJSON:
        found = pa.Table.from_pylist([json.loads(line) for line in content.splitlines()])
    elif accept == CSV:
        found = pa.Table.from_pylist(
            [{"a": int(row["a"]), "b": row["b"]} for row in csv.DictReader(io.StringIO(content.decode()))]
        )
    else:
        found = table_of(content) if accept == ARROW else pa.parquet.read_table(io.BytesIO(content))
    assert found.num_rows == rows
    assert found["a"].to_pylist() == list(range(rows))
    assert found["b"][rows - 1].as_py() == f"x{rows - 1}"


def test_what_a_form_cannot_say_is_406(client: httpx.Client) -> None:
    assert "ask for" in check(ask(client, "SELECT INTERVAL 1 DAY AS a", accept=PARQUET), 406, "UNIMPLEMENTED")
    assert table_of(ask(client, "SELECT 1 AS a, 2 AS a", accept=ARROW).content).column_names == ["a", "a"]


def test_columns_are_collected_up_to_a_bound(client: httpx.Client) -> None:
    query = "SELECT repeat('x', 1000) AS a FROM range(1100)"
    assert "rows" in check(ask(client, query, shape="columns"), 413, "RESOURCE_EXHAUSTED")
    assert len(ask(client, query).json()["rows"]) == 1100


# ---- parameters


@pytest.mark.parametrize(
    ("query", "parameters", "ids"),
    [
        ("SELECT id FROM people WHERE id = $1 OR name = $2", [1, "Flo"], [1, 6]),
        ("SELECT id FROM people WHERE id = ? OR name = ?", [1, "Flo"], [1, 6]),
        ("SELECT id FROM people WHERE id = $n OR name = $m", {"n": 1, "m": "Flo"}, [1, 6]),
        ("SELECT id FROM people WHERE id = $1", [[3], [1], [3]], [3, 1, 3]),
        ("SELECT id FROM people WHERE id = $n", [{"n": 3}, {"n": 1}], [3, 1]),
        ("SELECT id FROM people WHERE id = $1 OR $2 IS NULL AND id = 2", [1, None], [1, 2]),
        ("SELECT id FROM people WHERE list_contains($ids, id)", {"ids": [2, 4]}, [2, 4]),
        ("SELECT id FROM people WHERE id / 4 = CAST($1 AS DOUBLE)", [1.5], [6]),
        ("SELECT id FROM people WHERE DATE '2013-01-02' = CAST($1 AS DATE) AND id < 3", ["2013-01-02"], [1, 2]),
        ("SELECT id FROM people WHERE id = 1 AND $1", [True], [1]),
        ("SELECT id FROM people WHERE id = 1", [], [1]),
        ("SELECT id FROM people WHERE id = 1", {}, [1]),
    ],
)
def test_parameters(client: httpx.Client, query: str, parameters: Any, ids: list[int]) -> None:
    answer = ask(client, query, parameters)
    assert answer.status_code == 200, answer.text
    # Executions come in order; a query without ORDER BY in none.
    found = [row["id"] for row in answer.json()["rows"]]
    assert sorted(found) == sorted(ids)
    assert found == ids or not isinstance(parameters, list) or not isinstance(parameters[0], list | dict)


def test_many_parameter_rows(client: httpx.Client) -> None:
    ids = [n % 8 for n in range(3000)]
    rows = ask(client, "SELECT id FROM people WHERE id = $1", [[n] for n in ids]).json()["rows"]
    assert [row["id"] for row in rows] == [n for n in ids if 1 <= n <= 6]


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ("text", "list"),
        (7, "list"),
        ([[1], [1, 2]], "row 1 has 2"),
        ([{"a": 1}, {"b": 1}], "differ"),
        ([[1], ["x"]], "row 1"),
        ([[], []], "none of them"),
        ([[2**130]], "out of range"),
    ],
)
def test_parameters_that_are_none(client: httpx.Client, parameters: Any, said: str) -> None:
    assert said in check(ask(client, "SELECT $1", parameters), 400, "INVALID_ARGUMENT")


@pytest.mark.parametrize("parameters", [[], [1, 2], {"b": 1, "c": 2}, ["x"], [[1, 2]], [{}]])
def test_wrong_number_or_type(client: httpx.Client, parameters: Any) -> None:
    check(ask(client, "SELECT * FROM people WHERE id = $1", parameters), 400, "INVALID_ARGUMENT")
    still_works(client)


def test_types_follow_from_json() -> None:
    schema = pa.ipc.open_stream(parameters_of([1, 0.5, "x", True, None, 2**63], EdgeLimits())).schema
    types = [pa.int64(), pa.float64(), pa.string(), pa.bool_(), pa.null(), pa.uint64()]
    assert schema == pa.schema([(str(n + 1), kind) for n, kind in enumerate(types)])


# ---- bad input


@pytest.mark.parametrize(("query", "code", "status"), BAD_QUERIES)
def test_rows_23_24_and_26(client: httpx.Client, query: str, code: str, status: int) -> None:
    answer = ask(client, query)
    assert "root:" not in check(answer, status, code)
    assert ("retry-after" in answer.headers) is (status == 503)
    still_works(client)


@pytest.mark.parametrize("query", ["SET TimeZone = 'UTC'", "USE lake", "USE lake.main", "BEGIN", "COMMIT", "ROLLBACK"])
def test_what_changes_nothing_is_answered(client: httpx.Client, query: str) -> None:
    assert ask(client, query).json() == {"rows": []}
    assert ask(client, query, accept=CSV).text.split() == ['"Success"']
    assert "USE statements are not" in check(ask(client, "USE other"), 403, "PERMISSION_DENIED")


def test_the_deadline_ends_an_endless_query(served: Served, client: httpx.Client) -> None:
    before = answers(served.metrics, "http", "DEADLINE_EXCEEDED")
    answer = client.post(SQL, json={"query": ENDLESS}, headers={"x-timeout-ms": "200"})
    check(answer, 504, "DEADLINE_EXCEEDED")
    eventually(served.at_rest, what="the query was interrupted")
    eventually(lambda: answers(served.metrics, "http", "DEADLINE_EXCEEDED") == before + 1, what="it was counted")
    still_works(client)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"query": 7}',
        b'{"query": "SELECT 1", "extra": 1}',
        b'{"query": "SELECT 1", "query": "SELECT 2"}',
        b'{"query": "SELECT $a", "parameters": {"a": 1, "a": 2}}',
        b'{"query": "SELECT 1", "shape": "triangle"}',
        b'{"query": "SELECT $1", "parameters": [NaN]}',
        b'{"query": "SELECT \xff"}',
        b'{"query": "SELECT $1", "parameters": ' + b"[" * 100 + b"]" * 100 + b"}",
        b'{"query": "SELECT $1", "parameters": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"query": "SELECT $1", "parameters": [' + b"9" * 100_000 + b"]}",
    ],
)
def test_malformed_bodies(client: httpx.Client, body: bytes) -> None:
    check(client.post(SQL, content=body, headers={"content-type": JSON}), 400, "INVALID_ARGUMENT")
    still_works(client)


def test_colons_and_brackets_in_a_query_are_no_keys(client: httpx.Client) -> None:
    assert ask(client, 'SELECT \'":{[\' || 1::TEXT AS "a:b"').json() == {"rows": [{"a:b": '":{[1'}]}


def test_heads(served: Served, client: httpx.Client) -> None:
    good = {"query": "SELECT 1 AS one"}
    check(client.post(SQL, content=ipc(PEOPLE.to_batches()[0]), headers={"content-type": ARROW}), 415, "UNIMPLEMENTED")
    other = client.post(SQL, content=b"SELECT 1", headers={"content-type": "text/html"})
    assert "; application/json, text/plain and application/sql are" in check(other, 415, "UNIMPLEMENTED")
    check(client.post(SQL, json=good, headers={"accept": "image/png"}), 406, "UNIMPLEMENTED")
    for headers in ({"x-timeout-ms": "soon"}, {"x-priority": "10"}):
        check(client.post(SQL, json=good, headers=headers), 400, "INVALID_ARGUMENT")
    check(client.post(SQL, json=good, headers={"x-timeout-ms": "0"}), 504, "DEADLINE_EXCEEDED")
    check(client.post(SQL, json=good, headers={"x-warehouse": "nope"}), 404, "NOT_FOUND")
    check(client.put(SQL, json=good), 405, "UNIMPLEMENTED")
    over = b'{"query": "' + b" " * LIMITS.json_bytes_max + b'"}'
    check(client.post(SQL, content=over), 413, "RESOURCE_EXHAUSTED")
    check(client.post(SQL, content=iter([over])), 413, "RESOURCE_EXHAUSTED")
    for path in (SQL, "/v1/%73ql", SQL + "?pretty"):
        answer = client.post(path, json=good, headers={"x-request-id": "mine"})
        assert (answer.json(), answer.headers["x-request-id"]) == ({"rows": [{"one": 1}]}, "mine")


# ---- streams


def test_a_slow_reader_slows_the_query(served: Served) -> None:
    """Half a gigabyte of result is taken by nobody; what is held is far less, and others are served."""
    query = json.dumps({"query": "SELECT range AS a, repeat('x', 1000) AS b FROM range(500000)"}).encode()
    raw = Raw(served.http).send(post(SQL, query, f"accept: {ARROW}"))
    assert b"200 OK" in raw.socket.recv(1 << 16)
    held: list[float] = []

    def settled() -> bool:
        held.append(served.plane.client.memory.pool.statistics()["leases"] + sum(served.plane.leases().values()))
        return len(held) > 100 and len(set(held[-50:])) == 1

    eventually(settled, what="the query waits for its reader")
    assert served.plane.targets[0]._watch._running, "the query ran to its end without a reader"
    with httpx.Client(base_url=served.http, timeout=30) as client:
        still_works(client)
    raw.close()
    eventually(served.at_rest, what="the query ended with its reader")


@pytest.mark.parametrize("query", [ENDLESS, "SELECT range AS a FROM range(100000000000)"])
def test_a_client_that_goes_away_ends_the_query(served: Served, query: str) -> None:
    before = answers(served.metrics, "http", "CANCELLED")
    raw = Raw(served.http).send(post(SQL, json.dumps({"query": query}).encode(), f"accept: {NDJSON}"))
    eventually(lambda: served.plane.targets[0]._watch._running, what="the query runs")
    raw.close()
    eventually(served.at_rest, what="the query ended")
    eventually(lambda: answers(served.metrics, "http", "CANCELLED") == before + 1, what="it was counted")


BREAKS = "SELECT CASE WHEN range < 2000000 THEN range ELSE CAST('x' AS INTEGER) END AS a FROM range(2100000)"


def test_an_error_after_the_head_is_the_last_line(client: httpx.Client) -> None:
    lines = []
    with (
        pytest.raises(httpx.RemoteProtocolError),
        client.stream("POST", SQL, json={"query": BREAKS}, headers={"accept": NDJSON}) as answer,
    ):
        assert answer.status_code == 200
        lines.extend(answer.iter_lines())
    assert json.loads(lines[0]) == {"a": 0}
    assert json.loads(lines[-1])["error"]["code"] == "INVALID_ARGUMENT"


@pytest.mark.parametrize("accept", [JSON, CSV, ARROW, PARQUET])
def test_an_error_after_the_head_cuts_the_answer(client: httpx.Client, accept: str) -> None:
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        ask(client, BREAKS, accept=accept)
    still_works(client)


def test_an_error_before_the_first_rows_has_its_status(client: httpx.Client) -> None:
    answer = ask(client, "SELECT CAST(name AS INTEGER) FROM people WHERE id = $1", [[1], [2]])
    check(answer, 400, "INVALID_ARGUMENT")


# ---- several warehouses, descriptions, named queries


def test_the_warehouse_is_named_where_there_are_several() -> None:
    with hosted(warehouse("one"), warehouse("two")) as addresses, httpx.Client(base_url=addresses["http"]) as client:
        assert "name one" in check(ask(client, "SELECT 1"), 400, "INVALID_ARGUMENT")
        assert ask(client, "SELECT 1 AS a", warehouse="two").json() == {"rows": [{"a": 1}]}
        body, header = {"query": "SELECT 1 AS a"}, {"x-warehouse": "one"}
        assert client.post(SQL, json=body, headers=header).json() == {"rows": [{"a": 1}]}
        check(client.post(SQL, json={**body, "warehouse": "two"}, headers=header), 400, "INVALID_ARGUMENT")
        assert "one, two" in check(ask(client, "SELECT 1", warehouse="three"), 404, "NOT_FOUND")
        document = client.get("/openapi.json").json()
        asked = document["paths"][SQL]["post"]["requestBody"]["content"][JSON]["schema"]["properties"]
        assert asked["warehouse"]["enum"] == ["one", "two"]


def test_descriptions(client: httpx.Client) -> None:
    (described,) = client.get("/v1/deployments").json()["deployments"]
    assert (described["name"], described["kind"]) == ("lake", "sql")
    methods = {method["method"]: method for method in described["methods"]}
    assert [field["name"] for field in methods["person"]["output_schema"]] == ["rid", "id", "name"]
    assert methods["person"]["delimited"]
    document = client.get("/openapi.json").json()
    sql = document["paths"][SQL]["post"]
    assert set(sql["responses"]["200"]["content"]) == {JSON, NDJSON, CSV, ARROW, PARQUET}
    assert "/v1/lake/person" in document["paths"]
    assert "docs/docs.js" in client.get("/docs").text


def test_named_queries_are_methods(client: httpx.Client) -> None:
    assert client.post("/v1/lake/person", json={"rows": [{"id": 2}]}).json()["rows"] == [
        {"rid": 0, "id": 2, "name": "Bo"}
    ]
    many = client.post("/v1/lake/above", json={"columns": {"id": [4, 9, 3], "name": ["Ed", "x", "x"]}})
    assert many.json() == {"columns": {"rid": [0, 2, 2, 2], "id": [6, 4, 5, 6]}}
    arrow = client.post(
        "/v1/lake/person",
        content=ipc(pa.record_batch({"id": pa.array([6, 1], pa.int64())})),
        headers={"content-type": ARROW},
    )
    assert table_of(arrow.content).to_pydict() == {"rid": [0, 1], "id": [6, 1], "name": ["Flo", "Ada"]}
    check(client.post("/v1/lake/person", json={"rows": [{"nope": 2}]}), 422, "INVALID_ARGUMENT")
    check(client.post("/v1/lake/person", json={"rows": [{"id": "two"}]}), 422, "INVALID_ARGUMENT")


def test_named_queries_that_arrive_together_are_merged_and_answered_apart(served: Served) -> None:
    def batches() -> int:
        counts = served.plane.router.statistics()
        return int(sum(value for name, value in counts.items() if name.endswith("dispatched_batches")))

    raws = [Raw(served.http) for _ in range(60)]
    before = batches()
    for number, raw in enumerate(raws):
        ids = [1 + (number + row) % 8 for row in range(number % 4)]
        accept = [f"accept: {ARROW}"] if number % 7 == 0 else []
        raw.send(post("/v1/lake/person", json.dumps({"columns": {"id": ids}}).encode(), *accept))
    for number, raw in enumerate(raws):
        ids = [1 + (number + row) % 8 for row in range(number % 4)]
        rows = [(rid, id, PEOPLE["name"][id - 1].as_py()) for rid, id in enumerate(ids) if id <= 6]
        expected = {"rid": [r for r, _, _ in rows], "id": [i for _, i, _ in rows], "name": [n for _, _, n in rows]}
        body = raw.read_answer().body
        found = table_of(body).to_pydict() if number % 7 == 0 else json.loads(body)["columns"]
        assert found == expected, number
        raw.close()
    assert batches() - before < 30, "hardly two requests shared a micro-batch"


def test_one_that_cannot_be_read_does_not_harm_those_that_arrive_with_it(served: Served) -> None:
    raws = [Raw(served.http) for _ in range(9)]
    for number, raw in enumerate(raws):
        rows = [{"id": "two"}] if number == 4 else [{"id": 2}]
        raw.send(post("/v1/lake/person", json.dumps({"rows": rows}).encode()))
    statuses = []
    for raw in raws:
        answer = raw.read_answer()
        statuses.append(answer.status)
        if answer.status == 200:
            assert json.loads(answer.body) == {"rows": [{"rid": 0, "id": 2, "name": "Bo"}]}
        raw.close()
    assert statuses == [200] * 4 + [422] + [200] * 4


def test_an_answer_is_bounded_and_its_neighbours_are_not_counted_with_it(served: Served) -> None:
    size = LIMITS.json_bytes_max // 8
    raws = [Raw(served.http) for _ in range(5)]
    for number, raw in enumerate(raws):
        length = size if number == 2 else size // 5
        raw.send(post("/v1/lake/numbers", json.dumps({"rows": [{"length": length}]}).encode()))
    for number, raw in enumerate(raws):
        answer = raw.read_answer()
        assert answer.status == (413 if number == 2 else 200)
        if number != 2:
            assert len(json.loads(answer.body)["rows"]) == size // 5
        raw.close()
