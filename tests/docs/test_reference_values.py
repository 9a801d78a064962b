"""What docs/reference says of values, headers and SQL, against what the code does with them."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.contracts.warehouse import QUERY, request_row
from flightserve.errors import FlightserveError
from flightserve.frontends.http import openapi, origin_policy, sql, sql_urls
from flightserve.frontends.http.encoders import JsonRows
from flightserve.testing import LocalService
from flightserve.wire.status import Code
from tests.docs.test_reference import plain, tables

MOMENT = dt.datetime(2013, 1, 1, 5)
# Each row of the table of types in json.md: a column of such values, and what it is in an answer.
ANSWERED: dict[str, tuple[pa.Array, Any]] = {
    "integers": (pa.array([2**63 - 1]), 2**63 - 1),
    "float16, float32, float64": (pa.array([float("nan")]), None),
    "boolean, string (all layouts), null": (pa.array(["a"], pa.string_view()), "a"),
    "timestamp with a zone": (pa.array([MOMENT], pa.timestamp("ms", "UTC")), "2013-01-01T05:00:00.000Z"),
    "timestamp without": (pa.array([MOMENT], pa.timestamp("ms")), "2013-01-01T05:00:00.000"),
    "date32, date64": (pa.array([MOMENT.date()], pa.date32()), "2013-01-01"),
    "years other than 0 to 9999": (pa.array([2932897], pa.date32()), "+010000-01-01"),
    "time32, time64": (pa.array([MOMENT.time()], pa.time32("ms")), "05:00:00.000"),
    "duration": (pa.array([3], pa.duration("s")), 3),
    "interval": (
        pa.array([(1, 2, 3)], pa.month_day_nano_interval()),
        {"months": 1, "days": 2, "nanoseconds": 3},
    ),
    "decimal": (pa.array([Decimal("1.50")]), "1.50"),
    "binary (all layouts)": (pa.array([b"\xff"]), "/w=="),
    "list (all layouts)": (pa.array([[1]]), [1]),
    "struct": (pa.array([{"a": 1}]), {"a": 1}),
    "map": (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), [["k", 1]]),
    "dictionary, run-end encoded": (pa.array(["a"]).dictionary_encode(), "a"),
    "union": (pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])]), 1),
    "extension": (
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"\0" * 16], pa.binary(16))),
        "AAAAAAAAAAAAAAAAAAAAAA==",
    ),
}
# Each row of the table of refusals in sql.md: a statement that it means. What needs a server, or more memory than there
# is, is tested where that is.
REFUSED = {
    "no SQL, two statements, wrong parameters": "SELECT 1; SELECT 2",
    "an unknown table": "FROM nothing",
    "COPY, ATTACH, INSTALL, LOAD, PREPARE, other SETs and PRAGMAs, CREATE, INSERT, UPDATE, DELETE, also inside a WITH":
        "CREATE TABLE u (a INTEGER)",
    "anything outside the tables: read_csv(...), FROM 'file.parquet', the engine's own settings and secrets":
        "FROM read_csv('a.csv')",
    "sql_auto_complete: the engine's extension for it is not built in": "FROM sql_auto_complete('SEL')",
    "functions that end the process for some arguments, such as json_contains; casts to VARIANT": "SELECT 1::VARIANT",
    "more than 256 KiB of text": "",
    "more memory than there is": "",
    "savepoints, ingestion and Substrait over Flight SQL": "",
}  # fmt: skip


# ---- JSON


def test_types_in_json() -> None:
    said = {plain(row[0]): row[1] for row in tables("json")["JSON"] if len(row) == 3}
    assert said.keys() == ANSWERED.keys()
    for label, (column, answer) in ANSWERED.items():
        encoder = JsonRows()
        text = encoder.piece(pa.record_batch({"a": column})) + encoder.end()
        assert orjson.loads(text) == {"rows": [{"a": answer}]}, label
        shown = re.search(r"`([^`]+)`", said[label])
        if shown is not None and isinstance(answer, str | dict):
            assert shown[1] == (answer if isinstance(answer, str) else json.dumps(answer)), label


# ---- HTTP


def test_headers_and_fields_of_a_body_and_of_a_url() -> None:
    named = {plain(row[0]) for row in tables("http")["Headers"]}
    assert named == {name for name, *_ in openapi._HEADERS} | {"x-warehouse"}
    assert named <= set(re.findall(r"[\w-]+", str(vars(origin_policy))))
    fields, parts = _halves(tables("http")["SQL"])
    assert fields == set(sql._Body.__struct_fields__)
    assert parts == {*sql_urls._NAMES, "p=UA&p=1", "p.carrier=UA"}


def _halves(rows: list[list[str]]) -> tuple[set[str], set[str]]:
    """The names of the two tables below that heading: the second begins with `query` again."""
    names = [set(plain(row[0]).split(", ")) for row in rows]
    second = next(number for number, each in enumerate(names) if number and each == {"query"})
    return set().union(*names[:second]), set().union(*names[second:])


def test_forms() -> None:
    said = {plain(row[0]): row[1:] for row in tables("http")["Forms"]}
    assert {form for form, (_, _, out) in said.items() if out} == {form.decode() for form in sql_urls.FORMATS.values()}


# ---- SQL


@pytest.fixture(scope="module")
def ask() -> Iterator[Callable[[str], object]]:
    warehouse = fs.sql.Warehouse({"t": pa.table({"a": [1]})}, threads=1)
    with LocalService(fs.App(warehouse)) as service:
        yield lambda query: service.run("warehouse", QUERY, request_row(query))


def test_refusals_of_sql(ask: Callable[[str], object]) -> None:
    said = {plain(row[0]): row[1] for row in tables("sql")["What is refused"]}
    assert said.keys() == REFUSED.keys()
    for label, query in REFUSED.items():
        if query:
            with pytest.raises(FlightserveError) as refused:
                ask(query)
            assert Code(refused.value.code).name == said[label], (label, refused.value)
