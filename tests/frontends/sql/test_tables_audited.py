"""The audit log has the tables of each statement, by whatever way it is asked, and nothing else of it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, NamedTuple

import adbc_driver_flightsql.dbapi as adbc
import adbc_driver_manager
import grpc
import pyarrow as pa
import pytest
import zmq
from pyarrow import flight

import flightserve as fs
from flightserve.config import EdgeLimits
from flightserve.contracts.warehouse import request_row
from flightserve.errors import FlightserveError, Unimplemented
from flightserve.fabric.memory.batches import stream_of
from flightserve.frontends.flight.server import FlightFrontend
from flightserve.frontends.grpc.server import GrpcFrontend
from flightserve.frontends.http.server import HttpFrontend
from flightserve.frontends.zmq.server import ZmqFrontend
from flightserve.metrics import Metrics
from flightserve.proto import flightserve_pb2 as pb
from flightserve.proto.flightserve_pb2_grpc import FlightServeStub
from tests.frontends.access_support import BookedAccess
from tests.identity.books import PASSWORD, bearer
from tests.plane import plane
from tests.sql.warehouses import PEOPLE
from tests.support import eventually

ROLES = '[roles.some]\nquery = ["people", "Teams", "adults"]\ncall = ["lake"]\n'
CALLERS = {"root": '["admin"]', "ann": '["some"]'}
TEAMS = pa.table({"team": ["red", "blue"], "city": ["Ulm", "Bern"]})
INIT = """
CREATE VIEW adults AS SELECT * FROM people WHERE id > 1;
CREATE MACRO heads() AS TABLE SELECT name FROM people;
CREATE MACRO first_of() AS (SELECT min(name) FROM heads());
CREATE MACRO double(x) AS x * 2;
"""


class Audited(NamedTuple):
    access: BookedAccess
    http: str
    grpc: str
    flight: str
    zmq: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audited]:
    access = BookedAccess(tmp_path_factory.mktemp("auth"), ROLES, CALLERS, {})
    lake = fs.sql.Warehouse({"people": PEOPLE, "Teams": TEAMS, "secret": TEAMS}, name="lake", threads=2, init=INIT)
    lake.query("of_team", "SELECT name FROM people JOIN Teams USING (team) WHERE city = $city")
    limits, metrics = EdgeLimits(), Metrics()
    with plane(lake.bind(), access=access) as running:

        async def on_loop(kind: Callable[..., Any]) -> Any:
            return kind(running.client, "127.0.0.1", 0, limits, metrics, access=access)

        made = [running.run(on_loop(kind)) for kind in (HttpFrontend, GrpcFrontend, ZmqFrontend)]
        http, rpc, dealer = (running.run(each.start()) for each in made)
        by_flight = FlightFrontend(running.client, "127.0.0.1", 0, limits, metrics, b"k" * 32, None, access)
        yield Audited(access, http, rpc, by_flight.start(), dealer)
        by_flight.stop()
        for each in made:
            running.run(each.stop())
        access.stop()
        running.targets[0].close()


# ---- ways to ask


def by_http(served: Audited, sql: str, who: str = "root", parameters: Any = None) -> None:
    body = json.dumps({"query": sql} | ({} if parameters is None else {"parameters": parameters})).encode()
    headers = {"authorization": bearer(who), "content-type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(f"{served.http}/v1/sql", body, headers), timeout=20).read()


def by_grpc(served: Audited, sql: str, who: str = "root") -> None:
    with grpc.insecure_channel(served.grpc) as channel:
        list(FlightServeStub(channel).Query(pb.QueryRequest(query=sql), metadata=[("authorization", bearer(who))]))


def by_flight(served: Audited, sql: str, who: str = "root") -> None:
    options = flight.FlightCallOptions(headers=[(b"authorization", bearer(who).encode())])
    with flight.connect(served.flight) as client:
        info = client.get_flight_info(flight.FlightDescriptor.for_command(sql), options)
        client.do_get(info.endpoints[0].ticket, options).read_all()


def by_adbc(served: Audited, sql: str, who: str = "root") -> None:
    login = {"username": who, "password": PASSWORD}
    with adbc.connect(served.flight, db_kwargs=login, autocommit=True) as made, made.cursor() as cursor:
        cursor.execute(sql)
        cursor.fetchall()


def by_adbc_prepared(served: Audited, sql: str, who: str = "root") -> None:
    login = {"username": who, "password": PASSWORD}
    with adbc.connect(served.flight, db_kwargs=login, autocommit=True) as made, made.cursor() as cursor:
        cursor.execute(f"SELECT * FROM ({sql}) WHERE 1 = ?", parameters=[1])
        cursor.fetchall()


def by_dealer(served: Audited, sql: str, who: str = "root") -> None:
    header = {"deployment": "lake", "method": "query", "authorization": bearer(who)}
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.RCVTIMEO, 20_000)
        dealer.connect(served.zmq)
        dealer.send_multipart([json.dumps(header).encode(), bytes(stream_of([request_row(sql)]))])
        assert json.loads(dealer.recv_multipart()[0])["code"] == "OK"


SELECT = "SELECT name FROM people WHERE id = $1"
WAYS = [by_grpc, by_flight, by_adbc, by_adbc_prepared, by_dealer]
STATEMENTS = {
    "SELECT 'literal-5f1c' AS text": [],
    "SELECT name FROM PEOPLE WHERE name <> 'literal-5f1c'": ["people"],
    'SELECT city FROM people p JOIN main."Teams" USING (team)': ["people", "Teams"],
    "WITH secret AS (SELECT 1 AS one) SELECT one FROM secret": [],
    "WITH t AS (FROM people) SELECT (SELECT max(id) FROM adults) FROM t": ["people", "adults"],
    "SELECT first_of() AS name": ["people"],
    "SELECT double(id) AS id FROM Teams, heads(), (SELECT 1 AS id)": ["people", "Teams"],
}


def audited(served: Audited, ask: Callable[[], None]) -> list[tuple[str, list[str]]]:
    """What was begun meanwhile, and its tables, once it has ended."""
    book, before = served.access.book, len(served.access.book)
    ask()
    eventually(lambda: len(book) > before and all(visit.ends for visit in book[before:]), what="its line is complete")
    return [(visit.what, list(visit.tables or ())) for visit in book[before:]]


@pytest.mark.parametrize("who", CALLERS)
@pytest.mark.parametrize("sql", STATEMENTS)
def test_tables_are_those_that_are_read(served: Audited, sql: str, who: str) -> None:
    assert audited(served, lambda: by_http(served, sql, who)) == [("sql", STATEMENTS[sql])]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_ask(served: Audited, way: Callable[..., None]) -> None:
    what = "lake.query" if way is by_dealer else "sql"
    sql, tables = list(STATEMENTS.items())[2]
    # What comes again is known, prepared, merged, or begun early.
    for _ in range(3):
        assert audited(served, lambda: way(served, sql, "ann")) == [(what, tables)]


def test_executions_that_are_merged_and_queries_by_name(served: Audited) -> None:
    for _ in range(4):
        assert audited(served, lambda: by_http(served, SELECT, "ann", [1])) == [("sql", ["people"])]

    def call() -> None:
        headers = {"authorization": bearer("ann"), "content-type": "application/json"}
        body = b'{"columns": {"city": ["Ulm"]}}'
        address = f"{served.http}/v1/lake/of_team"
        urllib.request.urlopen(urllib.request.Request(address, body, headers), timeout=20).read()

    assert audited(served, call) == [("lake.of_team", ["people", "Teams"])]


def test_what_is_refused_has_a_line_and_no_table_that_is_none_of_his(served: Audited) -> None:
    ways: list[tuple[Callable[..., None], type[Exception]]] = [
        (by_http, OSError),
        (by_grpc, grpc.RpcError),
        (by_flight, pa.ArrowException),
        (by_adbc, adbc_driver_manager.Error),
    ]
    for way, error in ways:
        for sql in ("FROM secret", "SELECT nonsense FROM people, secret", "DROP TABLE people"):
            before = len(served.access.book)

            def ask(sql: str = sql, way: Callable[..., None] = way, error: type[Exception] = error) -> None:
                with pytest.raises(error):
                    way(served, sql, "ann")

            assert audited(served, ask) in ([("sql", [])], [("sql", ["people"])])
            assert served.access.book[before].ends[0][0] not in (0, FlightserveError.code)


def test_one_that_runs_too_long_has_its_tables_all_the_same(served: Audited) -> None:
    long = "SELECT count(*) FROM range(1000000) a, range(1000000) b, people WHERE a.range + b.range = id"
    headers = {"authorization": bearer("ann"), "content-type": "application/json", "x-timeout-ms": "300"}
    request = urllib.request.Request(f"{served.http}/v1/sql", json.dumps({"query": long}).encode(), headers)

    def ask() -> None:
        with pytest.raises(OSError, match="504"):
            urllib.request.urlopen(request, timeout=20)

    assert audited(served, ask) == [("sql", ["people"])]


def test_who_tries_to_write_has_a_line(served: Audited) -> None:
    login = {"username": "ann", "password": PASSWORD}

    def ask() -> None:
        with closing(adbc.connect(served.flight, db_kwargs=login, autocommit=True)) as made, made.cursor() as cursor:
            for table in ("teams", "secret", "planted-5f1c"):
                with pytest.raises(adbc_driver_manager.Error, match="read-only"):
                    cursor.adbc_ingest(table, TEAMS, mode="append")

    before = len(served.access.book)
    assert audited(served, ask) == [("sql", ["Teams"]), ("sql", []), ("sql", [])]
    assert {visit.ends[0][0] for visit in served.access.book[before:]} == {Unimplemented.code}
