"""Every RPC, command and action of Flight, and every way to say who one is: absent, malformed, wrong, revoked, without
the right, with it. What is new and has no row here fails a test."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import adbc_driver_flightsql.dbapi as adbc
import adbc_driver_manager
import pyarrow as pa
import pytest
from google.protobuf.message import Message
from pyarrow import flight

import flightserve as fs
from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.config import EdgeLimits
from flightserve.contracts.warehouse import request_row
from flightserve.core.access.credentials import ISSUED
from flightserve.errors import Cancelled
from flightserve.frontends.flight.server import DEPLOYMENTS, FlightFrontend, FlightServer
from flightserve.frontends.flight.sql import COMMANDS
from flightserve.frontends.flight.sql_actions import ACTIONS, SAVEPOINTS
from flightserve.frontends.sql.gateway import Statement
from flightserve.metrics import Metrics
from flightserve.proto import flight_pb2
from flightserve.proto import sql_pb2 as pb
from flightserve.types import RequestMeta
from tests.frontends.access_support import BookedAccess
from tests.frontends.flight.asking import (
    ACTS,
    ALL,
    ROOT,
    ROWS,
    RPCS,
    SELECT,
    SQL,
    STRANGERS,
    Row,
    act,
    command,
    exchange,
    named,
    path,
    prepared,
    said,
)
from tests.identity.books import PASSWORD, basic, bearer, token_of
from tests.plane import plane
from tests.sql.warehouses import PEOPLE
from tests.support import eventually

ROLES = """
[roles.clerk]
call = ["Front.plain"]
query = ["people"]
[roles.user]
call = ["Front"]
[roles.nobody]
"""
CALLERS = {
    "root": '["admin"]', "ann": '["clerk"]', "use": '["user"]', "nil": '["nobody"]', "rev": '["admin"]',
    "slow": '["admin"]', "brief": '["clerk"]',
}  # fmt: skip
SECRET = pa.table({"whom": ["Ada"]})


@fs.deployment
class Hidden:
    def deed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


@fs.deployment
class Front:
    def __init__(self, hidden: Any, lake: Any) -> None:
        self.hidden = hidden
        self.lake = lake

    def plain(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    def onward(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        done: pa.RecordBatch = self.hidden.deed(batch)
        return done


class Served(NamedTuple):
    address: str
    frontend: FlightFrontend
    access: BookedAccess
    other: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    limits = {"slow": "in_flight = 1", "brief": "max_query_s = 0.3"}
    access = BookedAccess(tmp_path_factory.mktemp("auth"), ROLES, CALLERS, limits)
    access.revoke("rev")
    lake = fs.sql.Warehouse({"people": PEOPLE, "secret": SECRET}, name="lake", threads=2, memory_limit="300MB")
    lake.query("whose", "SELECT whom FROM secret WHERE whom = $name")
    with plane(Front.bind(Hidden.bind(), lake), access=access) as running:
        made = [
            FlightFrontend(running.client, "127.0.0.1", 0, EdgeLimits(), Metrics(), b"k" * 32, None, access)
            for _ in range(2)
        ]
        addresses = [each.start() for each in made]
        yield Served(addresses[0], made[0], access, addresses[1])
        for each in made:
            each.stop()
        eventually(lambda: not access.unended(), what="every visit ends once")
        access.stop()
        next(each for each in running.targets if hasattr(each, "close")).close()


@pytest.fixture
def client(served: Served) -> Iterator[Any]:
    with flight.connect(served.address) as made:
        yield made


def test_whatever_there_is_has_a_row() -> None:
    handlers = {name for name in vars(FlightServer) if name in vars(flight.FlightServerBase) and name[0] != "_"}
    assert handlers | {"handshake"} == set(RPCS)
    assert set(SQL) == set(COMMANDS)
    # What list_actions tells of, and what is refused by name.
    assert {*STRANGERS, *ACTS, DEPLOYMENTS} - {"an action that there is not"} == {
        "healthz", "readyz", DEPLOYMENTS, *ACTIONS, *SAVEPOINTS,
    }  # fmt: skip


BAD = {
    "absent": "",
    "without a token": "Bearer",
    "of no scheme": token_of("root"),
    "of another scheme": f"Digest {token_of('root')}",
    "basic, but no base64": "Basic !!!",
    "basic, but no password": "Basic cm9vdA==",
    "no token of ours": "Bearer nobody-token",
    "of nobody": bearer("nobody"),
    "another's name with a wrong password": basic("root", "wrong"),
    "revoked": bearer("rev"),
}


@pytest.mark.parametrize("name", [name for name in ALL if name != "handshake"])
def test_who_cannot_say_who_he_is_is_unauthenticated(client: Any, name: str) -> None:
    for header in BAD.values():
        # The client's get_schema makes nothing of Flight's own codes.
        with pytest.raises((flight.FlightUnauthenticatedError, OSError), match="Unauthenticated") as refused:
            ALL[name].ask(client, said(header))
        assert "Traceback" not in str(refused.value) and "File " not in str(refused.value)


@pytest.mark.parametrize("name", STRANGERS)
@pytest.mark.parametrize("header", [*BAD.values(), bearer("nil"), bearer("root")])
def test_what_answers_strangers(client: Any, name: str, header: str) -> None:
    (result,) = STRANGERS[name].ask(client, said(header))
    assert json.loads(result.body.to_pybytes()) == {"ready": True}


ERRORS: dict[str, Any] = {
    "denied": flight.FlightUnauthorizedError,
    "missing": pa.ArrowKeyError,
    "invalid": pa.ArrowInvalid,
    "unimplemented": pa.ArrowNotImplementedError,
}


def outcome(row: Row, client: Any, options: Any) -> str:
    try:
        row.ask(client, options)
    except (*ERRORS.values(), pa.ArrowException, OSError) as error:
        # The client's get_schema makes nothing of Flight's own codes.
        of_schema = "denied" if "PERMISSION_DENIED" in str(error) else repr(error)
        return next((name for name, kind in ERRORS.items() if isinstance(error, kind)), of_schema)
    return "ok"


@pytest.mark.parametrize("name", ALL)
def test_who_has_no_right_and_who_has_all(client: Any, name: str) -> None:
    row = ALL[name]
    assert outcome(row, client, named(said(bearer("nil")), "nil", PASSWORD)) == row.without
    assert outcome(row, client, named(said(bearer("root")), "root", token_of("root"))) == row.with_all


# ---- the handshake


def logged_in(client: Any, name: str) -> Any:
    header = client.authenticate_basic_token(name, PASSWORD)
    assert header[0] == b"authorization" and header[1].startswith(f"Bearer {ISSUED}".encode())
    return flight.FlightCallOptions(timeout=20, headers=[header])


def test_the_handshake_is_answered_with_a_token_that_any_frontend_takes(served: Served, client: Any) -> None:
    options = logged_in(client, "ann")
    assert exchange(client, options) == ROWS
    with flight.connect(served.other) as other:
        assert exchange(other, options) == ROWS
    for user, password in (("ann", "wrong"), ("nobody", PASSWORD), ("rev", PASSWORD), ("", "")):
        with pytest.raises(flight.FlightUnauthenticatedError):
            client.authenticate_basic_token(user, password)
    served.access.revoke("ann")
    try:
        with pytest.raises(flight.FlightUnauthenticatedError):
            exchange(client, options)
    finally:
        served.access.restore("ann")


class Older(flight.ClientAuthHandler):
    def authenticate(self, outgoing: Any, incoming: Any) -> None:
        outgoing.write(flight.BasicAuth("root", PASSWORD).serialize())
        incoming.read()

    def get_token(self) -> bytes:
        return b""


def test_the_older_handshake_is_refused_with_what_to_do(client: Any) -> None:
    with pytest.raises(flight.FlightUnauthenticatedError, match="authenticate_basic_token"):
        client.authenticate(Older())


# ---- what is somebody's own


def test_who_says_twice_who_he_is_is_nobody(client: Any) -> None:
    good, wrong = bearer("ann").encode(), b"Bearer x"
    for pair in ((good, wrong), (wrong, good), (good, good)):
        options = flight.FlightCallOptions(headers=[(b"authorization", each) for each in pair])
        with pytest.raises(flight.FlightUnauthenticatedError, match="more than one authorization"):
            list(client.list_flights(options=options))


def test_tickets_handles_and_sessions_are_his_who_got_them_at_every_frontend(served: Served, client: Any) -> None:
    counting = command(pb.CommandStatementQuery(query="SELECT count(*) AS n FROM people"))
    mine = client.get_flight_info(counting, said(bearer("ann")))
    cancel = flight_pb2.CancelFlightInfoRequest(info=flight_pb2.FlightInfo.FromString(mine.serialize()))
    with flight.connect(served.other) as other:
        for at in (client, other):
            got = at.do_get(mine.endpoints[0].ticket, said(bearer("ann"))).read_all()
            assert got.to_pylist() == [{"n": 6}]
            with pytest.raises(flight.FlightUnauthorizedError, match="another user"):
                at.do_get(mine.endpoints[0].ticket, ROOT)
            with pytest.raises(flight.FlightUnauthorizedError):
                act("CancelFlightInfo", lambda _: cancel.SerializeToString())(at, ROOT)
        handle = prepared(client, said(bearer("ann")))
        asked = command(pb.CommandPreparedStatementQuery(prepared_statement_handle=handle))
        assert other.get_flight_info(asked, said(bearer("ann"))).schema.names == ["one"]
        with pytest.raises(flight.FlightUnauthorizedError):
            other.get_flight_info(asked, ROOT)


def test_options_of_a_session_are_not_shared_by_who_shares_a_token(client: Any) -> None:
    asked = flight_pb2.SetSessionOptionsRequest()
    asked.session_options["schema"].string_value = "main"

    def options(of: Any) -> list[str]:
        (result,) = client.do_action(flight.Action("GetSessionOptions", b""), of)
        return list(flight_pb2.GetSessionOptionsResult.FromString(result.body.to_pybytes()).session_options)

    mine, other = logged_in(client, "ann"), logged_in(client, "ann")
    list(client.do_action(flight.Action("SetSessionOptions", asked.SerializeToString()), mine))
    assert options(mine) == ["schema"] and options(other) == [] and options(said(bearer("ann"))) == []
    list(client.do_action(flight.Action("CloseSession", b""), mine))
    with pytest.raises(flight.FlightUnauthenticatedError, match="over"):
        options(mine)
    assert options(other) == []


def test_a_cookie_of_another_names_no_session(client: Any) -> None:
    def set_cookie(token: str, cookie: str) -> str:
        seen: list[str] = []
        headers = [(b"authorization", token.encode())] + ([(b"cookie", cookie.encode())] if cookie else [])

        class Cookies(flight.ClientMiddleware):
            def received_headers(self, headers: dict[str, list[str]]) -> None:
                seen.extend(headers.get("set-cookie", []))

        class Factory(flight.ClientMiddlewareFactory):
            def start_call(self, info: Any) -> Any:
                return Cookies()

        with flight.connect(f"grpc://127.0.0.1:{client_port}", middleware=[Factory()]) as made:
            list(
                made.do_action(
                    flight.Action("SetSessionOptions", b""), flight.FlightCallOptions(timeout=20, headers=headers)
                )
            )
        return seen[0] if seen else ""

    client_port = client_ports[0]
    mine = set_cookie(bearer("ann"), "")
    assert mine and not set_cookie(bearer("ann"), mine)
    assert set_cookie(bearer("root"), mine) not in ("", mine)


client_ports: list[int] = []


@pytest.fixture(autouse=True)
def _port(served: Served) -> None:
    client_ports[:] = [int(served.address.rpartition(":")[2])]


# ---- what there is for whom


def test_each_sees_what_he_may_use(client: Any) -> None:
    def seen(who: str) -> tuple[set[str], set[str]]:
        options = said(bearer(who))
        flights = {
            "/".join(part.decode() for part in each.descriptor.path) for each in client.list_flights(b"", options)
        }
        (result,) = client.do_action(flight.Action(DEPLOYMENTS, b""), options)
        return flights, {each["name"] for each in json.loads(result.body.to_pybytes())}

    flights, deployments = seen("ann")
    assert {"Front/plain", "lake/people"} <= flights and deployments == {"Front", "lake"}
    assert not flights & {"Front/onward", "Hidden/deed", "lake/secret", "lake/whose"}
    assert seen("nil") == (set(), set())
    flights, deployments = seen("root")
    assert {"Hidden/deed", "lake/secret", "lake/whose", "Front/onward"} <= flights
    assert deployments == {"Front", "Hidden", "lake"}


def test_metadata_tells_of_what_may_be_queried(client: Any) -> None:
    def rows(message: Message, who: str) -> list[dict[str, Any]]:
        options = said(bearer(who))
        info = client.get_flight_info(command(message), options)
        found: list[dict[str, Any]] = client.do_get(info.endpoints[0].ticket, options).read_all().to_pylist()
        return found

    tables = pb.CommandGetTables(include_schema=True)
    assert [row["table_name"] for row in rows(tables, "ann")] == ["people"]
    assert [row["table_name"] for row in rows(tables, "root")] == ["people", "secret"]
    assert rows(pb.CommandGetCatalogs(), "ann") == [{"catalog_name": "lake"}]
    with pytest.raises(pa.ArrowKeyError, match="does not exist"):
        rows(pb.CommandStatementQuery(query="FROM secret"), "ann")
    # Alike, whether there is one or not.
    for table in ("secret", "nothing", "whose"):
        with pytest.raises(flight.FlightUnauthorizedError, match=f"may not call lake.{table}"):
            client.get_flight_info(path("lake", table), said(bearer("ann")))


def test_what_a_method_calls_takes_the_callers_right(served: Served, client: Any) -> None:
    def call(who: str) -> Any:
        writer, reader = client.do_exchange(path("Front", "onward"), said(bearer(who)))
        with writer:
            writer.begin(ROWS.schema)
            writer.write_batch(ROWS)
            return reader.read_chunk().data

    assert call("root") == ROWS
    with pytest.raises(
        flight.FlightUnauthorizedError, match=r"use may not call Hidden\.deed, which Front\.onward calls"
    ):
        call("use")


# ---- limits, and who is revoked meanwhile


def test_a_long_stream_of_who_is_revoked_ends_with_its_next_request(served: Served, client: Any) -> None:
    writer, reader = client.do_exchange(path("Front", "plain"), said(bearer("ann")))
    writer.begin(ROWS.schema)
    for _ in range(3):
        writer.write_batch(ROWS)
        assert reader.read_chunk().data == ROWS
    served.access.revoke("ann")
    try:
        writer.write_batch(ROWS)
        with pytest.raises(flight.FlightUnauthenticatedError):
            reader.read_chunk()
        with pytest.raises(flight.FlightUnauthenticatedError):
            writer.close()
    finally:
        served.access.restore("ann")
    visits = [visit for visit in served.access.book if visit.principal == "ann" and visit.what == "Front.plain"]
    assert visits and visits[-1].ends == [(0, 2)]


def test_a_query_is_let_in_and_ends_once_whatever_becomes_of_it(served: Served, client: Any) -> None:
    options, before = said(bearer("slow")), len(served.access.book)
    many = command(pb.CommandStatementQuery(query="SELECT range AS n FROM range(3000000)"))
    held = client.get_flight_info(many, options).endpoints[0].ticket
    reader = client.do_get(held, options)
    reader.read_chunk()
    # One may be in flight.
    with pytest.raises(flight.FlightUnavailableError, match="in flight"):
        client.do_get(client.get_flight_info(command(SELECT), options).endpoints[0].ticket, options).read_all()
    reader.cancel()
    del reader
    eventually(lambda: all(visit.ends for visit in served.access.book), what="the query that was given up ended")
    small = client.get_flight_info(command(SELECT), options).endpoints[0].ticket
    assert client.do_get(small, options).read_all().num_rows == 1
    ends = [(visit.what, visit.ends) for visit in served.access.book[before:]]
    assert len(ends) == 2 and all(what == "sql" and len(each) == 1 for what, each in ends)
    assert ends[1][1] == [(0, 1)]


def test_a_warehouse_asked_by_its_own_methods_takes_no_longer_than_a_query_may(client: Any) -> None:
    long = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range + b.range = 1"
    writer, reader = client.do_exchange(path("lake", "query"), said(bearer("brief")))
    asked = request_row(long, b"")
    writer.begin(asked.schema)
    writer.write_batch(asked)
    # Not the client's own patience.
    with pytest.raises(flight.FlightTimedOutError, match="the deadline passed"):
        reader.read_chunk()
    with pytest.raises(flight.FlightTimedOutError):
        writer.close()


def test_a_query_that_nobody_begins_to_read_ends(served: Served) -> None:
    assert served.frontend._server is not None
    sql = served.frontend._server.sql
    visit = served.access.begin(served.access.recognise(bearer("root")), "sql", "unread")
    meta = RequestMeta(monotonic_ns() + 20 * NS_PER_S, caller=served.access.recognise(bearer("root")).caller)
    ticket = sql.tickets.query(Statement("lake", "SELECT range AS n FROM range(3000000)"), "root")
    stream = sql.queries.stream(ticket, meta, lambda: False, lambda: visit)
    assert not visit.ends
    del stream
    assert visit.ends == [(Cancelled.code, 0)] and sql.queries.running == 0


# ---- ADBC


def test_adbc_with_a_name_and_a_password_or_a_header(served: Served) -> None:
    named = {"username": "ann", "password": PASSWORD}
    headed = {"adbc.flight.sql.authorization_header": bearer("ann")}
    for options in (named, headed):
        with adbc.connect(served.address, db_kwargs=options, autocommit=True) as made, made.cursor() as cursor:
            cursor.execute("SELECT count(*) AS n FROM people WHERE id > ?", parameters=[2])
            assert cursor.fetchall() == [(4,)]
            objects = made.adbc_get_objects(depth="tables").read_all().to_pylist()
            schemas = [schema for catalog in objects for schema in catalog["catalog_db_schemas"]]
            tables = [table["table_name"] for schema in schemas for table in schema["db_schema_tables"]]
            assert tables == ["people"]
            with pytest.raises(adbc_driver_manager.Error, match="does not exist"):
                cursor.execute("SELECT * FROM secret")
    for options in ({}, {"username": "ann", "password": "wrong"}, {"username": "rev", "password": PASSWORD}):
        with pytest.raises(adbc_driver_manager.Error) as refused:
            with adbc.connect(served.address, db_kwargs=options, autocommit=True) as made, made.cursor() as cursor:
                cursor.execute("SELECT 1")
        assert refused.value.status_code == adbc_driver_manager.AdbcStatusCode.UNAUTHENTICATED
